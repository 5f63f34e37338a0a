"""Adam: for the Gaussians that a step has seen, and for tensors of any shape."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from nfc_gs.core.checks import check_same_shapes
from nfc_gs.ops.arguments import AdamConstants, Rate, SplatStep
from nfc_gs.ops.operations import Operations, operations_for

Tensors = Mapping[str, Tensor]

_ALL = 0xFFFFFFFF
"""The bits of a 32-bit number."""


@torch.no_grad()
def adam_step_reference(
    params: Tensors,
    grads: Mapping[str, Tensor | None],
    m: Tensors,
    v: Tensors,
    visible: Tensor | None,  # [N] bool
    rates: Mapping[str, Rate],
    constants: AdamConstants,
) -> None:
    """One Adam step on the visible rows of every parameter that has a gradient, in place. All shapes are [N, ...].

    Without `visible` all rows are moved, and N may differ among the parameters.

    m = b1 m + (1 - b1) g;  v = b2 v + (1 - b2) g^2;
    p -= rate / correction1 * m / (sqrt(v) / sqrt(correction2) + eps).
    Rows that are not visible keep their value and their moments. Moments in bfloat16 (with float32 for the rest) are
    rounded when they are stored, see `stochastic_bfloat16`.
    """
    visible_rows = None if visible is None else visible.nonzero().squeeze(1)
    root_correction2 = math.sqrt(constants.correction2)
    for name, param in params.items():
        grad = grads[name]
        if grad is None:
            continue
        rows = torch.arange(len(param), device=param.device) if visible_rows is None else visible_rows  # [V]
        g = grad.index_select(0, rows).flatten(1) if grad.dim() > 1 else grad.index_select(0, rows)[:, None]  # [V, C]
        old_first, old_second = (moments[name].index_select(0, rows).view_as(g).to(g) for moments in (m, v))
        first = old_first * constants.beta1 + g * (1.0 - constants.beta1)
        second = old_second * constants.beta2 + g * g * (1.0 - constants.beta2)
        direction = first / (second.sqrt() / root_correction2 + constants.eps)
        rate = rates[name]
        if isinstance(rate, tuple):
            direction[:, : rate[2]] *= rate[0] / constants.correction1
            direction[:, rate[2] :] *= rate[1] / constants.correction1
        else:
            direction *= rate / constants.correction1
        shape = (len(rows), *param.shape[1:])
        param.index_copy_(0, rows, param.index_select(0, rows) - direction.view(shape))
        if m[name].dtype == torch.bfloat16:
            columns = torch.arange(g.shape[1], device=g.device)
            random = random_bits(constants.step, rows[:, None] * g.shape[1] + columns)
            first, second = stochastic_bfloat16(first, random & 0xFFFF), stochastic_bfloat16(second, random >> 16)
        m[name].index_copy_(0, rows, first.view(shape))
        v[name].index_copy_(0, rows, second.view(shape))


def random_bits(step: int, indices: Tensor) -> Tensor:
    """32 random bits, as int64, for each index (int64) of a value of a parameter: Wellons' hash "lowbias32"."""
    x = (indices & _ALL) ^ (step * 0x9E3779B9 & _ALL)
    x = (x ^ (x >> 16)) * 0x7FEB352D & _ALL
    x = (x ^ (x >> 15)) * 0x846CA68B & _ALL  # of the product's 64 bits the upper ones may overflow
    return x ^ (x >> 16)


def stochastic_bfloat16(values: Tensor, random: Tensor) -> Tensor:
    """float32 rounded up or down at random, such that the expectation is the value (Gupta et al. 2015).

    A step changes the second moment by 0.1 % of itself: rounding to the nearest number of a bfloat16, 0.4 % away, would
    drop that each time.

    Args:
        random: from 0 to 65535, shaped like `values`.
    """
    patterns = (values.contiguous().view(torch.int32) + random.to(torch.int32)) & -0x10000
    return patterns.view(torch.float32).to(torch.bfloat16)


class _Adam:
    """What both kinds share.

    Attributes:
        params: the tensors it updates in place, detached.
        m, v: first and second moments by parameter name, shaped like `params`, of their dtype or in bfloat16.
        steps: number of steps taken.
    """

    def __init__(
        self,
        params: Mapping[str, Tensor],
        operations: Operations | None = None,
        *,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-15,
        bfloat16_moments: bool = False,
    ) -> None:
        """Begin with moments of zero.

        Args:
            operations: compute the steps; None for those of the parameters' device and dtype.
            bfloat16_moments: store the moments in half the memory, stochastically rounded; for parameters in float32.
        """
        self.params = dict(params)
        dtype = torch.bfloat16 if bfloat16_moments else None
        self.m = {name: torch.zeros_like(tensor, dtype=dtype) for name, tensor in self.params.items()}
        self.v = {name: torch.zeros_like(tensor, dtype=dtype) for name, tensor in self.params.items()}
        self.betas = betas
        self.eps = eps
        self.steps = 0
        if operations is None:
            first = next(iter(self.params.values()))
            operations = operations_for(first.device, first.dtype)
        self._adam_step = operations.adam_step or adam_step_reference

    def _next_step(self) -> AdamConstants:
        """Count one more step and return its numbers."""
        self.steps += 1
        beta1, beta2 = self.betas
        return AdamConstants(beta1, beta2, self.eps, 1.0 - beta1**self.steps, 1.0 - beta2**self.steps, self.steps)

    def state(self) -> dict[str, Tensor]:
        """The moments as "m.<name>" and "v.<name>", sharing memory."""
        return {
            f"{kind}.{name}": tensor
            for kind, moments in (("m", self.m), ("v", self.v))
            for name, tensor in moments.items()
        }

    def load_state(self, state: Mapping[str, Tensor], steps: int) -> None:
        """The inverse of `state`; raises ValueError if a moment is missing, unexpected or of another shape or dtype."""
        check_same_shapes(state, self.state())
        for name, tensor in self.state().items():
            if state[name].dtype != tensor.dtype:
                raise ValueError(f"{name} is of {state[name].dtype}, expected {tensor.dtype}")
        for kind, moments in (("m", self.m), ("v", self.v)):
            for name in moments:
                moments[name] = state[f"{kind}.{name}"].to(moments[name], copy=True)
        self.steps = steps


class DenseAdam(_Adam):
    """Adam for tensors of any shapes, all of their values in each step."""

    def step(self, grads: Mapping[str, Tensor], rates: Mapping[str, float]) -> None:
        """Move everything; gradients and learning rates by parameter name."""
        self._adam_step(self.params, grads, self.m, self.v, None, rates, self._next_step())


class VisibleAdam(_Adam):
    """Adam for the rows of visible Gaussians only, as in Taming 3DGS (Mallick et al. 2024) and gsplat's SelectiveAdam.

    The bias correction counts all steps, not those in which a row was visible.

    All parameters are [N, ...] with the same N.
    """

    def step(self, grads: Mapping[str, Tensor | None], visible: Tensor, rates: Mapping[str, Rate]) -> None:
        """Move the visible rows.

        Args:
            grads: gradient by parameter name, shaped like the parameters; None leaves that parameter alone.
            visible: [N] bool.
            rates: learning rate by parameter name.
        """
        constants = self._next_step()
        self._adam_step(self.params, grads, self.m, self.v, visible, rates, constants)

    def consumer(
        self, rates: Mapping[str, Rate], opacity_weight: float = 0.0, scale_weight: float = 0.0
    ) -> AdamConsumer:
        """What takes the gradients of one backward pass, in place of a later `step` with them.

        Args:
            rates: learning rate by parameter name.
            opacity_weight, scale_weight: of the sums of all opacities and scales, minimised beside the loss.
        """
        return AdamConsumer(self, rates, opacity_weight, scale_weight)

    def _splat_step(self, rates: Mapping[str, Rate], opacity_weight: float, scale_weight: float) -> SplatStep:
        """One more step, for a backward pass to take."""
        return SplatStep(self.params, self.m, self.v, rates, self._next_step(), opacity_weight, scale_weight)

    def bind(self, params: Mapping[str, Tensor]) -> None:
        """Use other parameters, of the shapes that the moments have (after `select` or `append`)."""
        for name, tensor in params.items():
            if tensor.shape != self.m[name].shape:
                raise ValueError(f"{name} is {tuple(tensor.shape)}, but its moments are {tuple(self.m[name].shape)}")
        self.params = dict(params)

    def select(self, indices: Tensor) -> None:
        """Keep the moments of these rows, in this order; `bind` the selected parameters next."""
        for moments in (self.m, self.v):
            for name in moments:
                moments[name] = moments[name].index_select(0, indices)

    def reorder(self, order: Tensor) -> None:
        """Put parameters and moments into this order of the same rows, in place, a tensor at a time."""
        for tensors in (self.params, self.m, self.v):
            for tensor in tensors.values():
                tensor.copy_(tensor.index_select(0, order))

    def append(self, count: int) -> None:
        """Add `count` rows of zero moments; `bind` the longer parameters next."""
        for moments in (self.m, self.v):
            for name, tensor in moments.items():
                moments[name] = torch.cat([tensor, tensor.new_zeros(count, *tensor.shape[1:])])

    def reset_rows(self, indices: Tensor, names: tuple[str, ...] | None = None) -> None:
        """Set the moments of these rows to zero, of all parameters or of those named."""
        for moments in (self.m, self.v):
            for name in names if names is not None else moments:
                moments[name].index_fill_(0, indices, 0.0)


class AdamConsumer:
    """A step of `VisibleAdam` that a backward pass takes where it computes gradients (`backend.GradientConsumer`).

    Attributes:
        taken: whether a backward pass has moved the parameters.
    """

    def __init__(
        self, optimizer: VisibleAdam, rates: Mapping[str, Rate], opacity_weight: float, scale_weight: float
    ) -> None:
        self._optimizer, self._rates, self._weights = optimizer, rates, (opacity_weight, scale_weight)
        self.taken = False

    def take(self) -> SplatStep:
        """The step, which counts from now on."""
        assert not self.taken, "a consumer takes the gradients of one backward pass"
        self.taken = True
        return self._optimizer._splat_step(self._rates, *self._weights)
