"""The terms of the objective: functions that compare a rendering with a photograph.

L = L_reg + lambda L_ce (Neural Field Classifiers, Yang et al. 2024, eq. 6): L_reg is what splats are usually trained
with, and L_ce treats the value y of a channel as a class. The code here is the readable reference; compiled operations
(`ops.operations`) compute the same numbers for the terms they name.

Splats differ from the ray-marched fields of that paper in two ways. A rendered value c can be exactly 0 (a pixel that
nothing covers, on black), where the gradient of -y log c has no bound; and it can pass 1 with direct SH. The paper
clips c from above (eq. 5); we clip it at both ends to [eps, 1 - eps], so that the gradient of cross entropy is at most
1 / eps there and zero beyond, and the regression terms alone bring such values back.

A term of one's own is a function of a `Comparison` that returns a scalar. Pass it to `Objective` (and to a training) as
`terms={"name": (weight, function)}`, or register it in `TERMS` and give it a weight in `ObjectiveConfig.extra`. Its
gradient is autograd's, on every device.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, get_args

import torch
from torch import Tensor

from nfc_gs.core.camera import Camera
from nfc_gs.core.constants import SSIM_WINDOW
from nfc_gs.model.radiance import Output, RenderOutput
from nfc_gs.model.target_encoding import decode_colors, encode_colors
from nfc_gs.objective.ssim import ssim_map


@dataclass(frozen=True)
class Comparison:
    """A rendering beside its photograph, and where it comes from: what a term is a function of.

    Attributes:
        output: the rendering; `rendered`, `alpha`, `depth`, `normals` and `bits` are its images.
        target: [H, W, 3] uint8, sRGB.
        mask: [H, W] uint8, a pixel counts from 128 on; None if all count.
        camera: of the view.
        view: index of the view in the scene.
        name: of the view.
        time: of the view, 0..1; None in a static scene.
        step, progress: optimisation steps done, and the fraction of the run, 0..1.
        ce_eps: clipping of cross entropy; `Objective` sets it.

    >>> def clear_sky(pair: nfc_gs.Comparison):
    ...     sky = (pair.truth[..., 2:] > 0.8).float()  # blue pixels should show the background
    ...     return pair.mean(sky * pair.alpha)
    >>> config = nfc_gs.TrainConfig(steps=5)
    >>> trained = nfc_gs.train("captures/garden", config, out="runs/sky", terms={"sky": (0.05, clear_sky)})
    >>> trained.trainer.term_weights["sky"]
    0.05
    """

    output: RenderOutput
    target: Tensor
    mask: Tensor | None = None
    camera: Camera | None = None
    view: int | None = None
    name: str = ""
    time: float | None = None
    step: int = 0
    progress: float = 0.0
    ce_eps: float = 1e-3

    @property
    def rendered(self) -> Tensor:
        """[H, W, 3] colors, not clamped."""
        return self.output.rgb

    @property
    def alpha(self) -> Tensor:
        """[H, W, 1] coverage, 0..1."""
        return self.output.alpha

    @property
    def depth(self) -> Tensor:
        """[H, W, 1] expected depth along the camera's z axis, scene units; for terms that need "depth"."""
        return _rendered("depth", self.output.depth)

    @property
    def normals(self) -> Tensor:
        """[H, W, 3] unit normals in the world frame, zero where nothing is seen; for terms that need "normals"."""
        return _rendered("normals", self.output.normals)

    @property
    def bits(self) -> Tensor:
        """[H, W, 24] composited probabilities of the bits; for terms that need "bits"."""
        return _rendered("bits", self.output.bits)

    @cached_property
    def truth(self) -> Tensor:
        """[H, W, 3] the photograph in [0, 1]."""
        return self.target.to(self.rendered.dtype) / 255

    @cached_property
    def weights(self) -> Tensor:
        """[H, W, 1] 1 where a pixel counts and 0 where not."""
        if self.mask is None:
            return torch.ones_like(self.rendered[..., :1])
        return (self.mask >= 128)[..., None].to(self.rendered.dtype)

    @cached_property
    def counts(self) -> bool:
        """Whether any pixel counts."""
        return self.mask is None or bool(self.weights.any())

    def restricted(self, needs: tuple[Output, ...]) -> Comparison:
        """The same with those outputs alone that are needed: a term that reads another one fails at its first step, and
        not when the term that asked for it has lost its weight."""
        output = self.output
        depth = output.depth if "depth" in needs else None
        normals = output.normals if "normals" in needs else None
        bits = output.bits if "bits" in needs else None
        if depth is output.depth and normals is output.normals and bits is output.bits:
            return self
        return replace(self, output=replace(output, depth=depth, normals=normals, bits=bits))

    def mean(self, values: Tensor) -> Tensor:
        """Mean of `values` [H, W, C] over the pixels that count, of which there must be one, and the channels."""
        return (self.weights * values).sum() / (values.shape[-1] * self.weights.sum())


def _rendered(name: str, image: Tensor | None) -> Tensor:
    if image is None:
        raise ValueError(
            f"the output '{name}' was not rendered for this term; declare it: Term(..., needs=('{name}',))"
        )
    return image


Measure = Callable[[Comparison], Tensor]


@dataclass(frozen=True)
class Term:
    """One summand of the objective: weight * loss(measure(comparison)).

    Attributes:
        measure: maps a comparison to a scalar; `LossResult.values` holds it.
        loss: maps that to what is minimised.
        always: measured even where its weight is 0.
        needs: outputs of the rendering that it reads beside colors and alpha.

    >>> def smooth(pair: nfc_gs.Comparison):  # neighbouring normals should be alike
    ...     return (pair.normals[:, 1:] - pair.normals[:, :-1]).square().mean()
    >>> terms = {"smooth": (0.1, nfc_gs.Term(smooth, needs=("normals",)))}
    >>> trained = nfc_gs.train("captures/garden", nfc_gs.TrainConfig(steps=5), out="runs/smooth", terms=terms)
    """

    measure: Measure
    loss: Callable[[Tensor], Tensor] = lambda value: value
    always: bool = False
    needs: tuple[Output, ...] = ()

    def __post_init__(self) -> None:
        if isinstance(self.needs, str):
            raise ValueError(f"needs is the text '{self.needs}', but must be a tuple: needs=('{self.needs}',)")
        unknown = [name for name in self.needs if name not in get_args(Output)]
        if unknown:
            raise ValueError(f"a term needs '{unknown[0]}', but a rendering has {', '.join(get_args(Output))}")


def l1(pair: Comparison) -> Tensor:
    """Mean absolute difference."""
    return pair.mean((pair.rendered - pair.truth).abs())


def mse(pair: Comparison) -> Tensor:
    """Mean squared difference."""
    return pair.mean((pair.rendered - pair.truth).square())


def ssim(pair: Comparison) -> Tensor:
    """Mean SSIM, with what does not count set to black in both images and black beyond their borders."""
    x, y = pair.weights * pair.rendered, pair.weights * pair.truth
    return pair.mean(ssim_map(x, y, padding=SSIM_WINDOW // 2))


def channel_cross_entropy(pair: Comparison) -> Tensor:
    """Mean of -y log c - (1 - y) log(1 - c) over channels, y being a soft label (NFC, eq. 4 and 5).

    Its smallest value is the entropy of the photograph, not 0.
    """
    return pair.mean(cross_entropy(pair.rendered, pair.truth, pair.ce_eps))


def bit_cross_entropy(pair: Comparison) -> Tensor:
    """Mean over channels of the cross entropy of each bit, weighted by place value: sum_j 2^j / 255 BCE_j (NFC, eq. 3).

    The probabilities are those composited at the pixel.
    """
    each = cross_entropy(pair.bits, encode_colors(pair.target, pair.bits.dtype), pair.ce_eps)
    return pair.mean(decode_colors(each))


def cross_entropy(values: Tensor, labels: Tensor, eps: float) -> Tensor:
    """-y log c - (1 - y) log(1 - c) with c = values clipped to [eps, 1 - eps]; no gradient where clipped."""
    c = values.clamp(eps, 1 - eps)
    return -(labels * c.log() + (1 - labels) * torch.log1p(-c))


BUILT_IN: dict[str, Term] = {
    "l1": Term(l1, always=True),
    "mse": Term(mse, always=True),
    "ssim": Term(ssim, loss=lambda value: 1 - value, always=True),
    "ce": Term(channel_cross_entropy),
    "bit_ce": Term(bit_cross_entropy, needs=("bits",)),
}
"""The terms whose weights are fields of `ObjectiveConfig`; compiled operations know them, unless another term is put in
their place in `TERMS`."""

TERMS: dict[str, Term] = {
    **BUILT_IN,
}
"""All terms by name. To add one, add it here, behind the built-in ones: its weight is then a key of
`ObjectiveConfig.extra`, on the command line `--objective.extra NAME WEIGHT`."""


def terms_in_words(weights: Mapping[str, Any]) -> str:
    """What is minimised, as '0.8 l1 + 0.2 ssim', of weights by name: the terms with a weight."""
    return " + ".join(
        f"{value:g} {name}" for name, value in weights.items() if isinstance(value, (int, float)) and value
    )
