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
from nfc_gs.render.pipeline import RenderOutput, render

if TYPE_CHECKING:
    from nfc_gs.checkpoint import LoadedModel, load_model
    from nfc_gs.data.open import DataConfig, load_scene
    from nfc_gs.export.ply import read_ply, write_ply
    from nfc_gs.train.config import TrainConfig
    from nfc_gs.train.evaluate import Metrics, evaluate
    from nfc_gs.train.trainer import Trainer
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
    "DataConfig": "nfc_gs.data.open",
    "LoadedModel": "nfc_gs.checkpoint",
    "Metrics": "nfc_gs.train.evaluate",
    "TrainConfig": "nfc_gs.train.config",
    "Trainer": "nfc_gs.train.trainer",
    "evaluate": "nfc_gs.train.evaluate",
    "load_model": "nfc_gs.checkpoint",
    "load_scene": "nfc_gs.data.open",
    "read_ply": "nfc_gs.export.ply",
    "view": "nfc_gs.viewer.app",
    "write_ply": "nfc_gs.export.ply",
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
