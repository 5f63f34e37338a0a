"""Listeners that show how training goes: on a terminal, in a log, in TensorBoard."""

from __future__ import annotations

import contextlib
import math
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path
from time import perf_counter

from rich.console import Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from nfc_gs.commands.console import Output, clock, decibels, ratio
from nfc_gs.core.errors import UserError
from nfc_gs.core.events import Evaluated, Event, Listener, StepDone, TrainFinished, TrainStarted

LINE_EVERY = 0.05
"""Without a terminal a line is printed after each such fraction of the run ..."""

LINE_SECONDS = (2.0, 30.0)
"""... but at least and at most this many seconds after the last."""

MEASURE_SECONDS = 10.0
"""Without a terminal a line is printed each so many seconds while held-out views are measured."""

ESTIMATE_SECONDS = 5.0
"""Seconds of training after which it is said how long all of a number of steps will take."""

SMOOTHING = 0.95
"""Loss and PSNR differ from view to view; what is shown is an exponential mean with this memory."""

TENSORBOARD_STEPS = 10
"""Steps between two points of a TensorBoard curve."""


class Progress:
    """Shows the events of a training on `output`: a live bar on a terminal, now and then a line elsewhere."""

    def __init__(self, output: Output) -> None:
        self._output = output
        self._live: Live | None = None
        self._total: int | None = None
        self._last: StepDone | None = None
        self._loss = self._psnr = math.nan
        self._recent: deque[tuple[int, float]] = deque(maxlen=50)
        self._next_line = LINE_EVERY
        self._last_line = perf_counter()
        self._estimate_at = math.inf
        self._over = False

    @contextlib.contextmanager
    def shown(self) -> Iterator[None]:
        """Keep the live display open for the time of a training."""
        if not self._output.is_terminal:
            yield
            return
        live = Live(console=self._output, get_renderable=self._picture, refresh_per_second=4, transient=True)
        self._live = live
        try:
            with _shown(live):
                yield
        finally:
            self._live = None

    @contextlib.contextmanager
    def measuring(self) -> Iterator[Callable[[int, int], None]]:
        """Shows how many held-out views are measured; yields what takes that number, and how many there are."""
        done = [0, 0]
        last = perf_counter()

        def take(count: int, total: int) -> None:
            nonlocal last
            done[:] = count, total
            if not self._output.is_terminal and perf_counter() - last >= MEASURE_SECONDS and count < total:
                last = perf_counter()
                self._output.line(f"{count:,} of {total:,} held-out views are measured")

        def picture() -> Text | Table:
            if not done[1]:
                return Text("")
            bar = Table.grid(padding=(0, 1), expand=False)
            bar.add_row(
                ProgressBar(total=float(done[1]), completed=float(done[0]), width=40),
                Text(f"{done[0]:,} of {done[1]:,} held-out views are measured"),
            )
            return bar

        if not self._output.is_terminal:
            yield take
            return
        with _shown(Live(console=self._output, get_renderable=picture, refresh_per_second=4, transient=True)):
            yield take

    def __call__(self, event: Event) -> None:
        """Take an event."""
        if isinstance(event, StepDone):
            self._step(event)
        elif isinstance(event, TrainStarted):
            self._total = event.total_steps
        elif isinstance(event, Evaluated) and not self._over:
            self._output.line(
                f"step {event.step:,}: held-out PSNR {decibels(event.psnr)}, SSIM {ratio(event.ssim)}, "
                f"after {clock(event.seconds)} of training"
            )
        elif isinstance(event, TrainFinished):
            if self._live is None and self._last is not None and self._last.step > 0:
                self._line()
            self._over = True

    def _step(self, event: StepDone) -> None:
        old = self._last
        self._last = event
        self._recent.append((event.step, event.seconds))
        if old is None:
            if self._total is not None:
                self._estimate_at = event.seconds + ESTIMATE_SECONDS
            self._loss, self._psnr = event.loss, event.psnr
            self._next_line = event.progress + LINE_EVERY
        else:
            self._loss = SMOOTHING * self._loss + (1 - SMOOTHING) * event.loss
            self._psnr = SMOOTHING * self._psnr + (1 - SMOOTHING) * event.psnr
        if self._total is not None and event.seconds >= self._estimate_at and event.progress < 1.0:
            self._estimate_at = math.inf
            left = (self._total - event.step) / self._rate()
            self._output.line(
                f"Time: about {clock(left)} more at the speed of these steps, beside evaluation and saving; larger "
                "images and more Gaussians take longer."
            )
        if self._live is not None or event.progress >= 1.0:  # the end prints the last line
            return
        since, (least, most) = perf_counter() - self._last_line, LINE_SECONDS
        if since >= most or (since >= least and event.progress >= self._next_line):
            self._line()

    def _line(self) -> None:
        event = self._last
        assert event is not None
        self._next_line = event.progress + LINE_EVERY
        self._last_line = perf_counter()
        self._output.line(f"{self._head(event)}  {self._numbers(event)}")

    def _head(self, event: StepDone) -> str:
        steps = f"{event.step:,}" if self._total is None else f"{event.step:,}/{self._total:,}"
        return f"step {steps}  {event.progress:4.0%}"

    def _numbers(self, event: StepDone) -> str:
        left = f"{clock(event.remaining_seconds)} left  " if math.isfinite(event.remaining_seconds) else ""
        return (
            f"{self._rate():.1f} it/s  {left}loss {self._loss:.4f}  PSNR {self._psnr:.2f} dB  "
            f"{_size(event)}  {event.width} x {event.height}"
        )

    def _rate(self) -> float:
        """Steps per second of training of late."""
        (first, started), (last, ended) = self._recent[0], self._recent[-1]
        if first == last and last > 0:
            return last / ended if ended > 0 else 0.0
        return (last - first) / (ended - started) if ended > started else 0.0

    def _picture(self) -> Group | Text:
        event = self._last
        if event is None:
            return Text("beginning ...")
        bar = Table.grid(padding=(0, 1), expand=False)
        bar.add_row(ProgressBar(total=1.0, completed=event.progress, width=40), Text(self._head(event), style="bold"))
        return Group(bar, Text(self._numbers(event), no_wrap=True, overflow="ellipsis"))


@contextlib.contextmanager
def _shown(live: Live) -> Iterator[None]:
    """A live display, which ends quietly with its terminal."""
    with contextlib.suppress(OSError):
        live.start()
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            live.stop()


def _size(event: StepDone) -> str:
    """How large the model is: '12,345 Gaussians'."""
    name, count = next(iter(event.sizes.items()))
    return f"{count:,} {name.capitalize()}"


def tensorboard_listener(folder: Path) -> Listener:
    """A listener that writes curves for TensorBoard into `folder`.

    Raises:
        UserError: TensorBoard is not installed.
    """
    try:
        from torch.utils.tensorboard import SummaryWriter  # pyright: ignore[reportMissingImports]
    except ImportError:
        raise UserError(
            "--tensorboard needs the package tensorboard, which is not installed; "
            "pip install 'nfc-gs[tensorboard]', or leave the option out."
        ) from None
    writer = SummaryWriter(str(folder))

    def listen(event: Event) -> None:
        if isinstance(event, StepDone) and event.step % TENSORBOARD_STEPS == 0:
            values = {"loss": event.loss, "psnr": event.psnr, **event.sizes, "width": event.width}
            for name, value in values.items():
                writer.add_scalar(f"train/{name}", value, event.step)
        elif isinstance(event, Evaluated):
            writer.add_scalar("test/psnr", event.psnr, event.step)
            writer.add_scalar("test/ssim", event.ssim, event.step)
        elif isinstance(event, TrainFinished):
            writer.flush()

    return listen
