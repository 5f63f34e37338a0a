"""One view of the scene while it was trained."""

from __future__ import annotations

from html import escape
from typing import Any

from nfc_gs.export.report_files import RunFiles, log
from nfc_gs.export.report_pictures import data_uri, read_picture
from nfc_gs.export.report_sections.section import Section, section_of
from nfc_gs.runs.names import TIMELAPSE
from nfc_gs.runs.timelapse import timelapse_files, timelapse_view

MAX_BYTES = 800_000
"""Of the embedded pictures together; of more, every second one is left out."""


def section(run: RunFiles) -> Section:
    """A slider through the pictures; the last one stands there without the script."""
    frames = _frames(run)
    if len(frames) < 2:
        return Section()
    last = frames[-1]
    end = len(frames) - 1
    name = ""
    if run.checkpoint is not None:
        scene = run.checkpoint.scene
        name = f" of the view {escape(scene.views[timelapse_view(scene)].name)}"
    body = (
        f'<div class="lapse card"><img id="lapse" alt="The view at step {last["step"]:,} of the training" '
        f'src="{last["uri"]}" width="{last["width"]}" height="{last["height"]}" '
        f'style="--aspect:{last["width"] / last["height"]:.4f}">'
        '<div class="controls"><button type="button" id="lapse-play" aria-label="Play the time-lapse">&#9654;</button>'
        f'<input type="range" id="lapse-at" min="0" max="{end}" value="{end}" aria-label="Picture of the time-lapse">'
        f'<output id="lapse-step" for="lapse-at">Step {last["step"]:,}</output></div>'
        f'<p class="note">{len(frames)} pictures{name}, more of them at the beginning, where most happens.</p></div>'
    )
    return Section(section_of("lapse", "Time-lapse of the training", body), frames)


def _frames(run: RunFiles) -> list[dict[str, Any]]:
    """{"step", "uri", "width", "height"} of each picture that can be read, thinned to the byte budget."""
    frames = []
    for step, path in timelapse_files(run.folder / TIMELAPSE):
        pixels = read_picture(path)
        if pixels is None:
            continue
        try:
            uri = data_uri(path.read_bytes(), "image/jpeg")
        except OSError as error:
            log.warning("The report leaves out %s, which cannot be read: %s.", path, error)
            continue
        frames.append({"step": step, "uri": uri, "width": pixels.shape[1], "height": pixels.shape[0]})
    while len(frames) > 2 and sum(len(frame["uri"]) for frame in frames) > MAX_BYTES:
        frames = frames[-1::-2][::-1]
    return frames
