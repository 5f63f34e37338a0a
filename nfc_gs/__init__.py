"""nfc-gs: 3D Gaussian splatting that trains on a plain CPU, and on a GPU where there is one.

From a capture to a trained splat, its metrics and a report:

    trained = nfc_gs.train("captures/garden", nfc_gs.TrainConfig(steps=2000), out="runs/garden")
    print(trained.folder, trained.metrics)
"""

from __future__ import annotations

__version__ = "0.1.0"

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nfc_gs.api import TrainedRun, finish, train
    from nfc_gs.core.camera import Camera, look_at
    from nfc_gs.core.errors import UserError
    from nfc_gs.data.config import DataConfig
    from nfc_gs.data.loading import load_scene
    from nfc_gs.data.scene import SceneData
    from nfc_gs.formats.registry import read_splats, write_splats
    from nfc_gs.model.gaussians import GaussianModel
    from nfc_gs.model.radiance import RenderOptions, RenderOutput
    from nfc_gs.objective.terms import Comparison, Term
    from nfc_gs.rendering.pipeline import render
    from nfc_gs.runs.checkpoint import LoadedModel, load_model
    from nfc_gs.runs.metrics import Metrics
    from nfc_gs.training.companion import Companion
    from nfc_gs.training.config import TrainConfig
    from nfc_gs.training.evaluation import evaluate
    from nfc_gs.training.trainer import Trainer
    from nfc_gs.viewer.app import view

__all__ = [
    "Camera",
    "Companion",
    "Comparison",
    "DataConfig",
    "GaussianModel",
    "LoadedModel",
    "Metrics",
    "RenderOptions",
    "RenderOutput",
    "SceneData",
    "Term",
    "TrainConfig",
    "TrainedRun",
    "Trainer",
    "UserError",
    "evaluate",
    "finish",
    "load_model",
    "load_scene",
    "look_at",
    "read_splats",
    "render",
    "train",
    "view",
    "write_splats",
]

_LAZY = {
    "Camera": "nfc_gs.core.camera",
    "Companion": "nfc_gs.training.companion",
    "Comparison": "nfc_gs.objective.terms",
    "DataConfig": "nfc_gs.data.config",
    "GaussianModel": "nfc_gs.model.gaussians",
    "LoadedModel": "nfc_gs.runs.checkpoint",
    "Metrics": "nfc_gs.runs.metrics",
    "RenderOptions": "nfc_gs.model.radiance",
    "RenderOutput": "nfc_gs.model.radiance",
    "SceneData": "nfc_gs.data.scene",
    "Term": "nfc_gs.objective.terms",
    "TrainConfig": "nfc_gs.training.config",
    "TrainedRun": "nfc_gs.api",
    "Trainer": "nfc_gs.training.trainer",
    "UserError": "nfc_gs.core.errors",
    "evaluate": "nfc_gs.training.evaluation",
    "finish": "nfc_gs.api",
    "load_model": "nfc_gs.runs.checkpoint",
    "load_scene": "nfc_gs.data.loading",
    "look_at": "nfc_gs.core.camera",
    "read_splats": "nfc_gs.formats.registry",
    "render": "nfc_gs.rendering.pipeline",
    "train": "nfc_gs.api",
    "view": "nfc_gs.viewer.app",
    "write_splats": "nfc_gs.formats.registry",
}
"""Public names that are imported when they are first used."""


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module 'nfc_gs' has no attribute '{name}'")
    value = getattr(import_module(_LAZY[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
