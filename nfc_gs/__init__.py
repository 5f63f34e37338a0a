"""nfc-gs: 3D Gaussian splatting that trains on a plain CPU, and on a GPU where there is one.

From a capture to a trained splat, its metrics and a report; then pictures, a video and the viewer:

>>> trained = nfc_gs.train("captures/garden", nfc_gs.TrainConfig(steps=20), out="runs/quick")
>>> trained.metrics.psnr > 10 and (trained.folder / "report.html").exists()
True
>>> camera = nfc_gs.look_at(eye=(0, -1, 0.5), target=(0, 0, 0), width=64, height=48)
>>> nfc_gs.render(trained, camera, outputs=("rgb", "depth", "normals")).normals.numpy().shape
(48, 64, 3)
>>> video = nfc_gs.turntable(trained, "turntable.gif", frames=4)
>>> viewer = nfc_gs.view(trained, wait=False)
Viewer: http://...
>>> viewer.close()

Frames: a scene is moved, turned and scaled when it is read, so that its centre is at the origin, +z is up, and its
cameras are about 1 from their mean. Models, cameras, points and normals are in that frame; files of splats are in the
capture's own.
"""

from __future__ import annotations

__version__ = "0.1.0"

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nfc_gs.api import TrainedRun, evaluate, render, train, turntable, view
    from nfc_gs.core.camera import Camera, look_at
    from nfc_gs.core.errors import UserError
    from nfc_gs.data.builtin.captures import write_demo_capture
    from nfc_gs.data.config import DataConfig
    from nfc_gs.data.loading import load_scene
    from nfc_gs.data.scene import PointCloud, SceneData
    from nfc_gs.export.paths import orbit
    from nfc_gs.formats.registry import read_splats, write_splats
    from nfc_gs.model.gaussians import GaussianModel
    from nfc_gs.model.radiance import RenderOptions, RenderOutput
    from nfc_gs.objective.terms import Comparison, Term
    from nfc_gs.results import finish
    from nfc_gs.runs.metrics import Metrics
    from nfc_gs.runs.opening import LoadedModel, load_model
    from nfc_gs.training.companion import Companion
    from nfc_gs.training.config import TrainConfig
    from nfc_gs.training.trainer import Trainer

__all__ = [
    "Camera",
    "Companion",
    "Comparison",
    "DataConfig",
    "GaussianModel",
    "LoadedModel",
    "Metrics",
    "PointCloud",
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
    "orbit",
    "read_splats",
    "render",
    "train",
    "turntable",
    "view",
    "write_demo_capture",
    "write_splats",
]

_LAZY = {
    "Camera": "nfc_gs.core.camera",
    "Companion": "nfc_gs.training.companion",
    "Comparison": "nfc_gs.objective.terms",
    "DataConfig": "nfc_gs.data.config",
    "GaussianModel": "nfc_gs.model.gaussians",
    "LoadedModel": "nfc_gs.runs.opening",
    "Metrics": "nfc_gs.runs.metrics",
    "PointCloud": "nfc_gs.data.scene",
    "RenderOptions": "nfc_gs.model.radiance",
    "RenderOutput": "nfc_gs.model.radiance",
    "SceneData": "nfc_gs.data.scene",
    "Term": "nfc_gs.objective.terms",
    "TrainConfig": "nfc_gs.training.config",
    "TrainedRun": "nfc_gs.api",
    "Trainer": "nfc_gs.training.trainer",
    "UserError": "nfc_gs.core.errors",
    "evaluate": "nfc_gs.api",
    "finish": "nfc_gs.results",
    "load_model": "nfc_gs.runs.opening",
    "load_scene": "nfc_gs.data.loading",
    "look_at": "nfc_gs.core.camera",
    "orbit": "nfc_gs.export.paths",
    "read_splats": "nfc_gs.formats.registry",
    "render": "nfc_gs.api",
    "train": "nfc_gs.api",
    "turntable": "nfc_gs.api",
    "view": "nfc_gs.api",
    "write_demo_capture": "nfc_gs.data.builtin.captures",
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
