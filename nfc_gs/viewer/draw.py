"""From a model, a camera and display settings to a picture: pure functions over one call of the renderer."""

from __future__ import annotations

import math
from collections.abc import Generator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from nfc_gs.core import colormap
from nfc_gs.core.camera import Camera
from nfc_gs.core.colormap import ERROR_FULL, ERROR_MAP
from nfc_gs.core.constants import BITS, BLUR
from nfc_gs.model.gaussians import GaussianModel
from nfc_gs.model.radiance import Output, RadianceModel, RenderOptions, RenderOutput
from nfc_gs.rendering.normals import normal_colors
from nfc_gs.runs.families import render
from nfc_gs.viewer.state import DisplaySettings, Show

COUNT_OPACITY = 0.02
"""Opacity of every Gaussian while they are counted: faint enough for 460 of them before a pixel is opaque."""

COUNT_FULL = 200.0
"""Gaussians over a pixel that have the last color of the map."""

FAR = 1e4
"""Depth of what the model does not cover, scene units."""

POINT_LOG_SCALE = -20.0
"""Gaussians of this size are points: the blur of the renderer makes them about a pixel wide."""

BLACK = (0.0, 0.0, 0.0)

PLAIN = RenderOptions()


@dataclass(frozen=True)
class Picture:
    """A drawn picture.

    Attributes:
        rgb: [H, W, 3] uint8.
        depth: [H, W] float32 along the camera's z axis, scene units, `FAR` where nothing is; None if not measured.
        depth_range: depths, scene units, with the first and the last color; None where colors are not depths.
    """

    rgb: np.ndarray
    depth: np.ndarray | None
    depth_range: tuple[float, float] | None = None


@dataclass(frozen=True)
class Photo:
    """A picture of the capture and the camera that took it.

    Attributes:
        rgb: [H, W, 3] uint8.
    """

    camera: Camera
    rgb: np.ndarray


PictureSteps = Generator[None, None, Picture]
"""A picture that is drawn in steps: each `next` draws a part of it, and the generator returns the whole."""


def render_view(
    model: RadianceModel,
    camera: Camera,
    time: float | None,
    options: RenderOptions,
    outputs: tuple[Output, ...],
    sh_degree: int,
) -> RenderOutput:
    """The one call of a renderer that the viewer makes; `sh_degree` is for Gaussians.

    Raises:
        UserError: the backend does not work here, or the model cannot give one of the outputs.
    """
    further = {"sh_degree": sh_degree} if isinstance(model, GaussianModel) else {}
    return render(model, camera, time, options, outputs, **further)


@torch.no_grad()
def prepared(model: GaussianModel, time: float | None, settings: DisplaySettings) -> GaussianModel:
    """The static model that is drawn: at a time, edited, scaled; the model itself if none of that applies."""
    still = settings.edit.applied(model.at(time) if model.deformation is not None else model)
    changes: dict[str, Tensor] = {}
    if settings.points:
        changes["log_scales"] = torch.full_like(still.log_scales, POINT_LOG_SCALE)
        changes["opacity_logits"] = torch.full_like(still.opacity_logits, 10.0)
    elif settings.splat_scale != 1.0:
        changes["log_scales"] = still.log_scales + math.log(max(settings.splat_scale, 1e-6))
    if settings.show == "count":
        changes["opacity_logits"] = torch.full_like(still.opacity_logits, math.log(COUNT_OPACITY / (1 - COUNT_OPACITY)))
    return GaussianModel(still.tensors() | changes) if changes else still


@torch.no_grad()
def draw(
    model: RadianceModel,
    camera: Camera,
    settings: DisplaySettings,
    options: RenderOptions = PLAIN,
    *,
    time: float | None = None,
    photo: Photo | None = None,
    samples: int = 1,
    depth: bool = True,
) -> Picture:
    """Draw a model. Gaussians come from `prepared`, which has applied the time and what `settings` change of them.

    Args:
        options: backend and antialiasing; the background is that of `settings`.
        time: 0..1, of a model that changes with time.
        photo: what "error" compares with; without one the color is shown.
        samples: draw this many times as wide and high and average.
        depth: measure depths, too.

    Raises:
        UserError: the backend does not work here, or the model has no bits to show.
    """
    if settings.show == "error" and photo is None:
        settings = replace(settings, show="color")
    drawn = camera if samples == 1 else camera.resized(camera.width * samples, camera.height * samples)
    if settings.show == "bits":
        drawn = camera.resized(max(1, camera.width // 3), max(1, camera.height // 3))
    options = replace(
        options,
        background=settings.background if settings.show in ("color", "error") else BLACK,
        antialiased=options.antialiased and not settings.points,
    )
    if settings.points and isinstance(model, GaussianModel):
        model = sized_points(model, drawn, settings.point_size * samples)
    out = render_view(model, drawn, time, options, _outputs(settings.show, depth), settings.sh_degree)
    if settings.show == "depth" and settings.depth_range is None:
        settings = replace(settings, depth_range=_percentiles(_depth(out)))
    rgb = _colored(out, drawn, settings, photo)
    depths = _depth(out) if depth else None
    if settings.show == "bits":
        rgb = _centered(rgb, camera.width, camera.height)
        depths = torch.full((camera.height, camera.width), FAR) if depth else None
    elif samples > 1:
        rgb = functional.avg_pool2d(rgb.permute(2, 0, 1), samples).permute(1, 2, 0)
        depths = depths[samples // 2 :: samples, samples // 2 :: samples] if depths is not None else None
    pixels = rgb.clamp(0.0, 1.0).mul_(255.0).round_().to(torch.uint8)
    depth_range = settings.depth_range if settings.show == "depth" else None
    return Picture(pixels.cpu().numpy(), None if depths is None else depths.cpu().numpy(), depth_range)


@torch.no_grad()
def sized_points(model: GaussianModel, camera: Camera, size: float) -> GaussianModel:
    """Round Gaussians that are seen as dots of a diameter of `size` pixels, and at least of 1.3, as all are blurred.

    The diameter is where half of the opacity is left, 2.355 standard deviations.
    """
    depth = model.means @ camera.viewmat[2, :3].to(model.means) + camera.viewmat[2, 3].to(model.means)
    sigma = math.sqrt(max((size / 2.355) ** 2 - BLUR, 1e-12))  # pixels
    log_scales = (depth.clamp(min=1e-6) * (sigma / camera.fy)).log().clamp(min=POINT_LOG_SCALE)
    return GaussianModel(model.tensors() | {"log_scales": log_scales[:, None].expand(-1, 3)})


@torch.no_grad()
def value_at(
    model: RadianceModel,
    camera: Camera,
    settings: DisplaySettings,
    options: RenderOptions,
    *,
    time: float | None,
    photo: Photo | None,
) -> float | None:
    """The number behind the color of a pixel: depth (scene units), count, error (0..1) or entropy.

    The camera is that of the pixel alone. None where the settings show something else, and where there is no number:
    nothing is there, or no photo.
    """
    options = replace(options, background=settings.background if settings.show == "error" else BLACK)
    if settings.points and isinstance(model, GaussianModel):
        model = sized_points(model, camera, settings.point_size)
    out = render_view(model, camera, time, options, _outputs(settings.show, False), settings.sh_degree)
    if settings.show == "depth":
        depth = float(_depth(out)[0, 0])
        return depth if depth < FAR else None
    if settings.show == "count":
        return float(count_gaussians(out.alpha[..., 0])[0, 0])
    if settings.show == "error" and photo is not None:
        difference, covered = _errors(out, camera, photo)
        return float(difference[0, 0]) if covered[0, 0] else None
    if settings.show == "entropy" and out.bit_entropy is not None:
        return float(out.bit_entropy[0, 0, 0])
    return None


def draw_tiled(
    model: RadianceModel,
    camera: Camera,
    settings: DisplaySettings,
    options: RenderOptions = PLAIN,
    *,
    time: float | None = None,
    photo: Photo | None = None,
    samples: int = 1,
    depth: bool = True,
    tile: int | None = 1024,
) -> PictureSteps:
    """`draw` of any size in tiles of `tile` x `tile` pixels: yields after each, and returns the same picture.

    What depends on the whole picture (the range of depths) is taken from a small one first. A picture that is no larger
    than a tile, or any without a `tile`, is drawn in one step.
    """
    if settings.show == "bits" and tile is not None and camera.width * camera.height > (3 * tile) ** 2:
        return (yield from _draw_bits_tiled(model, camera, settings, options, time=time, depth=depth, tile=tile))
    if settings.show == "bits" or tile is None or (camera.width <= tile and camera.height <= tile):
        return draw(model, camera, settings, options, time=time, photo=photo, samples=samples, depth=depth)
    if settings.show == "depth" and settings.depth_range is None:
        settings = replace(settings, depth_range=depth_range_of(model, camera, settings, options, time=time, side=512))
    picture = np.empty((camera.height, camera.width, 3), np.uint8)
    depths = np.empty((camera.height, camera.width), np.float32) if depth else None
    for top in range(0, camera.height, tile):
        for left in range(0, camera.width, tile):
            part = camera.crop(left, top, min(tile, camera.width - left), min(tile, camera.height - top))
            drawn = draw(model, part, settings, options, time=time, photo=photo, samples=samples, depth=depth)
            place = slice(top, top + part.height), slice(left, left + part.width)
            picture[place] = drawn.rgb
            if depths is not None and drawn.depth is not None:
                depths[place] = drawn.depth
            yield
    return Picture(picture, depths, settings.depth_range if settings.show == "depth" else None)


def _draw_bits_tiled(
    model: RadianceModel,
    camera: Camera,
    settings: DisplaySettings,
    options: RenderOptions,
    *,
    time: float | None,
    depth: bool,
    tile: int,
) -> PictureSteps:
    """The picture of "bits" in tiles: one plane after the other, as all of them together need much memory.

    The color is decoded before it is blended instead of afterwards, which is the same but for rounding.
    """
    small = camera.resized(camera.width // 3, camera.height // 3)
    cells = [replace(settings, show="bit", bit=bit) for bit in range(BITS)]
    cells.append(replace(settings, show="color", background=BLACK))
    picture = np.zeros((camera.height, camera.width, 3), np.uint8)
    for index, shown in enumerate(cells):
        cell = yield from draw_tiled(model, small, shown, options, time=time, depth=False, tile=tile)
        top = camera.height % 3 // 2 + index // 3 * small.height
        left = camera.width % 3 // 2 + index % 3 * small.width
        picture[top : top + small.height, left : left + small.width] = cell.rgb
    return Picture(picture, np.full(picture.shape[:2], FAR, np.float32) if depth else None)


def depth_range_of(
    model: RadianceModel,
    camera: Camera,
    settings: DisplaySettings,
    options: RenderOptions,
    *,
    time: float | None = None,
    side: int,
) -> tuple[float, float]:
    """The depths with the first and the last color of a picture, from a small one of at most `side` pixels a side."""
    shrink = min(1.0, side / max(camera.width, camera.height))
    small = camera.resized(max(1, round(camera.width * shrink)), max(1, round(camera.height * shrink)))
    depth = draw(model, small, replace(settings, show="alpha"), options, time=time).depth
    assert depth is not None
    return _percentiles(torch.from_numpy(depth))


def side_by_side(parts: Sequence[np.ndarray]) -> np.ndarray:
    """Pictures [H, W_i, 3] uint8 from left to right, with a white line between them."""
    joined = np.concatenate(parts, axis=1)
    for border in np.cumsum([part.shape[1] for part in parts])[:-1]:
        joined[:, max(0, border - 1) : border + 1] = 255
    return joined


def _outputs(show: Show, depth: bool) -> tuple[Output, ...]:
    outputs: tuple[Output, ...] = ("rgb", "depth") if depth or show == "depth" else ("rgb",)
    if show == "normals":
        return (*outputs, "normals")
    if show in ("bit", "bits"):
        return (*outputs, "bits")
    return (*outputs, "bit_entropy") if show == "entropy" else outputs


def _depth(out: RenderOutput) -> Tensor:
    """[H, W] depths; `FAR` where less than half of a pixel is covered."""
    assert out.depth is not None
    return torch.where(out.alpha > 0.5, out.depth, out.depth.new_tensor(FAR))[..., 0]


def _colored(out: RenderOutput, camera: Camera, settings: DisplaySettings, photo: Photo | None) -> Tensor:
    """[H, W, 3] colors of what the settings show of a rendering."""
    if settings.show == "alpha":
        return out.alpha.expand(-1, -1, 3)
    if settings.show == "depth":
        depth = _depth(out)
        near, far = settings.depth_range or (0.0, 1.0)
        return colormap.apply((depth - near) / max(far - near, 1e-9), settings.colormap) * out.alpha
    if settings.show == "normals":
        assert out.normals is not None
        return normal_colors(out.normals, camera) * out.alpha
    if settings.show == "count":
        return colormap.apply(count_gaussians(out.alpha[..., 0]) / COUNT_FULL, settings.colormap)
    if settings.show == "error" and photo is not None:
        difference, covered = _errors(out, camera, photo)
        return colormap.apply(difference / ERROR_FULL, ERROR_MAP) * covered[..., None]
    if settings.show in ("bit", "bits"):
        assert out.bits is not None
        planes = out.bits[..., settings.channel * BITS : (settings.channel + 1) * BITS]
        if settings.show == "bit":
            return planes[..., settings.bit, None].expand(-1, -1, 3)
        cells = [planes[..., i, None].expand(-1, -1, 3) for i in range(BITS)] + [out.rgb]
        return torch.cat([torch.cat(cells[row : row + 3], dim=1) for row in (0, 3, 6)], dim=0)
    if settings.show == "entropy":
        assert out.bit_entropy is not None
        return colormap.apply(out.bit_entropy[..., 0], settings.colormap)
    return out.rgb


def _errors(out: RenderOutput, camera: Camera, photo: Photo) -> tuple[Tensor, Tensor]:
    """Mean absolute difference [H, W] of the colors from a photo, 0..1, and bool [H, W] where the photo has a pixel."""
    truth, covered = (tensor.to(out.rgb.device) for tensor in reproject(photo, camera))
    return (out.rgb.clamp(0, 1) - truth).abs().mean(-1), covered


def count_gaussians(alpha: Tensor) -> Tensor:
    """How many Gaussians cover a pixel, from the coverage [H, W] of Gaussians that all have `COUNT_OPACITY`."""
    return torch.log1p(-alpha.clamp(max=1 - 1e-6)) / math.log1p(-COUNT_OPACITY)


def reproject(photo: Photo, camera: Camera) -> tuple[Tensor, Tensor]:
    """A photo as another camera in the same place sees it: colors [H, W, 3] in [0, 1], and bool [H, W] where it does.

    Both cameras only turn and zoom, so a pixel of one is a pixel of the other whatever the depth. From another place
    the result is that of a photo pasted on the sky.
    """
    own = photo.camera.to("cpu", torch.float32)
    view, frame = camera.to("cpu", torch.float32), camera.frame
    x = (torch.arange(frame.left, frame.left + camera.width) + 0.5 - frame.cx) / camera.fx
    y = (torch.arange(frame.top, frame.top + camera.height) + 0.5 - frame.cy) / camera.fy
    rays = torch.stack([x.expand(camera.height, -1), y[:, None].expand(-1, camera.width), torch.ones(1, 1).expand(
        camera.height, camera.width)], dim=-1)  # fmt: skip
    rays = rays @ (own.viewmat[:3, :3] @ view.viewmat[:3, :3].T).T
    z = rays[..., 2].clamp(min=1e-6)
    u = (rays[..., 0] / z * own.fx + own.cx) / own.width * 2 - 1
    v = (rays[..., 1] / z * own.fy + own.cy) / own.height * 2 - 1
    inside = (rays[..., 2] > 1e-6) & (u.abs() <= 1) & (v.abs() <= 1)
    image = torch.from_numpy(photo.rgb).permute(2, 0, 1)[None].float() / 255.0
    colors = functional.grid_sample(image, torch.stack([u, v], -1)[None], padding_mode="border", align_corners=False)
    return colors[0].permute(1, 2, 0) * inside[..., None], inside


def _percentiles(depth: Tensor) -> tuple[float, float]:
    """The 1st and 99th percentile of the depths below `FAR`; (0, 1) if there are none."""
    covered = depth[depth < FAR].flatten()
    if len(covered) == 0:
        return 0.0, 1.0
    covered = covered[:: max(1, len(covered) // 20_000)].sort().values
    return float(covered[len(covered) // 100]), float(covered[(len(covered) - 1) * 99 // 100])


def _centered(image: Tensor, width: int, height: int) -> Tensor:
    """The image [h, w, 3] in the middle of a black one of another size."""
    left, top = (width - image.shape[1]) // 2, (height - image.shape[0]) // 2
    right, bottom = width - image.shape[1] - left, height - image.shape[0] - top
    return functional.pad(image, (0, 0, left, right, top, bottom))
