"""Measuring a model on the held-out views of its scene."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from nfc_gs.core.files import atomic_write, make_folder
from nfc_gs.data.scene import SceneData, ViewImage
from nfc_gs.model.gaussians import GaussianModel
from nfc_gs.model.radiance import RadianceModel, RenderOptions
from nfc_gs.objective import metrics as measure
from nfc_gs.runs.families import render
from nfc_gs.runs.metrics import Metrics, ViewMetrics
from nfc_gs.runs.names import PHOTO_ENDING, image_stems


@torch.no_grad()
def evaluate(
    model: RadianceModel,
    scene: SceneData,
    options: RenderOptions = RenderOptions(),
    *,
    lpips: bool = False,
    save_to: Path | None = None,
    model_at: Callable[[float | None], RadianceModel] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Metrics:
    """Render every held-out view at full size and compare it with its image.

    Args:
        lpips: also LPIPS; where it cannot be had, a sentence says so and the other metrics stand. It knows no
            masks: what one leaves out is black in both images, and counts as equal.
        save_to: folder for `<stem>.png` and `<stem>_truth.png` of every view, made if there is a view.
        model_at: what is rendered in place of the model at the time of a view, such as the Gaussians that a splat file
            would hold.
        progress: called with how many views are done, and how many there are, after each.

    Raises:
        UserError: an image cannot be read, or not be written.
    """
    stems = image_stems([scene.views[i].name for i in scene.test])
    if save_to is not None and scene.test:
        make_folder(save_to)
    views = []
    for position, index in enumerate(scene.test):
        scene.prefetch(scene.test[position + 1 : position + 3])
        view, truth = scene.views[index], scene.image(index)
        shown = model if model_at is None else model_at(view.time)
        out = render(shown, scene.camera(index), view.time, options, view=index)
        image = out.rgb.clamp(0.0, 1.0)  # [H, W, 3]
        moving = _moving(scene.moving(index), truth)
        views.append(
            ViewMetrics(
                name=view.name,
                psnr=measure.psnr(image, truth.rgb, truth.mask),
                ssim=measure.ssim(image, truth.rgb, truth.mask),
                lpips=_lpips(image, truth) if lpips else None,
                time=view.time,
                moving_psnr=None if moving is None else measure.psnr(image, truth.rgb, moving),
                moving_pixels=None if moving is None else int(moving.sum()),
            )
        )
        if save_to is not None:
            _save(save_to / f"{stems[position]}.png", (image * 255.0).round().to(torch.uint8).cpu().numpy())
            _save(save_to / f"{stems[position]}{PHOTO_ENDING}.png", truth.rgb)
        if progress is not None:
            progress(position + 1, len(scene.test))
    return Metrics(tuple(views), scene.time_axis)


def baked_at(model: GaussianModel, degree: int) -> Callable[[float | None], GaussianModel]:
    """For `evaluate`: the Gaussians that a splat file of this SH degree would hold, at the time of a view."""
    return lambda time: model.at(time).baked(degree)


def _moving(moving: np.ndarray | None, truth: ViewImage) -> np.ndarray | None:
    """Which of the moving pixels count, [H, W] bool; None if no pixel does."""
    if moving is not None and truth.mask is not None:
        moving = moving & (truth.mask >= 128)
    return moving if moving is not None and moving.any() else None


def _lpips(image: Tensor, truth: ViewImage) -> float | None:
    """LPIPS of `image` [H, W, 3] in [0, 1], what the mask leaves out being black in both; NaN if no pixel counts."""
    expected = torch.from_numpy(truth.rgb)
    if truth.mask is not None:
        counts = torch.from_numpy(truth.mask >= 128)[..., None]  # [H, W, 1] bool
        if not counts.any():
            return math.nan
        image, expected = image * counts.to(image.device), expected * counts
    return measure.lpips(image, expected)


def _save(path: Path, pixels: np.ndarray) -> None:
    from PIL import Image

    with atomic_write(path) as temporary:
        Image.fromarray(pixels).save(temporary)
