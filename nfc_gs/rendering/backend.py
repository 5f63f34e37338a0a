"""The contract between the pipeline and the rasterizers.

A backend knows nothing of models: it gets named tensors and a camera and gives named tensors back.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from nfc_gs.core.camera import Camera
from nfc_gs.core.errors import UserError
from nfc_gs.model.target_encoding import COLOR_BITS


@dataclass(frozen=True)
class Splats:
    """The Gaussians to draw; every tensor may require grad. All share one float dtype and one device.

    Attributes:
        means: [N, 3] centres, world frame.
        quats: [N, 4] rotations wxyz, not normalised (a zero quaternion makes the Gaussian invisible).
        scales: [N, 3] standard deviations along the axes, world units, > 0.
        opacities: [N] in [0, 1].
        sh_coeffs: [N, K, 3] with K = (degree + 1)^2: color = max(0, 0.5 + sum_k Y_k(d) sh_coeffs[k]) for the
            direction d from the camera centre to the mean; makes the first three output channels. None for none.
        bit_logits, bit_shifts: [N, 24] and [N, K - 1, 3 or 24], the color as bits (`model.color_head`) in place of
            `sh_coeffs`; decoded, they make the first three output channels, or 24 with `RasterSettings.bits`.
        features: [N, D'] further channels to composite as they are. None for none.
    """

    means: Tensor
    quats: Tensor
    scales: Tensor
    opacities: Tensor
    sh_coeffs: Tensor | None = None
    bit_logits: Tensor | None = None
    bit_shifts: Tensor | None = None
    features: Tensor | None = None

    @property
    def sh_bases(self) -> int:
        """K, how many SH bases the colors hold; 0 without colors."""
        if self.sh_coeffs is not None:
            return self.sh_coeffs.shape[1]
        return 0 if self.bit_shifts is None else self.bit_shifts.shape[1] + 1


@dataclass(frozen=True)
class RasterSettings:
    """How to draw.

    Attributes:
        sh_degree: highest SH degree to use, 0..3; at most what the colors hold.
        depth: also composite the expected depth.
        bits: composite the probabilities of the 24 bits instead of the color decoded from them.
        antialiased: multiply opacities by sqrt(det(cov2d) / det(cov2d + blur)) (Mip-Splatting, eq. 9, as in gsplat).
        absgrad: also give the sum over pixels of |gradient of means2d| (AbsGS), for ADC.
        raw: scales are given as logarithms and opacities as logits; for a backend that `activates` alone.
    """

    sh_degree: int = 3
    depth: bool = False
    bits: bool = False
    antialiased: bool = False
    absgrad: bool = False
    raw: bool = False


@dataclass
class SplatInfo:
    """Per-Gaussian facts of one rendering, for density control. The gradients are filled by the backward pass.

    Attributes:
        radii: [N, 2] int32, half extents in pixels of the box that bounds the splat (x, y), rounded up; 0 if unseen.
        means2d: [N, 2] projected centres in pixels, detached; meaningful where visible.
        means2d_grad: [N, 2] gradient of the loss with respect to means2d (pixels), or None before backward.
        means2d_absgrad: [N, 2] sum over pixels of absolute values of the same, with `absgrad`; else None.
    """

    radii: Tensor
    means2d: Tensor
    means2d_grad: Tensor | None = None
    means2d_absgrad: Tensor | None = None

    @property
    def visible(self) -> Tensor:
        """[N] bool: the Gaussian's box meets the image."""
        return self.radii[:, 0] > 0


@dataclass
class RasterOutput:
    """What a backend draws.

    Attributes:
        features: [H, W, D] composited channels: color (3, or 24 bits) first, then `Splats.features`, over the
            background.
        alpha: [H, W, 1] 1 - final transmittance.
        depth: [H, W, 1] expected depth sum(w z) / max(alpha, 1e-10) along the camera's z axis, or None.
        info: per-Gaussian facts.
    """

    features: Tensor
    alpha: Tensor
    depth: Tensor | None
    info: SplatInfo = field(repr=False)


def color_channels(splats: Splats, settings: RasterSettings) -> int:
    """How many channels the color takes: 3, 24 as bits, 0 without colors."""
    if splats.sh_bases == 0:
        return 0
    return COLOR_BITS if settings.bits else 3


def differentiable(splats: Splats, background: Tensor | None, camera: Camera) -> tuple[Tensor | None, ...]:
    """All that a picture can be differentiated by, in the order in which the compiled backends take it."""
    geometry = (splats.means, splats.quats, splats.scales, splats.opacities)
    colors = (splats.sh_coeffs, splats.bit_logits, splats.bit_shifts, splats.features)
    return (*geometry, *colors, background, camera.viewmat)


@runtime_checkable
class RasterBackend(Protocol):
    """Draws splats. `torch_backend.TorchBackend` is the specification of what every backend computes.

    One with an attribute `activates` that is true also draws splats whose settings are `raw`.

    Attributes:
        reference: it is the specification: what is computed for it, deformation too, is the reference's.
    """

    name: str
    reference: bool

    def render(
        self, splats: Splats, camera: Camera, settings: RasterSettings, background: Tensor | None = None
    ) -> RasterOutput:
        """Draw `splats` as `camera` sees them.

        Args:
            background: [D], blended behind the splats: features += (1 - alpha) * background. None for none.

        Differentiable in every tensor of `splats`, in `camera.viewmat` and in `background`.
        """
        ...


BACKEND_NAMES = ("auto", "torch", "cpu", "gsplat", "cuda")


def auto_backend() -> str:
    """The name that `auto` stands for on this machine: a GPU if torch sees one, else the CPU core."""
    return "gsplat" if torch.cuda.is_available() else "cpu"


def get_backend(name: str = "auto") -> RasterBackend:
    """The backend of that name, ready to draw.

    Raises:
        UserError: no such backend, or it cannot work here (its name, the cause and the remedy).
    """
    if name == "auto":
        name = auto_backend()
    if name not in _instances:
        _instances[name] = _create(name)
    return _instances[name]


_instances: dict[str, RasterBackend] = {}


def _create(name: str) -> RasterBackend:
    if name == "torch":
        from nfc_gs.rendering.torch_backend import TorchBackend

        return TorchBackend()
    if name == "cpu":
        from nfc_gs.rendering.cpu_backend import CpuBackend

        return CpuBackend()
    if name == "gsplat":
        from nfc_gs.rendering.gsplat_backend import GsplatBackend

        return GsplatBackend()
    if name == "cuda":
        from nfc_gs.rendering.cuda_backend import CudaBackend

        return CudaBackend()
    raise UserError(f"There is no backend '{name}'; choose one of {', '.join(BACKEND_NAMES)}.")
