"""The training that runs: how it goes, and what it is told."""

from __future__ import annotations

import numpy as np
from viser import uplot

from nfc_gs.core.text import duration
from nfc_gs.viewer.live import Curve
from nfc_gs.viewer.session import Session

PLOT_EVERY = 8
"""Ticks of the viewer's clock between two drawings of the curves."""

STEPS = {"x": uplot.Scale(time=False)}
"""Curves over steps: not over dates, which uPlot takes for granted."""


def add_training(session: Session) -> None:
    """Pause, stop, save; curves; the share of the time that the viewer takes."""
    live, gui = session.viewer.live, session.client.gui
    assert live is not None
    status = gui.add_markdown("Training begins.")
    pause = gui.add_button("Pause", hint="The training waits after its step; resume when you like.")
    save = gui.add_button("Save checkpoint now", hint="Into the run folder, after the step it is at.")
    stop = gui.add_button("Stop and save", color="red", hint="End the training early; the run keeps everything.")
    share = gui.add_slider(
        "Viewer's share", 0.02, 1.0, 0.01, live.budget.share,
        hint="Part of the time that looking may take while the training runs; less is better for the training.",
    )  # fmt: skip
    with gui.add_folder("Settings", expand_by_default=False):
        gui.add_markdown("\n".join(f"- {name}: {value}" for name, value in live.source.facts.items()) or "-")
    psnr = gui.add_uplot(
        *_data(live.psnr, "PSNR (dB)", "#228be6"), title="PSNR of training views", aspect=1.8, scales=STEPS
    )
    loss = gui.add_uplot(*_data(live.loss, "Loss", "#fa5252"), title="Loss", aspect=1.8, scales=STEPS)
    ticks = [0]

    def tick() -> None:
        ticks[0] += 1
        _write(pause, "label", "Resume" if live.paused else "Pause")
        for button in (pause, save, stop):
            _write(button, "disabled", live.finished)
        last = live.last
        if last is None:
            return
        state = "**finished**" if live.finished else "**paused**" if live.paused else f"{live.rate:.1f} steps/s"
        left = "" if live.finished else f", {duration(last.remaining_seconds)} left"
        lines = [
            f"Step {last.step:,} ({100 * last.progress:.0f} %), {state}",
            f"Loss {last.loss:.4f}, PSNR {last.psnr:.2f} dB",
            f"Training time {duration(last.seconds)}{left}",
        ]
        if live.test_psnr.values:
            lines.append(f"Held-out views: {live.test_psnr.values[-1]:.2f} dB")
        if live.unsaved:
            lines.append(f"**Not saved**: {live.unsaved}")
        _write(status, "content", "  \n".join(lines))
        if ticks[0] % PLOT_EVERY == 1 and len(live.psnr.steps) > 1:
            psnr.data = _data(live.psnr, "", "")[0]
            loss.data = _data(live.loss, "", "")[0]

    def toggle(_: object) -> None:
        if live.paused:
            live.resume()
        else:
            live.pause()

    def set_share(_: object) -> None:
        live.budget.share = float(share.value)

    pause.on_click(session.guarded(toggle))
    save.on_click(session.guarded(lambda _: live.save()))
    stop.on_click(session.guarded(lambda _: live.stop()))
    share.on_update(session.guarded(set_share))
    session.on_tick.append(tick)


def _write(handle: object, name: str, value: object) -> None:
    """Set a property of a control if that changes it."""
    if getattr(handle, name) != value:
        setattr(handle, name, value)


def _data(curve: Curve, label: str, color: str) -> tuple[tuple[np.ndarray, np.ndarray], tuple[uplot.Series, ...]]:
    """A curve as uPlot takes it; two equal points stand for one that is empty."""
    count = min(len(curve.steps), len(curve.values))  # the training adds to both, one after the other
    steps, values = curve.steps[:count] or [0.0, 1.0], curve.values[:count] or [0.0, 0.0]
    series = (uplot.Series(label="Step"), uplot.Series(label=label, stroke=color, width=2))
    return (np.asarray(steps, np.float64), np.asarray(values, np.float64)), series
