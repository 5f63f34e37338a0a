"""Options that several commands have."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import tyro

from nfc_gs.rendering.registry import BACKEND_HELP, BACKEND_NAMES

Device = Annotated[
    str,
    tyro.conf.arg(
        metavar="{auto,cpu,cuda,cuda:N}",
        help="Where to compute: auto, cpu, cuda or cuda:N (the GPU of that number); auto takes a GPU if there is one.",
    ),
]
"""Type of `--device`."""

_BackendName: Any = tyro.extras.literal_type_from_choices(BACKEND_NAMES)

Backend = Annotated[_BackendName, tyro.conf.arg(help=f"The rasterizer: {BACKEND_HELP}.")]
"""Type of `--backend` where a training begins."""

RunBackend = Annotated[
    _BackendName,
    tyro.conf.arg(
        help=f"The rasterizer: {', '.join(BACKEND_NAMES)}; auto takes the one that the run was trained with."
    ),
]
"""Type of `--backend` where a run is opened."""

MovedCapture = Annotated[
    Path | None, tyro.conf.arg(metavar="CAPTURE", help="Where the capture is now, if it was moved since the training.")
]
"""Type of `--capture` where a run is opened."""
