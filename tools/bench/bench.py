"""Benchmarks. Every claim of speed comes from here, as a ratio of things measured in turn in one run.

python tools/bench/bench.py cpu                       the CPU core on the built-in capture
python tools/bench/bench.py cpu --capture FOLDER      ... on another capture
python tools/bench/bench.py scale                     the CPU core on up to a million Gaussians: speed and memory
python tools/bench/bench.py scale --against CHECKOUT  ... beside that of another checkout
python tools/bench/bench.py nfc                       what classification costs beside regression
python tools/bench/bench.py motion                    what motion costs, in training and in playing
python tools/bench/bench.py motion --run RUN          ... playing a trained splat, on its capture
python tools/bench/bench.py gpu --short               what is to be known of a GPU at first contact, in 8 minutes
python tools/bench/bench.py gpu --garden NPZ          our GPU kernels beside gsplat's, and beside what bounds them
python tools/bench/bench.py pairs --run RUN           what a GPU has to do for a scene, counted on a CPU
python tools/bench/bench.py viewer                    the viewer: pictures per second, their delay, its cost
python tools/bench/bench.py quality CAPTURE [MORE]    PSNR after 250, 500, ... 8,000 training steps
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from typing import Any

import tyro

from nfc_gs.core.errors import UserError

BENCHMARKS = ("cpu", "scale", "nfc", "motion", "gpu", "pairs", "viewer", "quality")
"""Each is a module beside this one, with its options (`Options`) and the function that takes them (`run`),
which returns the exit code or nothing."""

ALWAYS = ("cpu", "scale", "nfc")
"""These need no package that another benchmark does without."""


def benchmarks(chosen: str) -> dict[str, tuple[type, Callable[[Any], int | None]]]:
    """Options and function of every benchmark by name.

    Args:
        chosen: the first argument; if it is the name of a benchmark, the modules of others are not imported, since
            their packages may be missing: those of the viewer on a machine with a GPU, say.
    """
    names = [name for name in BENCHMARKS if chosen not in BENCHMARKS or name in (*ALWAYS, chosen)]
    modules = {name: importlib.import_module(name) for name in names}
    return {name: (module.Options, module.run) for name, module in modules.items()}


def main() -> int:
    """Run the benchmark named on the command line."""
    found = benchmarks(sys.argv[1] if len(sys.argv) > 1 else "")
    options = {name: options for name, (options, _) in found.items()}
    command = tyro.extras.subcommand_cli_from_dict(options, description=__doc__)
    try:
        return dict(found.values())[type(command)](command) or 0
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
