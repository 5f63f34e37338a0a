"""Scenes for the tests of the backends, what they are held to, and an independent renderer in plain loops.

`naive_render` is written from the formulas alone, pixel by pixel and splat by splat in float64, and shares no code with
the package.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import pytest
import torch
from emulator import Emulator
from torch import Tensor

from nfc_gs.core.camera import Camera, look_at_viewmat
from nfc_gs.core.errors import UserError
from nfc_gs.rendering.backend import RasterBackend, RasterOutput, RasterSettings, SplatInfo, Splats, color_channels
from nfc_gs.rendering.cuda_backend import CudaBackend
from nfc_gs.rendering.registry import _instances, get_backend

FIELDS = tuple(f.name for f in fields(Splats))

COMPILED = ["cpu-float32", "emulated-float32", pytest.param("gpu-float32", marks=pytest.mark.gpu)]
"""Those that are not the specification itself; `emulated` is the backend `cuda` with the emulator in the place of a
GPU, and `gpu` the same backend on one."""

ENGINES = ["torch-float64", "torch-float32", *COMPILED]


@dataclass(frozen=True)
class Engine:
    """A backend and the dtype to test it in."""

    name: str
    dtype: torch.dtype

    @property
    def tolerance(self) -> float:
        """Of colors near 1. float32: some hundred roundings of 6e-8 in the conic, more where it is thin."""
        return 1e-11 if self.dtype == torch.float64 else 1e-4

    def render(
        self, splats: Splats, camera: Camera, settings: RasterSettings, background: Tensor | None = None
    ) -> RasterOutput:
        background = None if background is None else background.to(self.dtype)
        return get_backend(self.name).render(
            cast(splats, self.dtype), camera.to(dtype=self.dtype), settings, background
        )


OF_A_GPU = {"gpu": "cuda", "peer": "gsplat"}
"""Engines that are a backend of a GPU, used with tensors on the CPU."""


class OtherDevice:
    """A backend of another device for tensors on the CPU: copies them there, and its results back."""

    name = "other device"
    reference = False

    def __init__(self, backend: RasterBackend, device: str) -> None:
        self.backend, self.device = backend, device

    def render(
        self, splats: Splats, camera: Camera, settings: RasterSettings, background: Tensor | None = None
    ) -> RasterOutput:
        there = map_splats(splats, lambda tensor: tensor.to(self.device))
        background = None if background is None else background.to(self.device)
        out = self.backend.render(there, camera.to(self.device), settings, background)
        depth = None if out.depth is None else out.depth.cpu()
        return RasterOutput(out.features.cpu(), out.alpha.cpu(), depth, InfoOnCpu(out.info))  # type: ignore[arg-type]


class InfoOnCpu:
    """A `SplatInfo` whose tensors are copied to the CPU when they are read: backward fills some of them later."""

    def __init__(self, info: SplatInfo) -> None:
        self._info = info

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._info, name)
        return value.cpu() if isinstance(value, Tensor) else value


def open_engine(name: str) -> Engine:
    """One of `ENGINES`, or `peer-float32`, which is gsplat; skips the test where it does not work."""
    backend, dtype = name.split("-")
    try:
        if backend == "emulated" and backend not in _instances:
            _instances[backend] = CudaBackend(Emulator())
        if backend in OF_A_GPU and backend not in _instances:
            _instances[backend] = OtherDevice(get_backend(OF_A_GPU[backend]), "cuda")
        get_backend(backend)
    except (ImportError, UserError) as error:
        pytest.skip(f"the backend '{backend}' does not work here: {error}")
    return Engine(backend, getattr(torch, dtype))


def cast(splats: Splats, dtype: torch.dtype) -> Splats:
    return map_splats(splats, lambda tensor: tensor.to(dtype))


def map_splats(splats: Splats, function) -> Splats:
    values = {f.name: getattr(splats, f.name) for f in fields(splats)}
    return replace(splats, **{name: function(value) for name, value in values.items() if value is not None})


def leaves(splats: Splats, dtype: torch.dtype) -> Splats:
    """A copy whose tensors collect gradients."""
    return map_splats(splats, lambda tensor: tensor.detach().to(dtype).clone().requires_grad_())


def rounded(tensor: Tensor) -> Tensor:
    """Values that float32 holds exactly, so that every dtype draws the same scene."""
    return tensor.float().double()


def make_camera(width: int = 37, height: int = 21, **changes: float) -> Camera:
    eye, target, up = torch.tensor([[0.3, -0.2, -3.0], [0.0, 0.1, 0.2], [0.1, -1.0, 0.0]], dtype=torch.float64)
    intrinsics = {"fx": 30.0, "fy": 33.0, "cx": width / 2 + 1.5, "cy": height / 2 - 2.25} | changes
    return Camera(viewmat=look_at_viewmat(eye, target, up), width=width, height=height, **intrinsics)


def front_camera(width: int = 16, height: int = 16, focal: float = 16.0) -> Camera:
    """At the origin, looking along z."""
    return Camera(torch.eye(4, dtype=torch.float64), focal, focal, width / 2, height / 2, width, height)


def make_splats(
    count: int = 40, seed: int = 0, sh_degree: int | None = 3, channels: int = 0, bit_view: str | None = None
) -> Splats:
    """Random splats; `bit_view` "shared" or "full" gives them bits of `sh_degree` in the place of SH."""
    generator = torch.Generator().manual_seed(seed)

    def uniform(*shape: int) -> Tensor:
        return torch.rand(*shape, dtype=torch.float64, generator=generator)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, dtype=torch.float64, generator=generator)

    bases = 0 if sh_degree is None else (sh_degree + 1) ** 2
    splats = Splats(
        means=normal(count, 3) * torch.tensor([0.9, 0.6, 0.6]),
        quats=normal(count, 4),
        scales=0.03 + 0.3 * uniform(count, 3),
        opacities=0.05 + 0.9 * uniform(count),
        sh_coeffs=0.3 * normal(count, bases, 3) if bases and bit_view is None else None,
        bit_logits=1.5 * normal(count, 24) if bit_view else None,
        bit_shifts=normal(count, bases - 1, 3 if bit_view == "shared" else 24) if bit_view else None,
        features=uniform(count, channels) if channels else None,
    )
    return map_splats(splats, rounded)


def one_splat(z: float = 2.0, scale: float = 0.2, opacity: float = 0.8, color: float = 1.0, **changes) -> Splats:
    """On the axis of `front_camera`, one feature channel."""
    values = {
        "means": torch.tensor([[0.0, 0.0, z]], dtype=torch.float64),
        "quats": torch.tensor([[1.0, 0.0, 0.0, 0.0]]),
        "scales": torch.full((1, 3), scale),
        "opacities": torch.tensor([opacity]),
        "features": torch.tensor([[color]]),
    }
    return cast(Splats(**(values | changes)), torch.float64)


def stack(*parts: Splats) -> Splats:
    """All splats of several bundles, in order."""
    columns = {f.name: [getattr(part, f.name) for part in parts] for f in fields(Splats)}
    return replace(parts[0], **{name: torch.cat(column) for name, column in columns.items() if column[0] is not None})


# ---- what backends are held to ------------------------------------------------------------------------------------


def assert_equals_naive(
    engine: Engine, splats: Splats, camera: Camera, settings: RasterSettings, background: Tensor | None = None
) -> RasterOutput:
    naive = naive_render(splats, camera, settings, background)
    out = engine.render(splats, camera, settings, background)
    assert out.features.shape == naive.features.shape and out.features.dtype == engine.dtype
    assert naive.sure.mean() > 0.9
    for name in ("features", "alpha") + (("depth",) if settings.depth else ()):
        actual, expected = getattr(out, name).detach().double().numpy(), getattr(naive, name)
        scale = 1 + np.abs(expected).max(initial=0)
        np.testing.assert_allclose(
            actual[naive.sure], expected[naive.sure], rtol=0, atol=scale * engine.tolerance, err_msg=name
        )
    return out


def gradients(
    backend: str,
    dtype: torch.dtype,
    splats: Splats,
    camera: Camera,
    settings: RasterSettings,
    pixels: Tensor | None = None,
) -> dict[str, Tensor]:
    """Gradients of a fixed random weighting of everything that is drawn, by name, in float64.

    Args:
        pixels: [H, W] which pixels count; None for all.
    """
    inputs = leaves(splats, dtype)
    viewmat = camera.viewmat.detach().to(dtype).clone().requires_grad_()
    channels = color_channels(splats, settings) + (0 if splats.features is None else splats.features.shape[1])
    background = torch.linspace(0.2, 0.9, channels, dtype=dtype).requires_grad_()
    out = get_backend(backend).render(inputs, replace(camera, viewmat=viewmat), settings, background)
    generator = torch.Generator().manual_seed(9)
    loss = torch.zeros((), dtype=dtype)
    for image in (out.features, out.alpha, out.depth):
        if image is not None:
            weights = torch.rand(image.shape, generator=generator, dtype=torch.float64) - 0.3
            if pixels is not None:
                weights = weights * pixels[..., None]
            loss = loss + (image * weights.to(dtype)).sum()
    loss.backward()
    found = {f.name: getattr(inputs, f.name) for f in fields(inputs)} | {"viewmat": viewmat, "background": background}
    result = {name: tensor.grad for name, tensor in found.items() if tensor is not None}
    result["means2d"] = out.info.means2d_grad
    if settings.absgrad:
        result["means2d_abs"] = out.info.means2d_absgrad
    missing = [name for name, gradient in result.items() if gradient is None]
    assert not missing, f"no gradient of {missing}"
    return {name: gradient.double() for name, gradient in result.items() if gradient is not None}


def assert_gradients_equal_those_of_the_specification(
    engine: Engine, splats: Splats, camera: Camera, settings: RasterSettings, tolerance: float = 1e-3
) -> None:
    sure = torch.from_numpy(naive_render(splats, camera, settings).sure).double()
    expected = gradients("torch", torch.float64, splats, camera, settings, sure)
    actual = gradients(engine.name, engine.dtype, splats, camera, settings, sure)
    assert actual.keys() == expected.keys()
    for name, value in expected.items():
        unused = name == "bit_shifts" and settings.sh_degree == 0
        assert unused or value.abs().max() > 0, f"the scene does not test the gradient of {name}"
        limit = tolerance * float(value.abs().max()) if value.numel() else 0.0
        torch.testing.assert_close(actual[name], value, rtol=0, atol=limit, msg=lambda m, name=name: f"{name}: {m}")


# ---- the independent renderer -------------------------------------------------------------------------------------


@dataclass
class Naive:
    features: np.ndarray
    alpha: np.ndarray
    depth: np.ndarray
    sure: np.ndarray
    """[H, W] False where some decision was so close that rounding may turn it."""


def naive_rotation(quat: np.ndarray) -> np.ndarray:
    """v -> q v q* for the three axes, by the vector form of the sandwich product."""
    w, u = quat[0] / np.linalg.norm(quat), quat[1:] / np.linalg.norm(quat)
    columns = [v + 2 * w * np.cross(u, v) + 2 * np.cross(u, np.cross(u, v)) for v in np.eye(3)]
    return np.stack(columns, axis=1)


def naive_basis(d: np.ndarray, degree: int) -> np.ndarray:
    x, y, z = d
    basis = [0.28209479177387814, -0.4886025119029199 * y, 0.4886025119029199 * z, -0.4886025119029199 * x]
    basis += [
        1.0925484305920792 * x * y,
        -1.0925484305920792 * y * z,
        0.31539156525252005 * (2 * z * z - x * x - y * y),
    ]
    basis += [-1.0925484305920792 * x * z, 0.5462742152960396 * (x * x - y * y)]
    basis += [-0.5900435899266435 * y * (3 * x * x - y * y), 2.890611442640554 * x * y * z]
    basis += [-0.4570457994644658 * y * (4 * z * z - x * x - y * y)]
    basis += [0.3731763325901154 * z * (2 * z * z - 3 * x * x - 3 * y * y)]
    basis += [-0.4570457994644658 * x * (4 * z * z - x * x - y * y), 1.445305721320277 * z * (x * x - y * y)]
    basis += [-0.5900435899266435 * x * (x * x - 3 * y * y)]
    return np.asarray(basis[: (degree + 1) ** 2])


def naive_color(sh: np.ndarray, d: np.ndarray, degree: int) -> np.ndarray:
    basis = naive_basis(d, degree)
    return np.maximum(0, 0.5 + basis @ sh[: len(basis)])


def naive_bits(logits: np.ndarray, shifts: np.ndarray, d: np.ndarray, degree: int) -> np.ndarray:
    """[24] probabilities of the bits of one splat seen in the direction `d`."""
    basis, result = naive_basis(d, degree), np.zeros(24)
    for channel in range(3):
        for bit in range(8):
            column = channel if shifts.shape[1] == 3 else 8 * channel + bit
            value = logits[8 * channel + bit]
            for k in range(1, len(basis)):
                value = value + basis[k] * shifts[k - 1, column]
            result[8 * channel + bit] = 1 / (1 + math.exp(-value))
    return result


def naive_decoded(bits: np.ndarray) -> np.ndarray:
    """[24] probabilities -> [3] colors."""
    return np.array([sum(2 ** (7 - j) * bits[8 * channel + j] for j in range(8)) / 255 for channel in range(3)])


def naive_splat(s: dict, i: int, camera: Camera, settings: RasterSettings):
    """(depth, centre, inverse covariance, opacity, channels) of one splat, or None if it is culled."""
    view = camera.viewmat.numpy()
    rotation, translation = view[:3, :3], view[:3, 3]
    point = rotation @ s["means"][i] + translation
    if point[2] < 0.01:
        return None
    axes = naive_rotation(s["quats"][i]) * s["scales"][i]
    covariance = rotation @ axes @ axes.T @ rotation.T
    limits = []
    for focal, center, size in ((camera.fx, camera.cx, camera.width), (camera.fy, camera.cy, camera.height)):
        margin = 0.3 * size / (2 * focal)
        limits.append((-center / focal - margin, (size - center) / focal + margin))
    z = point[2]
    u, v = (min(max(point[k] / z, limits[k][0]), limits[k][1]) for k in range(2))
    jacobian = np.array([[camera.fx / z, 0, -camera.fx * u / z], [0, camera.fy / z, -camera.fy * v / z]])
    sharp = jacobian @ covariance @ jacobian.T
    blurred = sharp + 0.3 * np.eye(2)
    opacity = s["opacities"][i]
    if settings.antialiased:
        opacity = opacity * math.sqrt(max(np.linalg.det(sharp) / np.linalg.det(blurred), 1e-12))
    channels = []
    direction = s["means"][i] - np.linalg.inv(view)[:3, 3]
    direction = direction / np.linalg.norm(direction)
    if "sh_coeffs" in s:
        channels.append(naive_color(s["sh_coeffs"][i], direction, settings.sh_degree))
    if "bit_logits" in s:
        bits = naive_bits(s["bit_logits"][i], s["bit_shifts"][i], direction, settings.sh_degree)
        channels.append(bits if settings.bits else naive_decoded(bits))
    if "features" in s:
        channels.append(s["features"][i])
    center = np.array([camera.fx * point[0] / z + camera.cx, camera.fy * point[1] / z + camera.cy])
    return z, center.tolist(), np.linalg.inv(blurred).tolist(), opacity, np.concatenate(channels)


def naive_render(
    splats: Splats, camera: Camera, settings: RasterSettings, background: Tensor | None = None, margin: float = 1e-3
) -> Naive:
    s = {name: getattr(splats, name).numpy() for name in FIELDS if getattr(splats, name) is not None}
    drawn = [naive_splat(s, i, camera, settings) for i in range(len(s["means"]))]
    drawn = sorted((d for d in drawn if d is not None), key=lambda d: d[0])
    height, width = camera.height, camera.width
    channels = 0 if not drawn else len(drawn[0][4])
    out = Naive(np.zeros((height, width, channels)), *(np.zeros((height, width, 1)) for _ in range(2)),
                sure=np.ones((height, width), bool))  # fmt: skip
    for row in range(height):
        for column in range(width):
            remaining = 1.0
            for z, (x, y), ((a, b), (_, c)), opacity, values in drawn:
                dx, dy = column + 0.5 - x, row + 0.5 - y
                alpha = opacity * math.exp(-0.5 * (a * dx * dx + 2 * b * dx * dy + c * dy * dy))
                if abs(alpha * 255 - 1) < margin:
                    out.sure[row, column] = False
                if alpha < 1 / 255:
                    continue
                alpha = min(0.99, alpha)
                after = remaining * (1 - alpha)
                if abs(after / 1e-4 - 1) < margin:
                    out.sure[row, column] = False
                if after < 1e-4:
                    break
                out.features[row, column] += remaining * alpha * values
                out.depth[row, column] += remaining * alpha * z
                remaining = after
            out.alpha[row, column] = 1 - remaining
            if background is not None:
                out.features[row, column] += remaining * background.numpy()
    out.depth /= np.maximum(out.alpha, 1e-10)
    return out
