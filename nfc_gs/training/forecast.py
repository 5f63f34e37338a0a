"""What memory a training will need, said before it begins, and how many Gaussians fit into what is available."""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from nfc_gs.core.errors import UserError
from nfc_gs.core.memory import available_memory
from nfc_gs.core.text import gigabytes
from nfc_gs.data.image_cache import LEAST_DECODING, ImageCache, decoding_bytes, picture_bytes
from nfc_gs.data.scene import SceneData
from nfc_gs.model.deformation import Deformation
from nfc_gs.model.heads.color_head import HeadOptions
from nfc_gs.model.heads.registry import get_head
from nfc_gs.model.hexplane import HexPlane
from nfc_gs.model.mlp import MlpDeformation
from nfc_gs.ops.device import free_gpu_memory
from nfc_gs.rendering.registry import get_backend
from nfc_gs.training.config import ResolvedConfig
from nfc_gs.training.deformation import new_deformation

logger = logging.getLogger("nfc_gs")

COMFORTABLE = 0.85
"""Share of the available memory above which a training is warned of, and up to which a limit is lowered."""

FEWEST = 1_000
"""Where so few Gaussians do not fit comfortably, no limit is chosen: it would make the training useless."""

GEOMETRY_FLOATS = 11
"""Of a Gaussian's centre, scales, rotation and opacity."""

ROWS_FUSED, ROWS_STORED = 4.2, 5.2
"""Copies of a Gaussian's parameters at the peak, in a refinement: parameters, two moments of Adam and the longer
tensors; and gradients, where the backward pass does not move the parameters itself. Measured."""

BFLOAT16_SAVES = 1.0
"""How many of these copies fewer there are where each of the two moments takes half of one."""

SCRATCH = 380
"""Further bytes for each Gaussian: projection, lists of tiles, noise. Measured on the CPU, models of 50,000 to
1,000,000."""

HEXPLANE_BYTES, MLP_BYTES = 10, 6
"""Bytes for each Gaussian and each value of a layer that a deformation and its backward pass take. Measured on the CPU
with the default sizes."""

PIXEL, BIT_PIXEL = 100, 250
"""Bytes for each pixel of the largest picture that is rendered, compared and measured; and where bits are. Measured."""

DEFORMATION_COPIES = 5
"""Of a deformation's parameters: themselves, gradients, two moments, what a regulariser takes."""

BASE, BIT_BASE = 50_000_000, 150_000_000
"""Bytes that the first steps, and the results at the end, take whatever is trained; and where a loss of bits is among
the terms. Measured."""


@dataclass(frozen=True)
class Forecast:
    """The peak of memory of a training, beyond what its process holds before.

    Attributes:
        fixed: bytes whatever the number of Gaussians, less what the process holds of the training already.
        each: bytes for each Gaussian.
        most: Gaussians that there will be at the most.
        available: bytes that can be used; None where that is not known.
    """

    fixed: int
    each: int
    most: int
    available: int | None

    @property
    def need(self) -> int:
        """Bytes at the peak."""
        return self.fixed + self.each * self.most

    def fitting(self, share: float = COMFORTABLE) -> int:
        """How many Gaussians fit into a share of what is available, rounded down to two digits or three.

        Raises:
            ValueError: it is not known what is available.
        """
        if self.available is None:
            raise ValueError("it is not known how much memory is available")
        count = max(0, int((share * self.available - self.fixed) / self.each))
        unit = 10 ** max(0, len(str(count)) - 2)
        return count // unit * unit

    def __str__(self) -> str:
        """In a sentence."""
        of = "" if self.available is None else f", of {gigabytes(self.available)} available"
        return f"Memory: about {gigabytes(self.need)} more{of}; at most {self.most:,} Gaussians."


def forecast(scene: SceneData, config: ResolvedConfig, most: int | None = None, held: int = 0) -> Forecast:
    """What a training of Gaussians will need.

    Args:
        most: Gaussians that there will be at the most; None for a run that begins with one for each point of the scene.
        held: bytes that it needs and the process holds already.
    """
    colors = get_head(config.head).start(
        torch.zeros(1, 3), config.sh_degree, HeadOptions(config.bit_view, config.bit_hardness)
    )
    row = 4 * (GEOMETRY_FLOATS + sum(tensor.numel() for tensor in colors.values()))
    deformation = None if scene.time_axis is None else new_deformation(config, scene)
    moving = 0 if deformation is None else sum(4 * each.numel() for each in deformation.parameters())
    fused = deformation is None and get_backend(config.backend).feeds_consumers
    copies = ROWS_FUSED if fused else ROWS_STORED
    if config.adam_moments == "bfloat16":
        copies -= BFLOAT16_SAVES
    each = int(row * copies) + SCRATCH + _moving_scratch(deformation)
    pixels = max(view.camera.width * view.camera.height for view in scene.views)
    base, pixel = (BIT_BASE, BIT_PIXEL) if config.objective.bit_ce else (BASE, PIXEL)
    fixed = base + pixel * pixels + DEFORMATION_COPIES * moving
    on_cpu = config.device == "cpu"
    if on_cpu:
        fixed += _image_bytes(scene)
    available = available_memory() if on_cpu else free_gpu_memory(config.device)
    if most is None:
        most = largest_count(config, min(config.max_gaussians, len(scene.points)))
    return Forecast(fixed - held, each, most, available)


def fit_to_memory(found: Forecast, config: ResolvedConfig, *, given: bool) -> tuple[Forecast, ResolvedConfig]:
    """The forecast and configuration with a limit of Gaussians that fits into memory.

    Where everything fits, both stay as they are.

    Args:
        found: for this configuration.
        given: the limit is the user's own and is never changed.

    Raises:
        UserError: the memory does not suffice.
    """
    if given or found.available is None or found.need <= COMFORTABLE * found.available:
        check_fits(found)
        return found, config
    most = found.fitting()
    if most < FEWEST:
        check_fits(found)
        return found, config
    logger.warning(
        "--max-gaussians is lowered from %s to %s, which fit into the %s of memory that are available.",
        f"{config.max_gaussians:,}",
        f"{most:,}",
        gigabytes(found.available),
    )
    return replace(found, most=most), replace(config, max_gaussians=most)


def check_fits(found: Forecast, *, resumed: bool = False) -> None:
    """Warn of a training that comes near to what is available.

    Args:
        resumed: the run is there already, and its limit cannot be changed.

    Raises:
        UserError: it needs more.
    """
    if found.available is None or found.need <= COMFORTABLE * found.available:
        return
    needs = f"{found.most:,} Gaussians need about {gigabytes(found.need)} of memory"
    there = f"{gigabytes(found.available)} are available"
    most = found.fitting()
    fewer = f"take --max-gaussians {most} or fewer, " if most >= FEWEST else ""
    if found.need <= found.available:
        logger.warning("%s, and %s: that may just fit.", needs, there)
    elif resumed:
        raise UserError(f"{needs}, and {there}; close other programs, or go on where there is more memory.")
    else:
        raise UserError(f"{needs}, and {there}; {fewer}take smaller images (--downscale 2), or close other programs.")


def largest_count(config: ResolvedConfig, initial: int) -> int:
    """How many Gaussians a run can come to: with few refinements that is less than its limit."""
    if config.density == "none":
        return initial
    if config.steps is None:
        return max(initial, config.max_gaussians)
    refine = config.refine
    apart = min(refine.every, max(refine.every_at_least, config.steps * refine.every_fraction))
    refinements = (refine.stop - refine.start) * config.steps / max(1.0, apart) + 1
    factor = 1.0 + config.grow_factor if config.density == "mcmc" else 2.0
    growth = math.exp(min(600.0, refinements * math.log(factor)))
    return max(initial, int(min(config.max_gaussians, (initial + refinements) * growth)))


def growth_fits(tensors: dict[str, Tensor], new: int) -> bool:
    """Whether there is memory for adding so many rows to a model's tensors, of which longer ones are made."""
    first = next(iter(tensors.values()))
    available = available_memory() if first.device.type == "cpu" else free_gpu_memory(first.device)
    row = sum(tensor.element_size() * tensor[0].numel() for tensor in tensors.values())
    need = row * len(first) + int(row * ROWS_STORED + SCRATCH) * new
    return available is None or need <= available


def _moving_scratch(deformation: Deformation | None) -> int:
    """Bytes for each Gaussian that moving them takes."""
    if isinstance(deformation, HexPlane):
        sizes = deformation.config
        return HEXPLANE_BYTES * (len(sizes.levels) * sizes.features + sizes.width)
    if isinstance(deformation, MlpDeformation):
        return MLP_BYTES * deformation.config.depth * deformation.config.width
    return 0


def _image_bytes(scene: SceneData) -> int:
    """Bytes of decoded pictures that are still to come, and of decoding them."""
    cache = scene.images
    if not isinstance(cache, ImageCache):
        return 0
    full = sum(picture_bytes(view) for view in scene.views)
    if cache.nbytes >= full:  # a small capture, which was decoded when it was read
        return full // 3
    whole = full * 4 // 3  # smaller pictures beside the full ones
    sources = [view.source for view in scene.views if view.source is not None]
    decoding = min(4 * max(map(decoding_bytes, sources), default=0), max(cache.limit // 4, LEAST_DECODING))
    return max(0, min(whole, cache.limit) - cache.nbytes) + decoding
