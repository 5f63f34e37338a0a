"""What a color head is: the tensors that color the Gaussians, and everything that depends on which ones these are."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal, TypedDict

from torch import Tensor

BitView = Literal["shared", "full"]


@dataclass(frozen=True)
class HeadOptions:
    """Options of single heads for their start; the other heads do not read them.

    Attributes:
        bit_view: view dependence of the bit head (`heads.bits`): one shift for the eight bits of a channel, or one for
            each bit.
        bit_hardness: how decided its bits are, 0..1 (`heads.bits.start_bits`).
    """

    bit_view: BitView = "shared"
    bit_hardness: float = 0.0


class SplatColors(TypedDict, total=False):
    """The colors of Gaussians as rasterizer backends take them (`rendering.backend.RawSplats`): one of three forms.

    Keys:
        sh_coeffs: [N, K, 3].
        bit_logits, bit_shifts: [N, 24] and [N, K - 1, 3 or 24].
        features: [N, 3] colors that are composited as they are, the same from every side.
    """

    sh_coeffs: Tensor
    bit_logits: Tensor
    bit_shifts: Tensor
    features: Tensor


class ColorHead(ABC):
    """What a kind of color head does with its tensors, which the model owns; it has no state of its own.

    In all methods `tensors` holds at least those that `parameters` names, each with N rows.

    Attributes:
        name: of the head, as in `--head`.
        parameters: names of its tensors, in the order in which they are saved. No two heads share a name.
        has_bits: whether its colors are bits, which can be rendered as such (`splat_colors` gives bit_logits).
    """

    name: ClassVar[str]
    parameters: ClassVar[tuple[str, ...]]
    has_bits: ClassVar[bool] = False

    @abstractmethod
    def start(self, rgb: Tensor, degree: int, options: HeadOptions) -> dict[str, Tensor]:
        """Tensors that show `rgb` [N, 3] in [0, 1] from every side, of rgb's dtype and device.

        Args:
            degree: of the view dependence that they can hold, 0..3; a head without view dependence ignores it.
        """

    @abstractmethod
    def shapes(self, count: int, tensors: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
        """The shapes that its tensors must have for `count` Gaussians; sizes that are free are those of `tensors`.

        Raises:
            ValueError: a tensor has another number of dimensions.
        """

    @abstractmethod
    def degree(self, tensors: Mapping[str, Tensor]) -> int:
        """The highest SH degree of view dependence that the tensors can hold, 0..3."""

    @abstractmethod
    def recolored(self, tensors: Mapping[str, Tensor], change: Tensor) -> dict[str, Tensor]:
        """Those tensors that differ after a change [N, 3] of the constant color (at least in first order), by name.

        Differentiable by both.
        """

    @abstractmethod
    def splat_colors(self, tensors: Mapping[str, Tensor]) -> SplatColors:
        """What backends render, differentiable by the tensors; of the degree that `degree` says."""

    @abstractmethod
    def baked(self, tensors: Mapping[str, Tensor], degree: int) -> Tensor:
        """sh_coeffs [N, (degree + 1)^2, 3], the direct SH of this degree (0..3) that comes closest to the colors."""

    @abstractmethod
    def describe(self, tensors: Mapping[str, Tensor]) -> str:
        """What the colors are, in a few words for people: "spherical harmonics"."""


def check_dimensions(name: str, tensor: Tensor, count: int) -> None:
    """Raise ValueError if a tensor has not this number of dimensions, 2 or 3."""
    if tensor.dim() != count:
        words = {2: "two", 3: "three"}[count]
        raise ValueError(f"{name} has shape {tuple(tensor.shape)}, expected {words} dimensions")
