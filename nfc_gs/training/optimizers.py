"""Adam: for the Gaussians that a step has seen, and for tensors of any shape."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from nfc_gs.ops import gpu_kernels, native, nvrtc

Rate = float | tuple[float, float, int]
"""A learning rate; or (rate of the first columns, rate of the rest, number of first columns) of the flattened row."""


@dataclass(frozen=True)
class AdamConstants:
    """The numbers of one Adam step (Kingma & Ba 2015, algorithm 1).

    Attributes:
        beta1, beta2: decay of the moments.
        eps: added to the root of the second moment.
        correction1, correction2: 1 - beta1^t and 1 - beta2^t at step t.
    """

    beta1: float
    beta2: float
    eps: float
    correction1: float
    correction2: float


Tensors = Mapping[str, Tensor]
Kernel = Callable[
    [Tensors, Mapping[str, Tensor | None], Tensors, Tensors, Tensor | None, Mapping[str, Rate], AdamConstants], None
]


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
    Rows that are not visible keep their value and their moments.
    """
    seen = None if visible is None else visible.nonzero().squeeze(1)
    root_correction2 = math.sqrt(constants.correction2)
    for name, param in params.items():
        grad = grads[name]
        if grad is None:
            continue
        rows = torch.arange(len(param), device=param.device) if seen is None else seen  # [V]
        g = grad.index_select(0, rows).flatten(1) if grad.dim() > 1 else grad.index_select(0, rows)[:, None]  # [V, C]
        first = m[name].index_select(0, rows).view_as(g) * constants.beta1 + g * (1.0 - constants.beta1)
        second = v[name].index_select(0, rows).view_as(g) * constants.beta2 + g * g * (1.0 - constants.beta2)
        direction = first / (second.sqrt() / root_correction2 + constants.eps)
        rate = rates[name]
        if isinstance(rate, tuple):
            direction[:, : rate[2]] *= rate[0] / constants.correction1
            direction[:, rate[2] :] *= rate[1] / constants.correction1
        else:
            direction *= rate / constants.correction1
        shape = (len(rows), *param.shape[1:])
        param.index_copy_(0, rows, param.index_select(0, rows) - direction.view(shape))
        m[name].index_copy_(0, rows, first.view(shape))
        v[name].index_copy_(0, rows, second.view(shape))


@torch.no_grad()
def adam_step_compiled(
    params: Tensors,
    grads: Mapping[str, Tensor | None],
    m: Tensors,
    v: Tensors,
    visible: Tensor | None,  # [N] bool
    rates: Mapping[str, Rate],
    constants: AdamConstants,
) -> None:
    """`adam_step_reference` for float32 on the CPU: one pass over each parameter in the compiled core."""
    core = native.core()
    seen = None if visible is None else visible.numpy()
    for name, param in params.items():
        grad = grads[name]
        if grad is None or param.numel() == 0:
            continue
        columns = param.numel() // len(param)
        core.adam(
            param.numpy(),
            grad.contiguous().numpy(),
            m[name].numpy(),
            v[name].numpy(),
            seen,
            _column_rates(rates[name], columns),
            constants.beta1,
            constants.beta2,
            constants.eps,
            1.0 / constants.correction1,
            1.0 / constants.correction2,
        )


def _column_rates(rate: Rate, columns: int) -> list[float]:
    if isinstance(rate, tuple):
        return [rate[0]] * rate[2] + [rate[1]] * (columns - rate[2])
    return [rate] * columns


@torch.no_grad()
def adam_step_gpu(
    runtime: nvrtc.Runtime,
    params: Tensors,
    grads: Mapping[str, Tensor | None],
    m: Tensors,
    v: Tensors,
    visible: Tensor | None,  # [N] bool
    rates: Mapping[str, Rate],
    constants: AdamConstants,
) -> None:
    """`adam_step_reference` for float32 on a GPU: one kernel for all parameters."""
    tensors = []
    for name, param in params.items():
        grad, rate = grads[name], rates[name]
        if grad is None:
            continue
        first_rate, other_rate, columns = rate if isinstance(rate, tuple) else (rate, rate, 0)
        tensors.append(
            gpu_kernels.AdamTensor(param, grad.contiguous(), m[name], v[name], first_rate, other_rate, columns)
        )
    numbers = {
        "beta1": constants.beta1,
        "beta2": constants.beta2,
        "gain1": 1.0 - constants.beta1,
        "gain2": 1.0 - constants.beta2,
        "epsilon": constants.eps,
        "correction1": 1.0 / constants.correction1,
        "correction2": 1.0 / constants.correction2,
    }
    gpu_kernels.adam(runtime, tensors, visible, numbers)


def kernel_for(device: torch.device) -> Kernel:
    """The implementation of an Adam step for tensors on `device`; all compute what the reference computes."""
    runtime = nvrtc.runtime_for(device)
    if runtime is not None:
        return functools.partial(adam_step_gpu, runtime)
    return adam_step_compiled if device.type == "cpu" and native.available() else adam_step_reference


class _Adam:
    """What both kinds share.

    Attributes:
        params: the tensors it updates in place, detached.
        m, v: first and second moments by parameter name, shaped like `params`.
        steps: number of steps taken.
    """

    def __init__(
        self, params: Mapping[str, Tensor], betas: tuple[float, float] = (0.9, 0.999), eps: float = 1e-15
    ) -> None:
        self.params = dict(params)
        self.m = {name: torch.zeros_like(tensor) for name, tensor in self.params.items()}
        self.v = {name: torch.zeros_like(tensor) for name, tensor in self.params.items()}
        self.betas = betas
        self.eps = eps
        self.steps = 0
        self._kernel = kernel_for(next(iter(self.params.values())).device)

    def _next_step(self) -> AdamConstants:
        """Count one more step; its numbers."""
        self.steps += 1
        beta1, beta2 = self.betas
        return AdamConstants(beta1, beta2, self.eps, 1.0 - beta1**self.steps, 1.0 - beta2**self.steps)

    def state(self) -> dict[str, Tensor]:
        """The moments as "m.<name>" and "v.<name>", sharing memory."""
        return {
            f"{kind}.{name}": tensor
            for kind, moments in (("m", self.m), ("v", self.v))
            for name, tensor in moments.items()
        }

    def load_state(self, state: Mapping[str, Tensor], steps: int) -> None:
        """The inverse of `state`; raises KeyError if a moment is missing."""
        for kind, moments in (("m", self.m), ("v", self.v)):
            for name in moments:
                moments[name] = state[f"{kind}.{name}"].to(moments[name], copy=True)
        self.steps = steps


class DenseAdam(_Adam):
    """Adam for tensors of any shapes, all of their values in each step."""

    def step(self, grads: Mapping[str, Tensor], rates: Mapping[str, float]) -> None:
        """Move everything; gradients and learning rates by parameter name."""
        self._kernel(self.params, grads, self.m, self.v, None, rates, self._next_step())


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
        self._kernel(self.params, grads, self.m, self.v, visible, rates, constants)

    def bind(self, params: Mapping[str, Tensor]) -> None:
        """Go on with other tensors of the shapes the moments have (after `select` or `append`)."""
        for name, tensor in params.items():
            assert tensor.shape == self.m[name].shape, f"{name}: {tuple(tensor.shape)} and {tuple(self.m[name].shape)}"
        self.params = dict(params)

    def select(self, indices: Tensor) -> None:
        """Keep the moments of these rows, in this order; `bind` the selected parameters next."""
        for moments in (self.m, self.v):
            for name in moments:
                moments[name] = moments[name].index_select(0, indices)

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
