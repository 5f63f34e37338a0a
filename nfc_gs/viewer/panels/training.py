"""The training that runs: how it goes, pause, save, stop."""

from __future__ import annotations

from typing import Any

import numpy as np
import viser
from viser import uplot

from nfc_gs.core.events import StepDone
from nfc_gs.core.text import duration
from nfc_gs.viewer.live import Curve, LiveTraining
from nfc_gs.viewer.panels.panel import Panel
from nfc_gs.viewer.session import Session

PLOT_EVERY = 8
"""Ticks of the viewer's clock between two drawings of the curves."""

SMOOTHING = 0.05
"""Share of a new value in the smoothed PSNR of training views, each of which is of another view."""

PSNR_SERIES = (
    uplot.Series(label="Step"),
    uplot.Series(label="training, smoothed", stroke="#74808c", width=1),
    uplot.Series(label="held-out", stroke="#228be6", width=2.5),
)

LOSS_SERIES = (uplot.Series(label="Step"), uplot.Series(label="Loss", stroke="#fa5252", width=2))

WRITING = "The results are being measured and written."

STEPS = {"x": uplot.Scale(time=False)}
"""Curves over steps: not over dates, which uPlot takes for granted."""


class TrainingPanel(Panel):
    """Pause, stop, save; curves; the share of the time that the viewer takes."""

    def __init__(self, session: Session) -> None:
        super().__init__(session)
        assert session.content.live is not None
        self.live = session.content.live
        self._ticks = 0
        self._question: Any = None  # the modal window while it is open

    def build(self, gui: viser.GuiApi) -> None:
        """Add the controls."""
        live, guarded = self.live, self.session.guarded
        self.status = gui.add_markdown("Training begins.")
        self.pause = gui.add_button("Pause", hint="The training waits after its step; resume when you like.")
        self.save = gui.add_button("Save checkpoint now", hint="Into the run folder, after the step it is at.")
        self.stop = gui.add_button(
            "Stop and save", color="red", hint="End the training early; asks first. The run keeps everything."
        )
        self.results = gui.add_markdown("", visible=False)
        self.downloads = [
            gui.add_button("Download the report", visible=False, hint="A page of its own, to open in a browser."),
            gui.add_button("Download the splat", visible=False, hint="A PLY, in the capture's frame."),
        ]
        for index, button in enumerate(self.downloads):
            button.on_click(self.session.in_background(lambda _, index=index: self._download(index)))
        self.share = gui.add_slider(
            "Viewer's share", 0.02, 1.0, 0.01, live.budget.share,
            hint="Share of the time for the viewer while the training runs; less is better for the training.",
        )  # fmt: skip
        with gui.add_folder("Settings", expand_by_default=False):
            gui.add_markdown("\n".join(f"- {name}: {value}" for name, value in live.source.facts.items()) or "-")
        self.psnr = gui.add_uplot(
            psnr_data(live.psnr, live.test_psnr), PSNR_SERIES, title="PSNR (dB) of held-out views", aspect=1.8,
            scales=_psnr_scales(live),
        )  # fmt: skip
        self.loss = gui.add_uplot(_data(live.loss), LOSS_SERIES, title="Loss", aspect=1.8, scales=STEPS)
        self.pause.on_click(guarded(lambda _: live.resume() if live.paused else live.pause()))
        self.save.on_click(guarded(lambda _: live.save()))
        self.stop.on_click(guarded(lambda _: self._ask()))
        self.watch(self.share)

    def on_change(self, event: viser.GuiEvent[Any]) -> None:
        """Give the viewer its share."""
        self.live.budget.share = float(self.share.value)

    def tick(self) -> None:
        """Show how the training goes."""
        live = self.live
        self._ticks += 1
        label = "Resume" if live.paused else "Pause"
        if self.pause.label != label:
            self.pause.label = label
        for button in (self.pause, self.save, self.stop):
            if button.disabled != live.finished:
                button.disabled = live.finished
        if live.finished and live.source.folder is not None and not self.downloads[0].visible:
            self._show_results()
        if live.last is None:
            return
        text = _progress_text(live, live.last)
        if self.status.content != text:
            self.status.content = text
        if self._ticks % PLOT_EVERY == 1 and len(live.psnr.steps) > 1:
            self.psnr.scales, self.psnr.data = _psnr_scales(live), psnr_data(live.psnr, live.test_psnr)
            self.loss.data = _data(live.loss)

    def _ask(self) -> None:
        """End the training if that is confirmed."""
        if self.live.finished or self._question is not None:
            return
        gui, guarded = self.session.client.gui, self.session.guarded
        with gui.add_modal("End the training?") as self._question:
            gui.add_markdown(
                "It ends after the current step and is saved: checkpoint, splat and report. It can be "
                "continued later from the command line, with `--resume`."
            )
            end = gui.add_button("End it and save", color="red", hint="After the current step.")
            go_on = gui.add_button("Go on with the training", hint="Nothing is ended.")
        end.on_click(guarded(lambda _: self._answer(ends=True)))
        go_on.on_click(guarded(lambda _: self._answer(ends=False)))

    def _answer(self, *, ends: bool) -> None:
        question, self._question = self._question, None
        if question is not None:
            question.close()
            if ends:
                self.live.stop()

    def _show_results(self) -> None:
        """Say where the results are, and offer them to download, once they are written."""
        files, text = self.live.results(), WRITING
        if files:
            lines = [f"- {name}: `{path.resolve()}`" for name, path in zip(("Report", "Splat"), files, strict=False)]
            text = "\n".join(["**The results are written.**", "", *lines])
        if text != self.results.content:
            self.results.content, self.results.visible = text, True
        for button in self.downloads[: len(files)]:
            button.visible = True

    def _download(self, index: int) -> None:
        path = self.live.results()[index]
        self.session.send_file(f"{self.live.source.name}-{path.name}", path.read_bytes())


def _progress_text(live: LiveTraining, last: StepDone) -> str:
    """How the training goes, in lines; `last` is its last step."""
    over = "**stopped early**" if live.ended_early else "**finished**"
    state = over if live.finished else "**paused**" if live.paused else f"{live.rate:.1f} steps/s"
    left = "" if live.finished else f", {duration(last.remaining_seconds)} left"
    lines = [
        f"Step {last.step:,} ({100 * last.progress:.0f} %), {state}",
        f"Loss {last.loss:.4f}, PSNR {last.psnr:.2f} dB",
        f"Training time {duration(last.seconds)}{left}",
    ]
    if live.test_psnr.values:
        lines.append(f"Held-out views: {live.test_psnr.values[-1]:.2f} dB")
    if live.save_error:
        lines.append(f"**Not saved**: {live.save_error}")
    elif live.saved_step is not None and not live.finished:
        lines.append(f"The checkpoint of step {live.saved_step:,} is saved.")
    return "  \n".join(lines)


def _data(curve: Curve) -> tuple[np.ndarray, np.ndarray]:
    """Steps and values of a curve as uPlot takes them; an empty one has two equal points."""
    count = min(len(curve.steps), len(curve.values))  # the training adds to both, one after the other
    steps, values = curve.steps[:count] or [0.0, 1.0], curve.values[:count] or [0.0, 0.0]
    return np.asarray(steps, np.float64), np.asarray(values, np.float64)


def psnr_data(training: Curve, held_out: Curve) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Steps, smoothed PSNR of training views and PSNR of held-out views, in dB, as uPlot takes them.

    uPlot has one row of steps for all curves: that of the training. Before its first and after its last measurement
    the PSNR of held-out views is NaN, in between it is interpolated.
    """
    steps, values = _data(training)
    smooth, last = np.empty_like(values), values[0]
    for index, value in enumerate(values):
        last = last + SMOOTHING * (value - last)
        smooth[index] = last
    measured, psnr = _data(held_out)
    if not held_out.values:
        return steps, smooth, np.full_like(smooth, np.nan)
    every = np.union1d(steps, measured)
    between = np.interp(every, measured, psnr, left=np.nan, right=np.nan)
    return every, np.interp(every, steps, smooth), between


def _psnr_scales(live: LiveTraining) -> dict[str, uplot.Scale]:
    """The scales of the plot of PSNR; uPlot finds no range of its own where there is NaN."""
    values = np.concatenate(psnr_data(live.psnr, live.test_psnr)[1:])
    low, high = float(np.nanmin(values)), float(np.nanmax(values))
    margin = max(0.05 * (high - low), 0.1)
    return STEPS | {"y": uplot.Scale(range=(low - margin, high + margin))}
