"""The contract between the pipeline and the rasterizers.

A backend knows no models: it takes named tensors and a camera, and returns named tensors. All backends are listed in
`rendering.registry`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import ClassVar, Protocol

from torch import Tensor

from nfc_gs.core.camera import Camera
from nfc_gs.core.checks import check_alike, check_shapes
from nfc_gs.core.sh import MAX_DEGREE, sh_bases
from nfc_gs.model.radiance import always_complete
from nfc_gs.model.target_encoding import COLOR_BITS
from nfc_gs.ops.arguments import SplatStep


class _Colored:
    """What `Splats` and `RawSplats` share."""

    sh_coeffs: Tensor | None
    bit_shifts: Tensor | None

    @property
    def sh_bases(self) -> int:
        """K, how many SH bases the colors hold; 0 without colors."""
        if self.sh_coeffs is not None:
            return self.sh_coeffs.shape[1]
        return 0 if self.bit_shifts is None else self.bit_shifts.shape[1] + 1


@dataclass(frozen=True)
class Splats(_Colored):
    """The Gaussians to render; every tensor may require grad. All share one float dtype and one device.

    Attributes:
        means: [N, 3] centres, world frame.
        quats: [N, 4] rotations wxyz, not normalised (a zero quaternion makes the Gaussian invisible).
        scales: [N, 3] standard deviations along the axes, world units, > 0.
        opacities: [N] in [0, 1].
        sh_coeffs: [N, K, 3] with K = (degree + 1)^2: color = max(0, 0.5 + sum_k Y_k(d) sh_coeffs[k]) for the
            direction d from the camera centre to the mean; makes the first three output channels. At a color of zero
            the gradient is one-sided (`core.sh.one_sided_clamp`). None for none.
        bit_logits, bit_shifts: [N, 24] and [N, K - 1, 3 or 24], the color as bits (`model.heads.bits`) instead of
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


@dataclass(frozen=True)
class RawSplats(_Colored):
    """Gaussians before activation, as a model stores them.

    Attributes:
        log_scales: [N, 3] logarithms of `Splats.scales`.
        opacity_logits: [N] logits of `Splats.opacities`.

    All other attributes are those of `Splats`.
    """

    means: Tensor
    quats: Tensor
    log_scales: Tensor
    opacity_logits: Tensor
    sh_coeffs: Tensor | None = None
    bit_logits: Tensor | None = None
    bit_shifts: Tensor | None = None
    features: Tensor | None = None

    def activated(self) -> Splats:
        """The same Gaussians with their scales and opacities, differentiably."""
        scales, opacities = self.log_scales.exp(), self.opacity_logits.sigmoid()
        colors = (self.sh_coeffs, self.bit_logits, self.bit_shifts)
        return Splats(self.means, self.quats, scales, opacities, *colors, self.features)


@dataclass(frozen=True)
class RasterSettings:
    """How to render.

    Attributes:
        sh_degree: highest SH degree to use, 0..3; at most what the colors hold.
        depth: also composite the expected depth.
        bits: composite the probabilities of the 24 bits instead of the color decoded from them.
        antialiased: multiply opacities by sqrt(det(cov2d) / det(cov2d + blur)) (Mip-Splatting, eq. 9, as in gsplat).
        absgrad: also compute the sum over pixels of |gradient of means2d| (AbsGS), for ADC.
        may_be_incomplete: the backend may guess how much memory it needs instead of waiting for a GPU to know. Whoever
            sets this asks `RasterOutput.complete` before anything comes of the rendering, and renders again if not.
    """

    sh_degree: int = 3
    depth: bool = False
    bits: bool = False
    antialiased: bool = False
    absgrad: bool = False
    may_be_incomplete: bool = False


@dataclass
class SplatInfo:
    """Per-Gaussian facts of one rendering, for density control. The gradients are filled by the backward pass.

    Attributes:
        radii: [N, 2] int32, half extents in pixels of the box that bounds the splat (x, y), rounded up; 0 if invisible.
        means2d: [N, 2] projected centres in pixels of the camera (of the part, if it is cropped), detached; meaningful
            where visible.
        means2d_grad: [N, 2] gradient of the loss with respect to means2d (pixels), or None before backward, and where
            a `GradientConsumer` took the gradients.
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
    """What a backend renders.

    Attributes:
        features: [H, W, D] composited channels: color (3, or 24 bits) first, then `Splats.features`, over the
            background.
        alpha: [H, W, 1] 1 - final transmittance.
        depth: [H, W, 1] expected depth sum(w z) / max(alpha, 1e-10) along the camera's z axis, or None.
        info: per-Gaussian facts.
        complete: whether the memory sufficed, which may wait for a GPU. If it did not, splats are missing, a backward
            pass raises RuntimeError before it changes anything, and the backend knows better from now on. Always true
            without `RasterSettings.may_be_incomplete`.
    """

    features: Tensor
    alpha: Tensor
    depth: Tensor | None
    info: SplatInfo = field(repr=False)
    complete: Callable[[], bool] = field(default=always_complete, repr=False)


class GradientConsumer(Protocol):
    """Takes the gradients of splats where a backward pass computes them: they are never stored.

    An optimizer hands one down with a rendering whose gradient nothing else asks for. A backward pass that has begun
    moves the parameters; the splats have no gradients then.
    """

    def take(self) -> SplatStep:
        """The step to take; called once, by the backward pass. It moves the tensors that were rendered."""
        ...


class RasterBackend(ABC):
    """Renders splats. `torch_backend.TorchBackend` is the specification of what every backend computes.

    A backend implements `_render`; one whose kernels activate scales and opacities also overrides `_render_raw`.

    Attributes:
        name: under which `rendering.registry` lists it.
        summary: what it is, in a few words for help texts.
        devices: the types of torch devices whose tensors it takes, "cpu" or "cuda".
        reference: it is the specification: whatever is computed beside it is the reference's, too.
        trains: its renderings are differentiable, so that a model can be trained with it.
        feeds_consumers: its backward pass can move the splats (`GradientConsumer`); `_render_raw` gets them.
    """

    name: ClassVar[str]
    summary: ClassVar[str]
    devices: ClassVar[tuple[str, ...]]
    reference: ClassVar[bool] = False
    trains: ClassVar[bool] = True
    feeds_consumers: ClassVar[bool] = False

    def render(
        self,
        splats: Splats | RawSplats,
        camera: Camera,
        settings: RasterSettings,
        background: Tensor | None = None,
        consumer: GradientConsumer | None = None,
    ) -> RasterOutput:
        """Render `splats` as `camera` sees them.

        Differentiable in every tensor of `splats`, in `camera.viewmat` and in `background`, if the backend `trains`.

        Args:
            background: [D], blended behind the splats: features += (1 - alpha) * background. None for none.
            consumer: takes the gradients of raw splats, all of which are leaves, in place of their `grad`; for a
                backend that `feeds_consumers`.

        Raises:
            ValueError: shapes, dtypes or devices do not fit together, or the backend does not composite as many
                channels.
            UserError: the backend does not take tensors of this dtype or device.
        """
        check_inputs(splats, camera, settings, background)
        can_feed = self.feeds_consumers and isinstance(splats, RawSplats) and splats.features is None
        if consumer is not None and not can_feed:
            raise ValueError(f"backend '{self.name}' cannot feed a consumer the gradients of these splats")
        if isinstance(splats, RawSplats):
            return self._render_raw(splats, camera, settings, background, consumer)
        return self._render(splats, camera, settings, background)

    @abstractmethod
    def _render(
        self, splats: Splats, camera: Camera, settings: RasterSettings, background: Tensor | None
    ) -> RasterOutput:
        """`render`, of inputs that have been checked."""

    def _render_raw(
        self,
        splats: RawSplats,
        camera: Camera,
        settings: RasterSettings,
        background: Tensor | None,
        consumer: GradientConsumer | None,
    ) -> RasterOutput:
        """The same of splats that are not activated yet; `consumer` is None for a backend that feeds none."""
        return self._render(splats.activated(), camera, settings, background)


def color_channels(splats: Splats | RawSplats, settings: RasterSettings) -> int:
    """How many channels the color takes: 3, 24 as bits, 0 without colors."""
    if splats.sh_bases == 0:
        return 0
    return COLOR_BITS if settings.bits else 3


def check_inputs(
    splats: Splats | RawSplats, camera: Camera, settings: RasterSettings, background: Tensor | None
) -> None:
    """Check what a backend is to render.

    Raises:
        ValueError: shapes, dtypes or devices do not fit together.
    """
    if isinstance(splats, RawSplats):
        shapes = {"log_scales": (splats.log_scales, "N 3"), "opacity_logits": (splats.opacity_logits, "N")}
    else:
        shapes = {"scales": (splats.scales, "N 3"), "opacities": (splats.opacities, "N")}
    sizes = check_shapes(
        means=(splats.means, "N 3"),
        quats=(splats.quats, "N 4"),
        **shapes,
        sh_coeffs=(splats.sh_coeffs, "N K 3"),
        bit_logits=(splats.bit_logits, "N 24"),
        bit_shifts=(splats.bit_shifts, "N S B"),
        features=(splats.features, "N F"),
        viewmat=(camera.viewmat, "4 4"),
        background=(background, "D"),
    )
    if (splats.bit_logits is None) != (splats.bit_shifts is None):
        raise ValueError("bit_logits and bit_shifts go together, but only one of them is given")
    if splats.bit_logits is not None and splats.sh_coeffs is not None:
        raise ValueError("the splats have both sh_coeffs and bit_logits, but a color is one of the two")
    if sizes.get("B", 3) not in (3, COLOR_BITS):
        raise ValueError(f"bit_shifts has {sizes['B']} columns, expected 3 or {COLOR_BITS}")
    if settings.bits and splats.bit_logits is None:
        raise ValueError("bits are asked for, but the splats have no bit_logits")
    channels = color_channels(splats, settings) + sizes.get("F", 0)
    if background is not None and sizes["D"] != channels:
        raise ValueError(f"background has {sizes['D']} channels but the splats have {channels}")
    if not 0 <= settings.sh_degree <= MAX_DEGREE:
        raise ValueError(f"sh_degree is {settings.sh_degree}, expected 0..{MAX_DEGREE}")
    needed = sh_bases(settings.sh_degree)
    if 0 < splats.sh_bases < needed:
        name, beside = ("sh_coeffs", 0) if splats.sh_coeffs is not None else ("bit_shifts", 1)
        raise ValueError(
            f"sh_degree {settings.sh_degree} needs {needed - beside} {name}, got {splats.sh_bases - beside}"
        )
    check_alike({**vars(splats), "viewmat": camera.viewmat, "background": background})


def inputs_of(splats: Splats | RawSplats, background: Tensor | None, camera: Camera) -> dict[str, Tensor | None]:
    """All that a rendering is differentiable in, by name; None for what is not given."""
    return {**vars(splats), "background": background, "viewmat": camera.viewmat}
