"""Options that several commands have."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from nfc_gs.commands.options import Arg
from nfc_gs.rendering.registry import BACKEND_HELP, BACKEND_NAMES

DEVICE = Arg(
    metavar="NAME",
    choices=("auto", "cpu", "cuda"),
    help="Where to compute: auto, cpu or cuda; auto takes a GPU if there is one.",
)
"""`--device`."""

Device = Annotated[str, DEVICE]
"""Type of `--device`."""

BACKEND = Arg(metavar="NAME", choices=BACKEND_NAMES, help=f"The rasterizer: {BACKEND_HELP}.")
"""`--backend` where a training begins."""

RunBackend = Annotated[
    str,
    Arg(
        metavar="NAME",
        choices=BACKEND_NAMES,
        help=f"The rasterizer: {', '.join(BACKEND_NAMES)}; auto takes the one that the run was trained with.",
    ),
]
"""Type of `--backend` where a run is opened."""

MovedCapture = Annotated[
    Path | None, Arg(metavar="CAPTURE", help="Where the capture is now, if it was moved since the training.")
]
"""Type of `--capture` where a run is opened."""
