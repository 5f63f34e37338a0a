"""nfc-gs: 3D Gaussian splatting with classification colour heads, on CPU and GPU."""

from __future__ import annotations

__version__ = "0.1.0"

from nfc_gs.core.camera import Camera, look_at
from nfc_gs.core.errors import UserError
from nfc_gs.data.scene import SceneData
from nfc_gs.model.gaussians import GaussianModel
from nfc_gs.render.pipeline import RenderOutput, render

__all__ = ["Camera", "GaussianModel", "RenderOutput", "SceneData", "UserError", "look_at", "render"]
