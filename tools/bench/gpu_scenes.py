"""The scenes of `bench.py gpu` and `gpu_sanitize.py`: tiled points, of any number of Gaussians, and trained runs.

The points to be tiled are those of gsplat's garden, or, where that file is not at hand, synthetic ones.

A module, not a command.

The tiled scene follows gsplat's profiling of its file `assets/test_garden.npz`: the cloud is
cut to the cube from -2 to 2, copies of that cube are laid side by side in x and y, Gaussians have random rotations,
opacities from 0 to 1 and standard deviations from 0 to 0.02, and a picture of other sides shows the same view. There
the grid is always complete; here it is filled from the middle until the wanted number is reached.
"""

from __future__ import annotations

import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from nfc_gs.commands.render import sized
from nfc_gs.core.camera import Camera, look_at_viewmat
from nfc_gs.core.errors import UserError
from nfc_gs.core.sh import C0
from nfc_gs.data.scene import PointCloud
from nfc_gs.model.gaussians import GEOMETRY, GaussianModel
from nfc_gs.model.heads.bits import start_bits
from nfc_gs.model.heads.color_head import BitView
from nfc_gs.model.heads.sh import start_sh
from nfc_gs.runs.opening import open_run

CUBE = 2.0
"""Half the side of the cube that is repeated."""

LARGEST_SCALE = 0.02
SH_DEGREE = 3

VIEW_DEPENDENCE = 0.05
"""Standard deviation of the random coefficients that make colors depend on the direction."""


@dataclass(frozen=True)
class BenchScene:
    """Gaussians, and cameras to render them from.

    Attributes:
        name: in words.
        model: the Gaussians, with direct SH.
        cameras: each with its own size.
        crops: whether a picture of another aspect ratio is cropped from the view; else it is stretched.
    """

    name: str
    model: GaussianModel
    cameras: tuple[Camera, ...]
    crops: bool

    def resized_cameras(self, width: int, height: int, count: int) -> list[Camera]:
        """This number of the cameras (or all), evenly spaced, at this size in pixels."""
        chosen = np.linspace(0, len(self.cameras) - 1, min(count, len(self.cameras))).round().astype(int)
        cameras = [self.cameras[i] for i in chosen]
        return [sized(camera, width, height) if self.crops else camera.resized(width, height) for camera in cameras]

    def bits(self, view: BitView) -> GaussianModel:
        """The same Gaussians, sharing all other parameters, with bits that start at the same constant color."""
        tensors = self.model.tensors()
        rgb = (0.5 + C0 * tensors["sh_coeffs"][:, 0]).clamp(0.0, 1.0)
        head = start_bits(rgb, SH_DEGREE, view)
        head["bit_shifts"].normal_(0.0, VIEW_DEPENDENCE, generator=torch.Generator(rgb.device).manual_seed(1))
        return GaussianModel({name: tensors[name] for name in GEOMETRY} | head)


def read_garden(path: Path) -> tuple[PointCloud, tuple[Camera, ...]]:
    """The points and cameras of gsplat's test scene.

    Raises:
        UserError: there is no such file, or it holds something else.
    """
    try:
        with np.load(path, allow_pickle=False) as data:
            xyz, rgb = data["means3d"].astype(np.float32), data["colors"].astype(np.uint8)
            width, height = int(data["width"]), int(data["height"])
            cameras = tuple(
                Camera(torch.from_numpy(view).float(), K[0, 0], K[1, 1], K[0, 2], K[1, 2], width, height)
                for view, K in zip(data["viewmats"], data["Ks"].astype(float), strict=True)
            )
    except (OSError, KeyError, ValueError, zipfile.BadZipFile) as error:
        raise UserError(f"{path} is not gsplat's test scene ({error}); give its file assets/test_garden.npz.") from None
    return PointCloud(xyz, rgb), cameras


def synthetic_points(count: int = 100_000, seed: int = 0) -> PointCloud:
    """Points on surfaces in the cube: a wavy ground, which goes on from copy to copy, and nine spheres on it.

    Args:
        count: number of points; three fifths of them lie on the ground.
    """
    generator = np.random.default_rng(seed)
    ground = generator.uniform(-CUBE, CUBE, (3 * count // 5, 3))
    ground[:, 2] = 0.15 * np.sin(np.pi / CUBE * ground[:, 0]) * np.cos(np.pi / CUBE * ground[:, 1]) - 1.0
    centers, radii = generator.uniform((-1.5, -1.5, -1.0), (1.5, 1.5, 0.5), (9, 3)), generator.uniform(0.2, 0.5, 9)
    sphere = generator.integers(0, len(radii), count - len(ground))
    directions = generator.normal(size=(len(sphere), 3))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    xyz = np.concatenate([ground, centers[sphere] + radii[sphere, None] * directions])
    rgb = 127.5 + 90.0 * np.sin(5.0 * xyz) + generator.normal(0.0, 15.0, xyz.shape)
    return PointCloud(xyz.astype(np.float32), rgb.clip(0, 255).astype(np.uint8))


def synthetic_cameras(count: int = 3, width: int = 640, height: int = 360) -> tuple[Camera, ...]:
    """Cameras on a circle above the cube in the middle, which look at it; 65 degrees wide."""
    target, up = torch.tensor([0.0, 0.0, -0.7]), torch.tensor([0.0, 0.0, 1.0])
    cameras = []
    for angle in torch.linspace(0.0, 2.0 * torch.pi, count + 1)[:-1]:
        eye = torch.stack([2.2 * angle.cos(), 2.2 * angle.sin(), torch.tensor(0.6)])
        focal = 0.785 * width
        viewmat = look_at_viewmat(eye, target, up)
        cameras.append(Camera(viewmat, focal, focal, width / 2, height / 2, width, height))
    return tuple(cameras)


def ring_of_cells(count: int) -> np.ndarray:
    """[count, 2] whole numbers: the cells of a square grid from the middle outwards, ring by ring."""
    reach = int(np.ceil((np.sqrt(count) - 1) / 2))
    steps = np.arange(-reach, reach + 1)
    cells = np.stack(np.meshgrid(steps, steps, indexing="ij"), axis=-1).reshape(-1, 2)
    rings = np.abs(cells).max(axis=1)
    return cells[np.argsort(rings, kind="stable")][:count]


def tiled(points: PointCloud, count: int, seed: int = 0) -> PointCloud:
    """Exactly `count` points: copies of the cube in the middle of the cloud, laid out in x and y from the middle.

    The copies have the same points in the same random order, so a last one that is not whole is thinned evenly.

    Raises:
        UserError: no point lies in the cube.
    """
    inside = np.flatnonzero((np.abs(points.xyz) <= CUBE).all(axis=1))
    if len(inside) == 0:
        raise UserError(f"No point of the scene lies between -{CUBE:g} and {CUBE:g} along all axes.")
    inside = np.random.default_rng(seed).permutation(inside)
    xyz, rgb = points.xyz[inside], points.rgb[inside]
    cells = ring_of_cells(-(-count // len(inside)))
    offsets = np.concatenate([2 * CUBE * cells, np.zeros((len(cells), 1))], axis=1).astype(np.float32)
    laid_out = (offsets[:, None] + xyz[None]).reshape(-1, 3)
    return PointCloud(laid_out[:count], np.tile(rgb, (len(cells), 1))[:count])


def random_geometry(xyz: np.ndarray, seed: int = 0) -> dict[str, Tensor]:
    """Random rotations, sizes and opacities for Gaussians at these places, as parameters of a model."""
    generator = torch.Generator().manual_seed(seed)
    count, tiny = len(xyz), 1e-3
    scales = LARGEST_SCALE * torch.rand(count, 3, generator=generator).clamp(min=tiny)
    return {
        "means": torch.from_numpy(xyz),
        "log_scales": scales.log(),
        "quats": torch.randn(count, 4, generator=generator),
        "opacity_logits": torch.rand(count, generator=generator).clamp(tiny, 1 - tiny).logit(),
    }


def tiled_scene(name: str, points: PointCloud, cameras: tuple[Camera, ...], count: int) -> BenchScene:
    """The tiled scene of this name with `count` Gaussians."""
    cloud = tiled(points, count)
    head = start_sh(torch.from_numpy(cloud.rgb).float() / 255, SH_DEGREE)
    head["sh_coeffs"][:, 1:].normal_(0.0, VIEW_DEPENDENCE, generator=torch.Generator().manual_seed(1))
    model = GaussianModel(random_geometry(cloud.xyz) | head)
    return BenchScene(f"{name}, {in_words(count)}", model, cameras, crops=False)


def run_scene(run: Path, capture: Path | None) -> BenchScene:
    """A trained run with the cameras of its training views; bits are baked to SH.

    Args:
        capture: folder of the run's capture, if it was moved.

    Raises:
        UserError: it cannot be opened, or it is a moving splat.
    """
    opened = open_run(run, capture=capture, device="cpu", backend="cpu")
    model = opened.model
    if not isinstance(model, GaussianModel) or model.deformation is not None:
        raise UserError(f"{run} is no static splat; give the run of one.")
    cameras = tuple(opened.scene.camera(i) for i in opened.scene.train)
    model = model.baked(SH_DEGREE)
    return BenchScene(f"{run.name}, {in_words(len(model))}", model, cameras, crops=True)


def in_words(count: int) -> str:
    """A number of Gaussians: '100 k', '4 M', '56 921'."""
    if count % 1_000_000 == 0:
        return f"{count // 1_000_000} M Gaussians"
    if count % 1000 == 0:
        return f"{count // 1000} k Gaussians"
    return f"{count:,} Gaussians"
