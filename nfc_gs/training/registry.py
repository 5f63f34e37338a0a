"""The tables of training: how each family of models is trained, and which companions train beside a model.

To add a family, list it in `TRAINABLE_FAMILIES` here and in `runs.families.FAMILIES`. To add a companion, write a
subclass of `training.companion.Companion` in a file of its own and list what makes it in `COMPANIONS`; if it learns a
correction of views, list that in `model.correction_kinds.CORRECTIONS`, too.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from nfc_gs.data.scene import SceneData
from nfc_gs.ops.operations import Operations
from nfc_gs.training.companion import Companion
from nfc_gs.training.config import ResolvedConfig
from nfc_gs.training.deformation import deformation_companion
from nfc_gs.training.family import ModelTraining
from nfc_gs.training.forecast import Forecast, forecast
from nfc_gs.training.gaussians import GaussianTraining, new_gaussians


@dataclass(frozen=True)
class TrainableFamily:
    """How models of a family are trained.

    Attributes:
        new_model: (scene, config) -> the model that a run begins with.
        training: (model, scene, config, operations) -> what a step needs of it.
        forecast: (scene, config, most, held) -> the memory that it will need (`training.forecast.forecast`); None
            where that is not known.
    """

    new_model: Callable[[SceneData, ResolvedConfig], Any]
    training: Callable[[Any, SceneData, ResolvedConfig, Operations], ModelTraining]
    forecast: Callable[[SceneData, ResolvedConfig, int | None, int], Forecast] | None = None


TRAINABLE_FAMILIES: dict[str, TrainableFamily] = {
    "gaussians": TrainableFamily(new_gaussians, GaussianTraining, forecast),
}
"""By `RadianceModel.family`."""

COMPANIONS: list[Callable[[Any, SceneData, ResolvedConfig, Operations], Companion | None]] = [
    deformation_companion,
]
"""(model, scene, config, operations) -> a companion, or None where the configuration or the model has none."""


def companions_of(model: Any, scene: SceneData, config: ResolvedConfig, operations: Operations) -> list[Companion]:
    """The companions of a run."""
    made = (make(model, scene, config, operations) for make in COMPANIONS)
    return [companion for companion in made if companion is not None]
