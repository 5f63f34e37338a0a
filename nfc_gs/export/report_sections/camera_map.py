"""The cameras from above, colored by how well their views are rendered."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

import numpy as np
import torch

from nfc_gs.core import colormap
from nfc_gs.core.sh import sh0_to_rgb
from nfc_gs.data.normalize import camera_layout
from nfc_gs.data.scene import SceneData
from nfc_gs.export.report_files import RunFiles, as_mapping, as_number
from nfc_gs.export.report_pictures import Picture, png
from nfc_gs.export.report_sections.section import Section, fixed, section_of
from nfc_gs.model.gaussians import GaussianModel

WIDTH, LEAST_HEIGHT, MOST_HEIGHT, MARGIN = 640, 300, 460, 44
"""Of the drawing, in its own units."""

WEDGE = 24.0
"""Length of a camera's viewing direction where it looks along the ground."""

MOST_CAMERAS = 600
"""Training cameras that are drawn; of more, an even selection."""

POINTS = 20_000
"""Gaussians that are drawn faintly below the cameras, at most."""

VISIBLE = 0.3
"""Opacity from which on a Gaussian is drawn."""

COLORS = "viridis"


@dataclass(frozen=True)
class Station:
    """Views from one place in one direction: one mark on the map.

    Attributes:
        views: their indices in the scene.
        held_out: whether they are.
        psnr: dB, mean of those known; None where none is.
        position, direction: [2] on the ground, the direction shorter where the camera looks up or down.
        spread: half of the horizontal field of view, radians.
    """

    views: tuple[int, ...]
    held_out: bool
    psnr: float | None
    position: np.ndarray
    direction: np.ndarray
    spread: float


def section(run: RunFiles) -> Section:
    """The map; empty without a checkpoint, which has the cameras."""
    if run.checkpoint is None:
        return Section()
    scene = run.checkpoint.scene
    ground = ground_axes(scene)
    stations = _stations(run, scene, ground)
    gaussians = _gaussians(run, ground)
    frame = Frame.around(stations, None if gaussians is None else gaussians[0])
    known = [station.psnr for station in stations if station.psnr is not None]
    low, high = (min(known), max(known)) if known else (0.0, 1.0)
    marks = "".join(_mark(number, each, scene, frame, (low, high)) for number, each in enumerate(stations))
    picture = "" if gaussians is None else _below(*gaussians, frame)
    drawing = (
        f'<svg id="map" viewBox="0 0 {WIDTH} {frame.height:.0f}" role="group" '
        f'aria-label="Map of {len(stations)} cameras from above; arrow keys go from one to the next">'
        f"{picture}{marks}</svg>"
    )
    body = f'<div class="map card">{drawing}<div class="words">{_legend(stations, low, high)}</div></div>'
    return Section(section_of("map", "Cameras", body), _data(run, scene, stations))


def ground_axes(scene: SceneData) -> np.ndarray:
    """[2, 3] directions to the right and up on the map, which is seen from above; up is where most cameras look."""
    viewmats = _viewmats(scene)
    up = camera_layout(viewmats, scene.points.xyz).up
    forward = viewmats[:, 2, :3].mean(axis=0)
    north = forward - (forward @ up) * up
    if np.linalg.norm(north) < 0.2:  # they look in all directions
        axis = np.eye(3)[1 if abs(up[1]) < 0.9 else 0]
        north = axis - (axis @ up) * up
    north /= np.linalg.norm(north)
    return np.stack([np.cross(north, up), north])


def _viewmats(scene: SceneData) -> np.ndarray:
    return torch.stack([view.camera.viewmat for view in scene.views]).double().numpy()  # [V, 4, 4]


def _stations(run: RunFiles, scene: SceneData, ground: np.ndarray) -> list[Station]:
    """Marks of training cameras, then of held-out ones, which are drawn above them."""
    tested = {view.name: view.psnr for view in run.views}
    trained = {str(name): as_number(psnr) for name, psnr in as_mapping(run.state.get("view_psnr")).items()}
    step = max(1, -(-len(scene.train) // MOST_CAMERAS))
    stations = []
    for indices, held_out, psnrs in ((scene.train[::step], False, trained), (scene.test, True, tested)):
        places: dict[tuple[float, ...], list[int]] = {}
        for index in indices:
            camera = scene.views[index].camera
            pose = torch.cat([camera.center / scene.extent, camera.viewmat[2, :3]])
            places.setdefault(tuple(round(value, 3) + 0.0 for value in pose.tolist()), []).append(index)
        for views in places.values():
            camera = scene.views[views[0]].camera
            known = [psnr for psnr in (psnrs.get(scene.views[i].name) for i in views) if psnr is not None]
            stations.append(
                Station(
                    views=tuple(views),
                    held_out=held_out,
                    psnr=float(np.mean(known)) if known else None,
                    position=ground @ camera.center.double().numpy(),
                    direction=ground @ camera.viewmat[2, :3].double().numpy(),
                    spread=float(np.arctan2(camera.width / 2, camera.fx)),
                )
            )
    return stations


def _gaussians(run: RunFiles, ground: np.ndarray) -> tuple[np.ndarray, np.ndarray] | None:
    """Places [P, 2] on the ground and colors [P, 3] in [0, 1] of some Gaussians that are seen; None without any."""
    model = run.model
    if not isinstance(model, GaussianModel):
        return None
    with torch.no_grad():
        seen = ((model.opacities > VISIBLE) & model.means.isfinite().all(dim=1)).nonzero().squeeze(1)
        if len(seen) == 0:
            return None
        picked = torch.zeros(len(model), dtype=torch.bool)
        picked[seen[:: -(-len(seen) // POINTS)]] = True
        some = GaussianModel({name: tensor[picked] for name, tensor in model.tensors().items()}).baked(0)
        assert some.sh_coeffs is not None
        colors = sh0_to_rgb(some.sh_coeffs[:, 0]).clamp(0.0, 1.0)
    return some.means.detach().double().numpy() @ ground.T, colors.numpy()


@dataclass(frozen=True)
class Frame:
    """From places on the ground to places in the drawing.

    Attributes:
        middle: [2] on the ground.
        scale: units of the drawing per unit of the scene.
        height: of the drawing.
    """

    middle: np.ndarray
    scale: float
    height: float

    @staticmethod
    def around(stations: Sequence[Station], places: np.ndarray | None) -> Frame:
        """A frame with all cameras, and the middle half of the places [P, 2] unless it is much larger than them."""
        positions = np.stack([station.position for station in stations])
        low, high = positions.min(axis=0), positions.max(axis=0)
        if places is not None:
            reach, middle = 1.5 * max((high - low).max(), 1e-9), (low + high) / 2
            quartiles = np.clip(np.percentile(places, [25, 75], axis=0), middle - reach, middle + reach)
            low, high = np.minimum(low, quartiles[0]), np.maximum(high, quartiles[1])
        width, depth = np.maximum(high - low, 1e-9 * max(1.0, float(np.abs(high).max())))
        scale = min((WIDTH - 2 * MARGIN) / width, (MOST_HEIGHT - 2 * MARGIN) / depth)
        height = max(LEAST_HEIGHT, depth * scale + 2 * MARGIN)
        return Frame((low + high) / 2, float(scale), float(height))

    def at(self, places: np.ndarray) -> np.ndarray:
        """Places [..., 2] in the drawing."""
        return (places - self.middle) * self.scale * [1.0, -1.0] + [WIDTH / 2, self.height / 2]


def _below(places: np.ndarray, colors: np.ndarray, frame: Frame) -> str:
    """The Gaussians as a picture: a pixel has their mean color, and is the more opaque the more lie there."""
    width, height = WIDTH // 2, round(frame.height / 2)
    columns, rows = np.floor(frame.at(places) / 2).astype(np.int64).T
    inside = (columns >= 0) & (columns < width) & (rows >= 0) & (rows < height)
    pixels = rows[inside] * width + columns[inside]
    count = np.bincount(pixels, minlength=width * height)
    sums = np.stack([np.bincount(pixels, colors[inside, c], minlength=width * height) for c in range(3)], axis=1)
    rgba = np.concatenate([sums / np.maximum(count, 1)[:, None], 0.75 * (1 - np.exp(-0.9 * count))[:, None]], axis=1)
    picture: Picture = png((255 * rgba).round().astype(np.uint8).reshape(height, width, 4))
    return f'<image href="{picture.uri}" width="{WIDTH}" height="{frame.height:.0f}" preserveAspectRatio="none"/>'


def _mark(number: int, station: Station, scene: SceneData, frame: Frame, span: tuple[float, float]) -> str:
    x, y = frame.at(station.position)
    dx, dy = station.direction * [1.0, -1.0]
    length, heading = WEDGE * max(0.45, float(np.hypot(dx, dy))), float(np.arctan2(dy, dx))
    spread = min(max(station.spread, 0.2), 0.6)
    corners = [
        (x + length * np.cos(heading + side) / np.cos(spread), y + length * np.sin(heading + side) / np.cos(spread))
        for side in (-spread, spread)
    ]
    wedge = f"M{x:.1f} {y:.1f}" + "".join(f"L{cx:.1f} {cy:.1f}" for cx, cy in corners) + "Z"
    color = _color(station.psnr, span)
    words = escape(_in_words(station, scene))
    return (
        f'<g class="camera {"test" if station.held_out else "train"}" data-camera="{number}" role="button" '
        f'aria-label="{words}" style="--color:{color}"><title>{words}</title>'
        f'<path d="{wedge}"/><circle cx="{x:.1f}" cy="{y:.1f}" r="{6.5 if station.held_out else 4}"/></g>'
    )


def _color(psnr: float | None, span: tuple[float, float]) -> str:
    if psnr is None:
        return "var(--unknown)"
    low, high = span
    value = torch.tensor((psnr - low) / max(high - low, 1e-9))
    return "#" + "".join(f"{round(255 * channel):02x}" for channel in colormap.apply(value, COLORS).tolist())


def _in_words(station: Station, scene: SceneData) -> str:
    name = scene.views[station.views[0]].name
    more = f" and {len(station.views) - 1} more" if len(station.views) > 1 else ""
    kind = "held out" if station.held_out else "trained on"
    return f"{name}{more}, {kind}" + ("" if station.psnr is None else f", {fixed(station.psnr, 2)} dB")


def _legend(stations: Sequence[Station], low: float, high: float) -> str:
    held_out = sum(len(station.views) for station in stations if station.held_out)
    gradient = f"linear-gradient(90deg, {', '.join(colormap.gradient(COLORS))})"
    known = any(station.psnr is not None for station in stations)
    scale = f'<p class="scale">{low:.1f}<i style="background:{gradient}"></i>{high:.1f}&nbsp;dB</p>'
    kinds = "All views were trained on"
    if held_out:
        kinds = "Large marks are held-out views, which a click or tap shows below; small ones were trained on"
    return (
        f'<p id="map-readout" aria-live="polite">&nbsp;</p>{scale if known and low < high else ""}'
        f"<p>The cameras from above, and faintly the scene. {kinds}"
        + (", with the PSNR that they had when a step last rendered them.</p>" if known else ".</p>")
    )


def _data(run: RunFiles, scene: SceneData, stations: Sequence[Station]) -> list[dict[str, Any]]:
    """For each mark its words, and which of the shown views belong to it."""
    places = {view.name: place for place, view in enumerate(run.shown)}
    return [
        {
            "words": _in_words(station, scene),
            "views": [places[name] for name in (scene.views[i].name for i in station.views) if name in places],
        }
        for station in stations
    ]
