"""The trainable Gaussians."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

PARAMETERS = ("means", "log_scales", "quats", "opacity_logits", "sh_coeffs")
"""Names of the tensors of a model, in the order in which they are saved."""


class GaussianModel(nn.Module):
    """N Gaussians with direct spherical-harmonic colour.

    Attributes:
        means: [N, 3] centres, scene frame.
        log_scales: [N, 3] logarithms of the standard deviations (scene units).
        quats: [N, 4] rotations wxyz, not normalised.
        opacity_logits: [N].
        sh_coeffs: [N, K, 3], K = (degree + 1)^2; colour = max(0, 0.5 + sum_k Y_k(d) sh_coeffs[k]).
    """

    means: nn.Parameter
    log_scales: nn.Parameter
    quats: nn.Parameter
    opacity_logits: nn.Parameter
    sh_coeffs: nn.Parameter

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        """Make a model of the tensors named in `PARAMETERS`; they are used as they are, not copied."""
        super().__init__()
        self.replace(tensors)

    def replace(self, tensors: Mapping[str, Tensor]) -> None:
        """Put other tensors (perhaps with another N) in place of all parameters."""
        n = tensors["means"].shape[0]
        k = tensors["sh_coeffs"].shape[1]
        shapes = {
            "means": (n, 3),
            "log_scales": (n, 3),
            "quats": (n, 4),
            "opacity_logits": (n,),
            "sh_coeffs": (n, k, 3),
        }
        for name in PARAMETERS:
            if tuple(tensors[name].shape) != shapes[name]:
                raise ValueError(f"{name} has shape {tuple(tensors[name].shape)}, expected {shapes[name]}")
            setattr(self, name, nn.Parameter(tensors[name].detach().contiguous()))

    def tensors(self) -> dict[str, Tensor]:
        """The parameters by name, detached (they share memory with the model)."""
        return {name: getattr(self, name).detach() for name in PARAMETERS}

    def __len__(self) -> int:
        return self.means.shape[0]

    @property
    def scales(self) -> Tensor:
        """[N, 3] standard deviations along the axes, scene units."""
        return self.log_scales.exp()

    @property
    def opacities(self) -> Tensor:
        """[N] in (0, 1)."""
        return self.opacity_logits.sigmoid()

    @property
    def sh_degree(self) -> int:
        """The highest SH degree the model can hold, 0..3."""
        return round(self.sh_coeffs.shape[1] ** 0.5) - 1

    @property
    def device(self) -> torch.device:
        """Where the parameters are."""
        return self.means.device
