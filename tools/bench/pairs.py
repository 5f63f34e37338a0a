"""What the GPU's rasterizer has to do for a scene, counted on a CPU, and about how many instructions that takes.

    python tools/bench/bench.py pairs --run RUN                               a trained run, from its first camera
    python tools/bench/bench.py pairs --garden NPZ --gaussians 1000000        gsplat's garden, tiled

The events are those of cuda/gpu/raster.cu, with the tiling of `nfc_gs/rendering`: a warp has 8 x 4 pixels of a tile
forward, and 32 splats of a tile backward. Times the figures of `tools/instructions.py` they are the instructions that
warps issue. That leaves out loading splats and storing states, and says nothing of how long the GPU waits for memory.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass, field, fields
from pathlib import Path

import numpy as np
import torch
from gpu_scenes import BenchScene, read_garden, run_scene, tiled_scene

from nfc_gs.core.camera import Camera
from nfc_gs.core.constants import ALPHA_MAX, ALPHA_MIN, TILE_SIZE, TRANSMITTANCE_MIN
from nfc_gs.core.errors import UserError
from nfc_gs.rendering.backend import Splats
from nfc_gs.rendering.cuda_backend import TILE_PIXELS, WARP, bucket_size, bytes_of_an_entry
from nfc_gs.rendering.projection import is_visible, project

sys.path.append(str(Path(__file__).resolve().parents[1]))  # tools/, for the instructions

BATCH = 256
"""Splats of a tile that raster.cu loads at once."""

CHUNK = 2**18
"""Splats whose tiles are listed at once."""


@dataclass(frozen=True)
class Options:
    """Count what the GPU's rasterizer has to do for a scene."""

    run: Path | None = None
    """Folder of a trained run."""

    capture: Path | None = None
    """Folder of the run's capture, if it was moved."""

    garden: Path | None = None
    """gsplat's file assets/test_garden.npz."""

    gaussians: int = 1_000_000
    """Of the tiled garden."""

    size: tuple[int, int] | None = None
    """Width and height of the picture; if left out that of the photos."""

    views: int = 1
    """Cameras, evenly spaced over those of the scene."""


@dataclass
class Events:
    """What happened while pictures were drawn and on the way back; a warp's 32 pairs of pixel and splat are one event.

    Attributes:
        visible: Gaussians in view.
        entries: pairs of a tile and a splat that may reach it.
        reached: those before all pixels of the tile are opaque.
        groups: forward, 32 splats of a tile that one warp looks through.
        skipped: pairs of a warp and a splat among them that does not reach its pixels.
        evaluated, blended: those whose exponents are computed, and of these the ones where a pixel blends the splat.
        blended_pairs: pairs of a pixel and a splat that it blends.
        listed: backward, pixels that enter the lanes, for all 32 splats together.
        steps, idle_steps, blended_steps: all, those in which no lane has an open pixel, and those in which a lane
            blends.
    """

    visible: int = 0
    entries: int = 0
    reached: int = 0
    groups: int = 0
    skipped: int = 0
    evaluated: int = 0
    blended: int = 0
    blended_pairs: int = 0
    listed: int = 0
    steps: int = 0
    idle_steps: int = 0
    blended_steps: int = 0


@dataclass(frozen=True)
class Tiling:
    """The splats in view, nearest first, and those of each tile.

    Attributes:
        means, conics, log_opacities, extents: [V, 2], [V, 3], [V], [V, 2] float32.
        splats: [M] indices of them, tile by tile, nearest first.
        begin: [tiles + 1] ranges of `splats`.
    """

    means: np.ndarray
    conics: np.ndarray
    log_opacities: np.ndarray
    extents: np.ndarray
    splats: np.ndarray = field(repr=False)
    begin: np.ndarray
    tiles_x: int


@torch.no_grad()
def tiling(splats: Splats, camera: Camera) -> Tiling:
    """Project splats and list those of each tile, as the backends do."""
    projection = project(splats, camera)
    keep = is_visible(splats, projection, camera).nonzero().squeeze(-1)
    keep = keep[torch.sort(projection.depths[keep], stable=True).indices]
    means, conics, extents = (t[keep].numpy() for t in (projection.means2d, projection.conics, projection.extents))
    log_opacities = projection.opacities[keep].log().numpy()
    tiles_x, tiles_y = -(-camera.width // TILE_SIZE), -(-camera.height // TILE_SIZE)
    tiles, splats_of = [], []
    for first in range(0, len(means), CHUNK):
        part = slice(first, first + CHUNK)
        reach = log_opacities[part] - np.log(ALPHA_MIN)
        tile, index = _tiles_of(means[part], conics[part], extents[part], reach, (tiles_x, tiles_y))
        tiles.append(tile)
        splats_of.append(first + index)
    tile, index = np.concatenate(tiles), np.concatenate(splats_of)
    order = np.argsort(tile, kind="stable")
    begin = np.searchsorted(tile[order], np.arange(tiles_x * tiles_y + 1))
    return Tiling(means, conics, log_opacities, extents, index[order], begin, tiles_x)


def _tiles_of(
    means: np.ndarray, conics: np.ndarray, extents: np.ndarray, reach: np.ndarray, tiles: tuple[int, int]
) -> tuple[np.ndarray, np.ndarray]:
    """Tile and splat of every pair of which the splat's ellipse meets the tile's pixels, by splat (`TileRows` of
    cuda/include/nfc_gs/tiles.h, which takes the box for splats in one row or column of tiles)."""
    limit = np.array(tiles)
    low = np.clip(np.floor((np.ceil(means - extents - 0.5)) / TILE_SIZE), 0, limit).astype(int)
    high = np.clip(np.floor(np.floor(means + extents - 0.5) / TILE_SIZE) + 1, low, limit).astype(int)
    wide = high - low
    count = wide.prod(1)
    splat = np.repeat(np.arange(len(means)), count)
    within = np.arange(len(splat)) - np.repeat(np.cumsum(count) - count, count)
    tile = low[splat] + np.stack([within % wide[splat, 0], within // wide[splat, 0]], axis=1)
    corner = tile * TILE_SIZE - means[splat]
    first, last = np.array([0.48, 0.0]), np.array([TILE_SIZE - 0.48, TILE_SIZE])  # columns by their pixels' centres
    meets = _least(conics[splat], corner + first, corner + last) <= reach[splat]
    meets |= wide[splat].min(1) <= 1
    return (tile[:, 1] * tiles[0] + tile[:, 0])[meets], splat[meets]


def _least(conics: np.ndarray, low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """The least 0.5 d^T conic d of boxes low <= d <= high: 0 around the mean, else on one of the edges."""
    a, b, c = conics.T
    found = np.full(len(conics), np.inf)
    for x in (low[:, 0], high[:, 0]):
        y = np.clip(-b * x / c, low[:, 1], high[:, 1])
        found = np.minimum(found, 0.5 * (a * x * x + c * y * y) + b * x * y)
    for y in (low[:, 1], high[:, 1]):
        x = np.clip(-b * y / a, low[:, 0], high[:, 0])
        found = np.minimum(found, 0.5 * (a * x * x + c * y * y) + b * x * y)
    return np.where(((low <= 0) & (high >= 0)).all(1), 0.0, found)


@dataclass(frozen=True)
class Batch:
    """Up to `BATCH` splats of a tile at all its pixels, in the order of raster.cu.

    Attributes:
        meets: [S, 8] whether the box of a splat meets the pixels of a warp.
        open: [S, 256] whether a pixel is open before a splat.
        blends: [S, 256] whether it blends the splat.
        busy: [256] whether it is open at the start.
    """

    meets: np.ndarray
    open: np.ndarray
    blends: np.ndarray
    busy: np.ndarray


def pixel_grid() -> tuple[np.ndarray, np.ndarray]:
    """[256] columns and rows of a tile's pixels: 32 of a warp are 8 x 4 (`pixel_of` of cuda/gpu/render.h)."""
    index = np.arange(TILE_PIXELS)
    warp, lane = index // WARP, index % WARP
    return warp % 2 * 8 + lane % 8, warp // 2 * 4 + lane // 8


def batches(tiles: Tiling, tile: int, camera: Camera) -> Iterator[Batch]:
    """The batches of a tile until all its pixels are finished."""
    columns, rows = pixel_grid()
    columns, rows = columns + tile % tiles.tiles_x * TILE_SIZE, rows + tile // tiles.tiles_x * TILE_SIZE
    T = np.where((columns < camera.width) & (rows < camera.height), 1.0, 0.0)
    begin, end = tiles.begin[tile], tiles.begin[tile + 1]
    for first in range(begin, end, BATCH):
        if not (T > 0).any():
            return
        splats = tiles.splats[first : min(first + BATCH, end)]
        mean, extent = tiles.means[splats], tiles.extents[splats]
        dx, dy = columns + 0.5 - mean[:, :1], rows + 0.5 - mean[:, 1:]  # [S, 256]
        a, b, c = tiles.conics[splats].T[..., None]
        alpha = np.exp(tiles.log_opacities[splats, None] - 0.5 * (a * dx * dx + c * dy * dy) - b * dx * dy)
        alpha = np.where(alpha >= ALPHA_MIN, np.minimum(alpha, ALPHA_MAX), 0.0)
        after = T * np.cumprod(1.0 - alpha, axis=0)
        alive = after >= TRANSMITTANCE_MIN
        open_ = np.concatenate([T[None] > 0, alive[:-1]]) & (T > 0)
        meets = (np.abs(dx) <= extent[:, :1]) & (np.abs(dy) <= extent[:, 1:])
        meets = np.logical_or.reduce(meets.reshape(len(splats), -1, WARP), axis=-1)
        yield Batch(meets, open_, (alpha > 0) & alive & (T > 0), T > 0)
        T = np.where(alive[-1], after[-1], 0.0)


def count(tiles: Tiling, camera: Camera) -> Events:
    """Count the events of a picture."""
    events = Events(visible=len(tiles.means), entries=len(tiles.splats))
    for tile in range(len(tiles.begin) - 1):
        for batch in batches(tiles, tile, camera):
            events.reached += len(batch.open)
            events.blended_pairs += int(batch.blends.sum())
            for first in range(0, len(batch.open), WARP):
                part = slice(first, first + WARP)
                _count_forward(events, batch.meets[part], batch.open[part], batch.blends[part])
                _count_backward(events, batch.open[part], batch.blends[part])
    return events


def _count_forward(events: Events, meets: np.ndarray, open_: np.ndarray, blends: np.ndarray) -> None:
    """32 splats, all warps of a tile."""
    busy = open_[0].reshape(-1, WARP).any(-1)  # [8]
    events.groups += int(busy.sum())
    events.evaluated += int((meets & busy).sum())
    events.skipped += int((~meets & busy).sum())
    events.blended += int(blends.reshape(len(blends), -1, WARP).any(-1).sum())


def _count_backward(events: Events, open_: np.ndarray, blends: np.ndarray) -> None:
    """32 splats, all pixels of a tile that are open at their start."""
    listed = open_[0].nonzero()[0]
    if len(listed) == 0:
        return
    steps = len(listed) + WARP - 1
    events.listed += len(listed)
    events.steps += steps
    events.blended_steps += int(_by_step(blends[:, listed]).sum())
    events.idle_steps += steps - int(_by_step(open_[:, listed]).sum())


def _by_step(values: np.ndarray) -> np.ndarray:
    """Whether any of [S, P] values holds in each step, when lane s has pixel p in step s + p."""
    lanes, pixels = values.shape
    skewed = np.zeros((lanes, pixels + WARP), dtype=bool)
    skewed[:, :pixels] = values
    steps = pixels + WARP - 1
    return np.logical_or.reduce(skewed.reshape(-1)[: lanes * steps].reshape(lanes, steps), axis=0)


def instructions_of(events: Events, architecture: str = "sm_90") -> dict[str, int]:
    """Instructions of warps, forward and backward.

    Raises:
        UserError: there is no compiler or disassembler.
    """
    from instructions import LISTING, QUEUEING, rasterizer_costs

    cost = rasterizer_costs(architecture)
    forward = events.groups * cost["raster: skipped"] + events.evaluated * cost["raster: evaluated"]
    forward += events.blended * (cost["raster: blended"] - cost["raster: evaluated"])
    evaluated = events.steps - events.idle_steps
    backward = events.idle_steps * cost["raster backward: idle"] + evaluated * cost["raster backward: evaluated"]
    backward += events.blended_steps * (cost["raster backward: blended"] - cost["raster backward: evaluated"])
    backward += events.steps // WARP * (cost[LISTING] + cost[QUEUEING])
    return {"forward": forward, "backward": backward}


def run(options: Options) -> None:
    """Count, and print the events and the estimate."""
    scene = _scene(options)
    width, height = options.size or (scene.cameras[0].width, scene.cameras[0].height)
    model = scene.model
    splats = Splats(model.means, model.quats, model.log_scales.exp(), model.opacity_logits.sigmoid())
    total = Events()
    cameras = scene.resized_cameras(width, height, options.views)
    for camera in cameras:
        found = count(tiling(splats, camera), camera)
        for name in (f.name for f in fields(Events)):
            setattr(total, name, getattr(total, name) + getattr(found, name))
    views = "1 view" if len(cameras) == 1 else f"{len(cameras)} views"
    print(f"{scene.name}, {width} x {height}, the mean of {views}:")
    for name in (f.name for f in fields(Events)):
        print(f"{name.replace('_', ' '):<24} {getattr(total, name) / len(cameras):>16,.0f}")
    size = bytes_of_an_entry(3, bucket_size(total.entries // len(cameras)))
    print(f"{'bytes for backward':<24} {size * total.entries / len(cameras):>16,.0f}")
    for name, value in instructions_of(total).items():
        print(f"{f'instructions {name}':<24} {value / len(cameras):>16,.0f}")


def _scene(options: Options) -> BenchScene:
    if (options.run is None) == (options.garden is None):
        raise UserError("bench.py pairs needs a scene: give --run RUN or --garden NPZ, one of the two.")
    if options.run is not None:
        return run_scene(options.run, options.capture)
    assert options.garden is not None
    return tiled_scene("garden", *read_garden(options.garden), options.gaussians)
