"""What a user gives as a tensor: a tensor, a NumPy array or numbers."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

Array = Tensor | np.ndarray
"""What is taken where a tensor is expected."""


def as_tensor(values: Array | Sequence[float]) -> Tensor:
    """The values as a tensor: a tensor itself as it is, everything else as float32 (a copy)."""
    if isinstance(values, Tensor):
        return values
    return torch.from_numpy(np.array(values, dtype=np.float32))
