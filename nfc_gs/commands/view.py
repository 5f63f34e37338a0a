"""`nfc-gs view`: runs and splats in the browser; and how a training is watched."""

from __future__ import annotations

import contextlib
import webbrowser
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from nfc_gs.commands.console import Output
from nfc_gs.commands.options import Command
from nfc_gs.commands.progress import Progress
from nfc_gs.commands.runs import train_and_finish
from nfc_gs.commands.shared_options import Device, MovedCapture
from nfc_gs.core.errors import UserError
from nfc_gs.objective.terms import terms_in_words
from nfc_gs.runs.opening import what_opens
from nfc_gs.training.trainer import Trainer
from nfc_gs.viewer import HOST, PORT

if TYPE_CHECKING:
    from nfc_gs.viewer.app import Viewer
    from nfc_gs.viewer.source import Source


@dataclass(frozen=True)
class Page:
    """Where the viewer's page is, and for whom."""

    host: Annotated[str, tyro.conf.arg(metavar="ADDRESS")] = HOST
    """Address of the viewer's page. The default is for this machine alone; whoever can reach another address can look,
    and stop a training."""

    port: int = PORT
    """Port of the viewer's page, or the next free one."""

    open: bool = False
    """Open the viewer's page in a browser."""

    share: bool = False
    """Make the viewer's page public through viser's relay; it then leaves this machine."""

    trusted_origin: Annotated[tuple[str, ...], tyro.conf.arg(metavar="URL"), tyro.conf.UseAppendAction] = ()
    """Address at which a reverse proxy shows the viewer, as https://splats.example.org; may be given several times."""

    @contextlib.contextmanager
    def shows(self, sources: Sequence[Source], output: Output, **options: Any) -> Iterator[Viewer]:
        """A viewer at this place, which the output names; open while the context lasts. `options` as `Viewer`'s."""
        from nfc_gs.viewer.app import Viewer

        place = {"host": self.host, "port": self.port, "share": self.share, "trusted_origins": self.trusted_origin}
        with Viewer(sources, keeps_state=True, **place, **options) as viewer:
            if viewer.port_was_taken:
                output.line(f"Port {self.port} is taken; the next free one is used.")
            output.address(f"Viewer: {viewer.url}")
            if self.open:
                webbrowser.open(viewer.url)
            yield viewer


@dataclass(frozen=True)
class View(Command):
    """Show runs and splat files in the browser; give several to compare them.

    Examples:
      nfc-gs view runs/garden
      nfc-gs view runs/garden-nfr runs/garden-nfc
      nfc-gs view splat.ply --open

    A run that is still being trained is shown as of its last checkpoint. Ctrl-C ends, or SIGTERM.
    """

    paths: Annotated[tuple[Path, ...], tyro.conf.Positional, tyro.conf.arg(metavar="RUN_OR_SPLAT [MORE]")]
    """Run folders, checkpoints, compact files that export wrote, PLY or .splat files."""

    page: Annotated[Page, tyro.conf.arg(name="viewer")] = field(default_factory=Page)
    """Where the page is."""

    capture: MovedCapture = None

    device: Device = "auto"

    def run(self) -> int:
        """Show until Ctrl-C; returns the exit code."""
        from nfc_gs.rendering.registry import choose_device_and_backend
        from nfc_gs.viewer.source import open_source

        if not self.paths:
            raise UserError(f"There is nothing to look at; give {what_opens()}.")
        device, backend = choose_device_and_backend(self.device)
        sources = [open_source(path, capture=self.capture, device=device) for path in self.paths]
        with self.page.shows(sources, Output(), backend=backend) as viewer, contextlib.suppress(KeyboardInterrupt):
            viewer.wait()
        return 0


@contextlib.contextmanager
def watch(trainer: Trainer, output: Output, page: Page) -> Iterator[Viewer]:
    """A viewer of a training, open while the context lasts."""
    from nfc_gs.viewer.live import LiveTraining
    from nfc_gs.viewer.source import Source

    config = trainer.config
    source = Source(
        trainer.run.folder.name,
        trainer.model.copy(),
        scene=trainer.scene,
        options=trainer.render_options,
        time_axis=trainer.scene.time_axis,
        folder=trainer.run.folder,
        step=trainer.steps_done,
    )
    source.facts = {
        "Method": config.method,
        "Objective": terms_in_words(trainer.term_weights),
        "Seed": str(config.seed),
        "Device": config.device,
        "Gaussians at most": f"{config.max_gaussians:,}",
    }
    live = LiveTraining(trainer, source)
    trainer.run.add_listener(live)
    with page.shows([source], output, backend=config.backend, live=live) as viewer:
        yield viewer


def train_and_stay(trainer: Trainer, output: Output, progress: Progress, viewer: Viewer) -> int:
    """`train_and_finish`, after which the viewer stays open until Ctrl-C; Ctrl-C while it trains ends both.

    Returns:
        The exit code.
    """
    code = train_and_finish(trainer, output, progress)
    live = viewer.content.live
    assert live is not None
    if code != 0 and not live.stop_pressed:
        return code
    output.line(f"The viewer stays open: {viewer.url} (Ctrl-C ends)")
    with contextlib.suppress(KeyboardInterrupt):
        viewer.wait()
    return 0
