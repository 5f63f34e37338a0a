"""From a model, a camera and a wish of what to show to a picture: pure functions over `rendering.pipeline.render`."""

from __future__ import annotations

import math
from collections.abc import Generator, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from nfc_gs.core import colormap
from nfc_gs.core.camera import Camera
from nfc_gs.core.colormap import ERROR_FULL, ERROR_MAP, MapName
from nfc_gs.core.constants import BITS
from nfc_gs.model.gaussians import GaussianModel
from nfc_gs.model.radiance import Output, RenderOutput
from nfc_gs.rendering.backend import RasterBackend
from nfc_gs.rendering.pipeline import render
from nfc_gs.viewer.edit import EVERYTHING, Edit

Show = Literal["color", "alpha", "depth", "normals", "count", "error", "bit", "bits", "entropy"]

SHOWS: tuple[Show, ...] = ("color", "alpha", "depth", "normals", "count", "error", "bit", "bits", "entropy")

BIT_SHOWS: tuple[Show, ...] = ("bit", "bits", "entropy")
"""What only models with a bit head can show."""

COUNT_OPACITY = 0.02
"""Opacity of every Gaussian while they are counted: faint enough for 460 of them before a pixel is opaque."""

COUNT_FULL = 200.0
"""Gaussians over a pixel that have the last color of the map."""

FAR = 1e4
"""Depth of what no Gaussian covers, scene units."""

POINT_LOG_SCALE = -20.0
"""Gaussians of this size are points: the blur of the renderer makes them about a pixel wide."""


@dataclass(frozen=True)
class Look:
    """What is to be seen of a model.

    Attributes:
        show: color; alpha; depth; normals (from depth, in the camera's frame); count (Gaussians over a pixel, each by
            its falloff); error (against a photo); bit (one plane), bits (all planes of a channel and the picture) and
            entropy (how undecided the bits are).
        background: color in [0, 1] behind the splats.
        sh_degree: view dependence up to this degree, 0..3.
        splat_scale: factor of the size of all Gaussians.
        points: a dot in the place of each Gaussian.
        colors: color map of depth, count and entropy.
        depth_range: depths (scene units) with the first and the last color; None for what is seen.
        channel, bit: of the planes: 0..2 for red, green, blue; 0..7, most significant first.
        edit: which Gaussians are left.
    """

    show: Show = "color"
    background: tuple[float, float, float] = (0.0, 0.0, 0.0)
    sh_degree: int = 3
    splat_scale: float = 1.0
    points: bool = False
    colors: MapName = "turbo"
    depth_range: tuple[float, float] | None = None
    channel: int = 0
    bit: int = 0
    edit: Edit = EVERYTHING


@dataclass(frozen=True)
class Style:
    """How a model is drawn whatever is shown of it.

    Attributes:
        backend: name or object, as `render` takes it.
        antialiased: Mip-Splatting's opacities; models trained with them need them.
    """

    backend: str | RasterBackend = "auto"
    antialiased: bool = False


@dataclass(frozen=True)
class Picture:
    """A drawn picture.

    Attributes:
        rgb: [H, W, 3] uint8.
        depth: [H, W] float32 along the camera's z axis, scene units, `FAR` where nothing is; None if not asked for.
    """

    rgb: np.ndarray
    depth: np.ndarray | None


@dataclass(frozen=True)
class Photo:
    """A picture of the capture and the camera that took it.

    Attributes:
        rgb: [H, W, 3] uint8.
    """

    camera: Camera
    rgb: np.ndarray


@torch.no_grad()
def prepared(model: GaussianModel, time: float | None, look: Look) -> GaussianModel:
    """The static model that is drawn: at a time, edited, scaled; the model itself if none of that applies."""
    still = look.edit.applied(model.at(time) if model.deformation is not None else model)
    changes: dict[str, Tensor] = {}
    if look.points:
        changes["log_scales"] = torch.full_like(still.log_scales, POINT_LOG_SCALE)
        changes["opacity_logits"] = torch.full_like(still.opacity_logits, 10.0)
    elif look.splat_scale != 1.0:
        changes["log_scales"] = still.log_scales + math.log(max(look.splat_scale, 1e-6))
    if look.show == "count":
        changes["opacity_logits"] = torch.full_like(still.opacity_logits, math.log(COUNT_OPACITY / (1 - COUNT_OPACITY)))
    return GaussianModel(still.tensors() | changes) if changes else still


@torch.no_grad()
def draw(
    model: GaussianModel,
    camera: Camera,
    look: Look,
    style: Style = Style(),
    *,
    photo: Photo | None = None,
    samples: int = 1,
    depth: bool = True,
) -> Picture:
    """Draw a model that `prepared` made.

    Args:
        photo: what "error" compares with; without it there is no error to see, and the color is shown.
        samples: draw this many times as wide and high and average.
        depth: measure depths, too.

    Raises:
        UserError: the backend does not work here, or bits are asked of a model that has none.
    """
    if look.show == "error" and photo is None:
        look = replace(look, show="color")
    drawn = camera if samples == 1 else camera.resized(camera.width * samples, camera.height * samples)
    if look.show == "bits":
        drawn = camera.resized(max(1, camera.width // 3), max(1, camera.height // 3))
    out = render(
        model,
        drawn,
        background=look.background if look.show in ("color", "error") else None,
        outputs=_outputs(look.show, depth),
        backend=style.backend,
        sh_degree=look.sh_degree,
        antialiased=style.antialiased and not look.points,
    )
    rgb = _shown(out, drawn, look, photo)
    depths = _depth(out) if depth else None
    if look.show == "bits":
        rgb = _fitted(rgb, camera.width, camera.height)
        depths = torch.full((camera.height, camera.width), FAR) if depth else None
    elif samples > 1:
        rgb = functional.avg_pool2d(rgb.permute(2, 0, 1), samples).permute(1, 2, 0)
        depths = depths[samples // 2 :: samples, samples // 2 :: samples] if depths is not None else None
    pixels = rgb.clamp(0.0, 1.0).mul_(255.0).round_().to(torch.uint8)
    return Picture(pixels.cpu().numpy(), None if depths is None else depths.cpu().numpy())


def draw_tiled(
    model: GaussianModel,
    camera: Camera,
    look: Look,
    style: Style = Style(),
    *,
    photo: Photo | None = None,
    samples: int = 1,
    depth: bool = True,
    tile: int | None = 1024,
) -> Generator[None, None, Picture]:
    """`draw` of any size in tiles of `tile` x `tile` pixels: yields after each, and returns the picture.

    What depends on the whole picture (the range of depths) is taken from a small one first. A picture that is no larger
    than a tile, or any without a `tile`, is drawn at once.
    """
    if look.show == "bits" and tile is not None and camera.width * camera.height > (3 * tile) ** 2:
        return (yield from _sheet(model, camera, look, style, depth=depth, tile=tile))
    if look.show == "bits" or tile is None or (camera.width <= tile and camera.height <= tile):
        return draw(model, camera, look, style, photo=photo, samples=samples, depth=depth)
    if look.show == "depth" and look.depth_range is None:
        look = replace(look, depth_range=depths_seen(model, camera, look, style, side=512))
    picture = np.empty((camera.height, camera.width, 3), np.uint8)
    depths = np.empty((camera.height, camera.width), np.float32) if depth else None
    margin = min(64, tile // 4)  # splats at the edge of a tile are linearised as in the whole picture
    for top in range(0, camera.height, tile):
        for left in range(0, camera.width, tile):
            bottom, right = min(top + tile, camera.height), min(left + tile, camera.width)
            y, x = max(0, top - margin), max(0, left - margin)
            part = cut(camera, x, y, min(right + margin, camera.width) - x, min(bottom + margin, camera.height) - y)
            drawn = draw(model, part, look, style, photo=photo, samples=samples, depth=depth)
            inner = slice(top - y, bottom - y), slice(left - x, right - x)
            picture[top:bottom, left:right] = drawn.rgb[inner]
            if depths is not None and drawn.depth is not None:
                depths[top:bottom, left:right] = drawn.depth[inner]
            yield
    return Picture(picture, depths)


def _sheet(
    model: GaussianModel, camera: Camera, look: Look, style: Style, *, depth: bool, tile: int
) -> Generator[None, None, Picture]:
    """The picture of "bits" in tiles: one plane after the other, as all of them at once need much memory."""
    small = camera.resized(camera.width // 3, camera.height // 3)
    planes = [replace(look, show="bit", bit=bit) for bit in range(BITS)]
    picture = np.zeros((camera.height, camera.width, 3), np.uint8)
    for index, shown in enumerate([*planes, replace(look, show="color", background=(0.0, 0.0, 0.0))]):
        cell = yield from draw_tiled(model, small, shown, style, depth=False, tile=tile)
        top = camera.height % 3 // 2 + index // 3 * small.height
        left = camera.width % 3 // 2 + index % 3 * small.width
        picture[top : top + small.height, left : left + small.width] = cell.rgb
    return Picture(picture, np.full(picture.shape[:2], FAR, np.float32) if depth else None)


def depths_seen(model: GaussianModel, camera: Camera, look: Look, style: Style, *, side: int) -> tuple[float, float]:
    """The range of depths that a picture takes by itself, from a small one whose longest side is `side` pixels."""
    shrink = min(1.0, side / max(camera.width, camera.height))
    small = camera.resized(max(1, round(camera.width * shrink)), max(1, round(camera.height * shrink)))
    seen = draw(model, small, replace(look, show="alpha"), style).depth
    assert seen is not None
    return _range(torch.from_numpy(seen))


def cut(camera: Camera, left: int, top: int, width: int, height: int) -> Camera:
    """The camera of a part of the picture."""
    return replace(camera, cx=camera.cx - left, cy=camera.cy - top, width=width, height=height)


def beside(parts: Sequence[np.ndarray]) -> np.ndarray:
    """Pictures [H, W_i, 3] uint8 from left to right, with a white line between them."""
    joined = np.concatenate(parts, axis=1)
    for border in np.cumsum([part.shape[1] for part in parts])[:-1]:
        joined[:, max(0, border - 1) : border + 1] = 255
    return joined


def _outputs(show: Show, depth: bool) -> tuple[Output, ...]:
    outputs: tuple[Output, ...] = ("rgb", "depth") if depth or show in ("depth", "normals") else ("rgb",)
    if show in ("bit", "bits"):
        return (*outputs, "bits")
    return (*outputs, "bit_entropy") if show == "entropy" else outputs


def _depth(out: RenderOutput) -> Tensor:
    """[H, W]; what is hardly covered is far away."""
    assert out.depth is not None
    return torch.where(out.alpha > 0.5, out.depth, out.depth.new_tensor(FAR))[..., 0]


def _shown(out: RenderOutput, camera: Camera, look: Look, photo: Photo | None) -> Tensor:
    """[H, W, 3] what a look shows of a rendering."""
    if look.show == "alpha":
        return out.alpha.expand(-1, -1, 3)
    if look.show == "depth":
        depth = _depth(out)
        near, far = look.depth_range or _range(depth)
        return colormap.apply((depth - near) / max(far - near, 1e-9), look.colors) * out.alpha
    if look.show == "normals":
        return normals_of(_depth(out), camera) * out.alpha
    if look.show == "count":
        return colormap.apply(counts_of(out.alpha[..., 0]) / COUNT_FULL, look.colors)
    if look.show == "error" and photo is not None:
        truth, covered = (tensor.to(out.rgb.device) for tensor in seen_from(photo, camera))
        difference = (out.rgb.clamp(0, 1) - truth).abs().mean(-1)
        return colormap.apply(difference / ERROR_FULL, ERROR_MAP) * covered[..., None]
    if look.show in ("bit", "bits"):
        assert out.bits is not None
        planes = out.bits[..., look.channel * BITS : (look.channel + 1) * BITS]
        if look.show == "bit":
            return planes[..., look.bit, None].expand(-1, -1, 3)
        cells = [planes[..., i, None].expand(-1, -1, 3) for i in range(BITS)] + [out.rgb]
        return torch.cat([torch.cat(cells[row : row + 3], dim=1) for row in (0, 3, 6)], dim=0)
    if look.show == "entropy":
        assert out.bit_entropy is not None
        return colormap.apply(out.bit_entropy[..., 0], look.colors)
    return out.rgb


def counts_of(alpha: Tensor) -> Tensor:
    """How many Gaussians lie over a pixel, from the coverage [H, W] of Gaussians that all have `COUNT_OPACITY`."""
    return torch.log1p(-alpha.clamp(max=1 - 1e-6)) / math.log1p(-COUNT_OPACITY)


def normals_of(depth: Tensor, camera: Camera) -> Tensor:
    """Normals [H, W, 3] as colors in [0, 1]: x to the right, y up, z towards the camera, each from -1 to 1."""
    height, width = depth.shape
    if height < 3 or width < 3:
        return depth.new_zeros(height, width, 3)
    x = (torch.arange(width, device=depth.device) + 0.5 - camera.cx) / camera.fx
    y = (torch.arange(height, device=depth.device) + 0.5 - camera.cy) / camera.fy
    points = torch.stack([x[None] * depth, y[:, None] * depth, depth], dim=-1)  # [H, W, 3]
    across = points[1:-1, 2:] - points[1:-1, :-2]
    down = points[2:, 1:-1] - points[:-2, 1:-1]
    normals = functional.normalize(torch.linalg.cross(down, across), dim=-1)
    colors = 0.5 + 0.5 * normals * normals.new_tensor([1.0, -1.0, -1.0])
    return functional.pad(colors.permute(2, 0, 1)[None], (1, 1, 1, 1), mode="replicate")[0].permute(1, 2, 0)


def seen_from(photo: Photo, camera: Camera) -> tuple[Tensor, Tensor]:
    """A photo as another camera in the same place sees it: colors [H, W, 3] in [0, 1], and bool [H, W] where it is.

    Both cameras only turn and zoom, so a pixel of one is a pixel of the other whatever the depth. From another place
    the result is that of a photo pasted on the sky.
    """
    own = photo.camera.to("cpu", torch.float32)
    view = camera.to("cpu", torch.float32)
    x = (torch.arange(camera.width) + 0.5 - camera.cx) / camera.fx
    y = (torch.arange(camera.height) + 0.5 - camera.cy) / camera.fy
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


def _range(depth: Tensor) -> tuple[float, float]:
    """The 1st and 99th percentile of the depths that are not far away."""
    seen = depth[depth < FAR].flatten()
    if len(seen) == 0:
        return 0.0, 1.0
    seen = seen[:: max(1, len(seen) // 20_000)].sort().values
    return float(seen[len(seen) // 100]), float(seen[(len(seen) - 1) * 99 // 100])


def _fitted(image: Tensor, width: int, height: int) -> Tensor:
    """The image [h, w, 3] in the middle of a black one of another size."""
    left, top = (width - image.shape[1]) // 2, (height - image.shape[0]) // 2
    right, bottom = width - image.shape[1] - left, height - image.shape[0] - top
    return functional.pad(image, (0, 0, left, right, top, bottom))
