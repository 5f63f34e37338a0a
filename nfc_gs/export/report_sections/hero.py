"""The head of the report: a large rendering of the scene, what the result is worth in words, and what to do next."""

from __future__ import annotations

import shlex
from html import escape

import numpy as np
import torch

from nfc_gs.core.errors import UserError
from nfc_gs.export.report_files import RunFiles, ViewResult, as_mapping, log
from nfc_gs.export.report_pictures import jpeg, picture_files, read_pictures
from nfc_gs.export.report_sections.section import Section, image
from nfc_gs.export.report_sections.slider import slider
from nfc_gs.runs.checkpoint import Checkpoint
from nfc_gs.runs.families import render
from nfc_gs.runs.names import TEST_RENDERS
from nfc_gs.runs.timelapse import timelapse_view
from nfc_gs.runs.verdict import verdict

SIDE, MAX_BYTES = 1200, 700_000
"""Longest side of the picture, pixels, and size of photo and rendering each."""

MEANING = (
    "PSNR compares renderings with photos that training has not seen: 6 dB more is half the error. "
    "SSIM compares structure, as edges and texture; 1 is a perfect match."
)


def section(run: RunFiles) -> Section:
    """Picture, name, verdict, next steps."""
    words = [as_mapping(run.config).get("capture"), run.metrics.get("device")]
    subtitle = " · ".join(escape(str(word)) for word in words if isinstance(word, (str, int, float)))
    picture, aspect = _picture(run)
    return Section(
        f'<header class="hero{"" if picture else " bare"}" style="--aspect:{aspect:.4f}">{picture}<div class="words">'
        '<p class="kicker">nfc-gs training report</p>'
        f"<h1>{escape(run.folder.resolve().name)}</h1>"
        + (f'<p class="muted">{subtitle}</p>' if subtitle else "")
        + _verdict(run)
        + f'<ul class="next">{"".join(f"<li>{step}</li>" for step in _next_steps(run))}</ul></div></header>'
    )


def _picture(run: RunFiles) -> tuple[str, float]:
    """The best held-out view, divided from its photo by a slider; without one a view rendered from the checkpoint.

    Returns:
        HTML, empty if there is no picture; width / height.
    """
    view = _best_view(run)
    pictures = None if view is None else read_pictures(run.folder / TEST_RENDERS, view.stem)
    if view is not None and pictures is not None:
        truth, rendering = (jpeg(pixels, SIDE, MAX_BYTES) for pixels in pictures)
        html = slider("hero", truth, rendering, 22)
        words = f"The best held-out view, {view.name}; drag to compare it with the photo"
    else:
        rendered = None if run.checkpoint is None else _rendered(run, run.checkpoint)
        if rendered is None:
            return "", 1.0
        rendering, words = jpeg(rendered[0], SIDE, MAX_BYTES), f"The view {rendered[1]} as the model shows it"
        html = image(rendering, words)
    aspect = rendering.width / rendering.height
    return f"<figure>{html}<figcaption>{escape(words)}</figcaption></figure>", aspect


def _best_view(run: RunFiles) -> ViewResult | None:
    there = [view for view in run.views if picture_files(run.folder / TEST_RENDERS, view.stem)]
    return max(there, key=lambda view: view.psnr or 0.0, default=None)


def _rendered(run: RunFiles, checkpoint: Checkpoint) -> tuple[np.ndarray, str] | None:
    """A view [H, W, 3] uint8 rendered from the checkpoint, and its name; None if it cannot be rendered here."""
    index = timelapse_view(checkpoint.scene)
    view = checkpoint.scene.views[index]
    factor = min(1.0, SIDE / max(view.camera.width, view.camera.height))
    size = (max(1, round(view.camera.width * factor)), max(1, round(view.camera.height * factor)))
    try:
        with torch.no_grad():
            assert run.model is not None
            options = checkpoint.render_options()
            rgb = render(run.model, view.camera.resized(*size), view.time, options, view=index).rgb
    except (UserError, RuntimeError) as error:
        log.warning("The report has no large picture, since the model cannot be rendered here: %s", error)
        return None
    return (rgb.clamp(0.0, 1.0) * 255.0).round().to(torch.uint8).numpy(), view.name


def _verdict(run: RunFiles) -> str:
    """What the result is worth, in words."""
    psnr = run.mean_psnr
    if psnr is None:
        words = "No photo was held out, so nothing says how the scene looks from elsewhere than the photos."
        if not run.metrics:
            words = "Nothing has been measured yet."
        return f'<p class="verdict">{words}</p>'
    quality = verdict(psnr, steps=int(run.steps or 0), better_than_flat=run.better_than_flat).quality
    return (
        f'<p class="verdict"><strong>{psnr:.1f} dB</strong> {escape(quality[0].upper() + quality[1:])}.</p>'
        f'<p class="muted">{MEANING}</p>'
    )


def _next_steps(run: RunFiles) -> list[str]:
    """What to do next, as HTML."""
    where = shlex.quote(str(run.folder))
    steps = []
    if run.steps and run.progress is not None and run.progress < 1.0:
        state = "It was ended early" if run.metrics else "Training has not ended yet"
        command = "Trainer.resume" if run.given else f"nfc-gs train --resume {where}"
        steps.append(
            f"{state}: {run.progress:.0%} of the run is done, {run.steps:,.0f} steps. "
            f"<code>{escape(command)}</code> goes on with it."
        )
    elif run.mean_psnr is not None and not run.moves and run.steps:
        outlook = verdict(run.mean_psnr, steps=int(run.steps), better_than_flat=run.better_than_flat).outlook
        if outlook is not None:
            steps.append(escape(outlook))
    if run.checkpoint is not None:
        steps.append(f"Look at it from all sides: <code>nfc-gs view {escape(where)}</code>.")
    worst = run.ordered[0] if run.ordered else None
    if worst is not None and worst.pictures and worst.psnr is not None and len(run.ordered) > 1:
        steps.append(
            f'See where it fails: <a href="#h-views">the worst held-out view</a> has {worst.psnr:.1f} dB, '
            "and its errors are drawn beside it."
        )
    return steps
