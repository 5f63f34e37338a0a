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

STEPS = {"x": uplot.Scale(time=False)}
"""Curves over steps: not over dates, which uPlot takes for granted."""


class TrainingPanel(Panel):
    """Pause, stop, save; curves; the share of the time that the viewer takes."""

    def __init__(self, session: Session) -> None:
        super().__init__(session)
        assert session.content.live is not None
        self.live = session.content.live
        self._ticks = 0

    def build(self, gui: viser.GuiApi) -> None:
        """Add the controls."""
        live, guarded = self.live, self.session.guarded
        self.status = gui.add_markdown("Training begins.")
        self.pause = gui.add_button("Pause", hint="The training waits after its step; resume when you like.")
        self.save = gui.add_button("Save checkpoint now", hint="Into the run folder, after the step it is at.")
        self.stop = gui.add_button(
            "Stop and save", color="red", hint="End the training early; the run keeps everything."
        )
        self.share = gui.add_slider(
            "Viewer's share", 0.02, 1.0, 0.01, live.budget.share,
            hint="Share of the time for the viewer while the training runs; less is better for the training.",
        )  # fmt: skip
        with gui.add_folder("Settings", expand_by_default=False):
            gui.add_markdown("\n".join(f"- {name}: {value}" for name, value in live.source.facts.items()) or "-")
        self.psnr = gui.add_uplot(
            *_data(live.psnr, "PSNR (dB)", "#228be6"), title="PSNR of training views", aspect=1.8, scales=STEPS
        )
        self.loss = gui.add_uplot(*_data(live.loss, "Loss", "#fa5252"), title="Loss", aspect=1.8, scales=STEPS)
        self.pause.on_click(guarded(lambda _: live.resume() if live.paused else live.pause()))
        self.save.on_click(guarded(lambda _: live.save()))
        self.stop.on_click(guarded(lambda _: live.stop()))
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
        if live.last is None:
            return
        text = _progress_text(live, live.last)
        if self.status.content != text:
            self.status.content = text
        if self._ticks % PLOT_EVERY == 1 and len(live.psnr.steps) > 1:
            self.psnr.data = _data(live.psnr, "", "")[0]
            self.loss.data = _data(live.loss, "", "")[0]


def _progress_text(live: LiveTraining, last: StepDone) -> str:
    """How the training goes, in lines; `last` is its last step."""
    state = "**finished**" if live.finished else "**paused**" if live.paused else f"{live.rate:.1f} steps/s"
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
    return "  \n".join(lines)


def _data(curve: Curve, label: str, color: str) -> tuple[tuple[np.ndarray, np.ndarray], tuple[uplot.Series, ...]]:
    """A curve as uPlot takes it; two equal points stand for one that is empty."""
    count = min(len(curve.steps), len(curve.values))  # the training adds to both, one after the other
    steps, values = curve.steps[:count] or [0.0, 1.0], curve.values[:count] or [0.0, 0.0]
    series = (uplot.Series(label="Step"), uplot.Series(label=label, stroke=color, width=2))
    return (np.asarray(steps, np.float64), np.asarray(values, np.float64)), series
