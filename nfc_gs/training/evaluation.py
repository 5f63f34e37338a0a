"""Measuring a model on the held-out views of its scene."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from nfc_gs.core.files import atomic_write, make_folder
from nfc_gs.data.sampler import measured_views
from nfc_gs.data.scene import SceneData, ViewImage
from nfc_gs.model.gaussians import GaussianModel
from nfc_gs.model.radiance import RadianceModel, RenderOptions
from nfc_gs.objective import metrics as measure
from nfc_gs.ops.operations import Operations, operations_for
from nfc_gs.rendering.registry import BACKENDS
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
    most: int | None = None,
) -> Metrics:
    """Render the held-out views at full size and compare them with their images.

    Args:
        lpips: also LPIPS; where it cannot be had, a sentence says so and the other metrics stand. It knows no
            masks: what one leaves out is black in both images, and counts as equal.
        save_to: folder for `<stem>.png` and `<stem>_truth.png` of every view, made if there is a view.
        model_at: what is rendered in place of the model at the time of a view, such as the Gaussians that a splat file
            would hold. Views of the same time follow each other.
        progress: called with how many views are done, and how many there are, after each.
        most: measure so many views at most (`data.sampler.measured_views`); None for all.

    Raises:
        UserError: an image cannot be read, or not be written.
    """
    chosen = [scene.test[i] for i in measured_views(len(scene.test), most)]
    stems = image_stems([scene.views[i].name for i in chosen])
    if save_to is not None and chosen:
        make_folder(save_to)
    order = sorted(range(len(chosen)), key=lambda position: scene.views[chosen[position]].time or 0.0)
    measured: dict[int, ViewMetrics] = {}
    for done, position in enumerate(order):
        scene.prefetch([chosen[later] for later in order[done + 1 : done + 3]])
        index = chosen[position]
        view, truth = scene.views[index], scene.image(index)
        shown = model if model_at is None else model_at(view.time)
        out = render(shown, scene.camera(index), view.time, options, view=index)
        image = out.rgb.clamp(0.0, 1.0)  # [H, W, 3]
        operations = _operations(options, image.device)
        moving = _counting(scene.moving(index), truth)
        foreground = _counting(scene.foreground(index), truth)
        measured[position] = ViewMetrics(
            name=view.name,
            psnr=measure.psnr(image, truth.rgb, truth.mask, operations=operations),
            ssim=measure.ssim(image, truth.rgb, truth.mask, operations=operations),
            lpips=_lpips(image, truth) if lpips else None,
            time=view.time,
            moving_psnr=None if moving is None else measure.psnr(image, truth.rgb, moving, operations=operations),
            moving_pixels=None if moving is None else int(moving.sum()),
            foreground_psnr=(
                None if foreground is None else measure.psnr(image, truth.rgb, foreground, operations=operations)
            ),
            foreground_pixels=None if foreground is None else int(foreground.sum()),
            flat_psnr=_flat_psnr(truth),
            alpha=float(out.alpha.mean()),
        )
        if save_to is not None:
            _save(save_to / f"{stems[position]}.png", (image * 255.0).round().to(torch.uint8).cpu().numpy())
            _save(save_to / f"{stems[position]}{PHOTO_ENDING}.png", truth.rgb)
        if progress is not None:
            progress(done + 1, len(order))
    return Metrics(tuple(measured[position] for position in range(len(order))), scene.time_axis, len(scene.test))


def baked_at(model: GaussianModel, degree: int) -> Callable[[float | None], GaussianModel]:
    """For `evaluate`: the Gaussians that a splat file of this SH degree would hold, at the time of a view.

    A static model is baked once, a moving one anew where the time is another than before.
    """

    @functools.lru_cache(maxsize=1)
    def baked(time: float | None) -> GaussianModel:
        return model.at(time).baked(degree)

    return lambda time: baked(time if model.changes_with_time else None)


def _operations(options: RenderOptions, device: torch.device) -> Operations:
    """What measures a rendering: the references, where a reference has rendered it."""
    backend = BACKENDS.get(options.backend) if isinstance(options.backend, str) else options.backend
    return operations_for(device, reference=backend is not None and backend.reference)


def _flat_psnr(truth: ViewImage) -> float:
    """PSNR of a picture of one color, the mean of what counts of an image; NaN if no pixel counts."""
    pixels = truth.rgb.reshape(-1, 3) if truth.mask is None else truth.rgb[truth.mask >= 128]  # [P, 3] uint8
    if len(pixels) == 0:
        return math.nan
    values, variance = np.arange(256) / 255, 0.0
    for channel in range(3):
        share = np.bincount(pixels[:, channel], minlength=256) / len(pixels)
        variance += float(share @ (values - share @ values) ** 2) / 3
    return math.inf if variance == 0 else -10 * math.log10(variance)


def _counting(pixels: np.ndarray | None, truth: ViewImage) -> np.ndarray | None:
    """Which of these pixels ([H, W] bool) count, [H, W] bool; None if no pixel does."""
    if pixels is not None and truth.mask is not None:
        pixels = pixels & (truth.mask >= 128)
    return pixels if pixels is not None and pixels.any() else None


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
