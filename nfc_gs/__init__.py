"""nfc-gs: 3D Gaussian splatting that trains on a plain CPU, and on a GPU where there is one.

From a capture to a trained splat:

    scene = nfc_gs.load_scene("captures/garden")
    trainer = nfc_gs.Trainer(scene, nfc_gs.TrainConfig(steps=2000), "runs/garden", capture="captures/garden")
    trainer.train()
    nfc_gs.write_ply("garden.ply", trainer.model, scene.transform)
"""

from __future__ import annotations

__version__ = "0.1.0"

from importlib import import_module
from typing import TYPE_CHECKING, Any

from nfc_gs.core.camera import Camera, look_at
from nfc_gs.core.errors import UserError
from nfc_gs.data.scene import SceneData
from nfc_gs.model.gaussians import GaussianModel
from nfc_gs.model.radiance import RenderOutput
from nfc_gs.rendering.pipeline import render

if TYPE_CHECKING:
    from nfc_gs.data.loading import DataConfig, load_scene
    from nfc_gs.formats.ply import read_ply, write_ply
    from nfc_gs.runs.checkpoint import LoadedModel, load_model
    from nfc_gs.training.config import TrainConfig
    from nfc_gs.training.evaluation import Metrics, evaluate
    from nfc_gs.training.trainer import Trainer
    from nfc_gs.viewer.app import view

__all__ = [
    "Camera",
    "DataConfig",
    "GaussianModel",
    "LoadedModel",
    "Metrics",
    "RenderOutput",
    "SceneData",
    "TrainConfig",
    "Trainer",
    "UserError",
    "evaluate",
    "load_model",
    "load_scene",
    "look_at",
    "read_ply",
    "render",
    "view",
    "write_ply",
]

_LAZY = {
    "DataConfig": "nfc_gs.data.loading",
    "LoadedModel": "nfc_gs.runs.checkpoint",
    "Metrics": "nfc_gs.training.evaluation",
    "TrainConfig": "nfc_gs.training.config",
    "Trainer": "nfc_gs.training.trainer",
    "evaluate": "nfc_gs.training.evaluation",
    "load_model": "nfc_gs.runs.checkpoint",
    "load_scene": "nfc_gs.data.loading",
    "read_ply": "nfc_gs.formats.ply",
    "view": "nfc_gs.viewer.app",
    "write_ply": "nfc_gs.formats.ply",
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
