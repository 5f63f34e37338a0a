"""A tiny scene whose blobs move, and how to train on it."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from functools import cache

import torch
from tiny_scenes import ImagesInMemory, available_backends, blobs, tiny_config, tiny_scene

from nfc_gs.data.scene import SceneData, TimeAxis, ViewImage
from nfc_gs.model.gaussians import GaussianModel
from nfc_gs.model.hexplane import HexPlaneConfig
from nfc_gs.model.mlp import MlpConfig
from nfc_gs.rendering.pipeline import render
from nfc_gs.training.config import DeformationConfig, LearningRates
from nfc_gs.training.trainer import Trainer

FAST = available_backends()[-1]
SMALL = HexPlaneConfig(features=16, resolution=6, levels=(1,), width=16)
RATES = LearningRates(sh0=0.03, means=5e-3, means_final=1e-3, scales=1e-2)
QUICK = DeformationConfig(warmup=8, rate=1e-3, rate_final=1e-4, plane_rate=1e-2, plane_rate_final=1e-3)
MLP = MlpConfig(depth=3, width=32, mean_frequencies=3, time_frequencies=2)


@cache
def moving_scene(times: int = 4) -> SceneData:
    """The blobs of `tiny_scene`, all of which swing together, seen by the same cameras at every time."""
    truth = blobs(12).tensors()

    def swing(time: float) -> dict[str, torch.Tensor]:
        return {"means": truth["means"] + torch.tensor([0.5 * math.sin(math.pi * (time - 0.5)), 0.0, 0.0])}

    return scene_of(swing, times)


def scene_of(changed: Callable[[float], dict[str, torch.Tensor]], times: int = 4) -> SceneData:
    """What the cameras of `tiny_scene` see of its blobs, each at every time, after changes."""
    still = tiny_scene()
    truth = blobs(12).tensors()
    views, images = [], {}
    for k in range(times):
        time = k / (times - 1)
        model = GaussianModel({**truth, **changed(time)})
        for view in still.views:
            name = f"{view.name}_{k}"
            with torch.no_grad():
                rgb = render(model, view.camera, backend="torch").rgb
            images[name] = ViewImage((rgb.clamp(0, 1) * 255).round().to(torch.uint8).numpy(), None)
            views.append(replace(view, name=name, time=time))
    return replace(
        still,
        views=tuple(views),
        train=tuple(i for i in range(len(views)) if i % 4),
        test=tuple(i for i in range(len(views)) if not i % 4),
        time_axis=TimeAxis(0.0, 1.0),
        images=ImagesInMemory(images),
    )


def moving_config(**changes: object):
    defaults = {"hexplane": SMALL, "mlp": MLP, "deformation": QUICK, "rates": RATES, "backend": FAST, "eval_every": 0.0}
    return tiny_config(**{**defaults, **changes})


def psnr(trainer: Trainer) -> float:
    value = trainer.evaluate().psnr
    assert value is not None
    return value
