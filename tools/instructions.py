"""What the inner loops of the GPU kernels cost, in instructions of a warp, and budgets for it.

A module of `cubins.py`, not a command. The words, for the rasterizer with three channels, where a warp has 32 pairs of
a pixel and a splat at once:

- skipped: forward, 32 splats of which none reaches the warp's pixels.
- idle: backward, a step in which no lane has a pixel.
- evaluated: the exponents of 32 pairs, of which none counts.
- blended: the same, where at least one of them counts.
- listing, queueing: backward, what comes before 32 splats and before 32 steps, for 32 pixels.
"""

from __future__ import annotations

from dataclasses import dataclass

import sass

from nfc_gs.ops.nvrtc import compile_source
from nfc_gs.rendering.cuda_backend import BUCKET_SIZES, bytes_of_an_entry

CHANNELS = 3
ARCHITECTURES = ("sm_89", "sm_90")
"""Of consumers' GPUs and of data centres; for these the instructions are counted."""

KERNELS = {
    "raster": "raster",
    "raster backward": "raster_backward",
    "projection backward": "project_splats_backward",
    "projection backward with Adam": "project_splats_backward_adam",
}
"""The kernels of most trainings whose registers have a budget."""

ALPHA_TEST = r"FSETP\S* .*, -7\.9943"
"""The comparison of an exponent with log2(1 / 255)."""


@dataclass(frozen=True)
class Figure:
    """A number to be kept low.

    Attributes:
        budget: the most it may be.
    """

    name: str
    architecture: str
    value: int
    budget: int


LISTING, QUEUEING = "raster backward: listing 32 pixels", "raster backward: queueing 32 pixels"

BUDGETS = {
    "raster: skipped": 12,
    "raster: evaluated": 23,
    "raster: blended": 41,
    "raster: registers": 40,
    "raster backward: idle": 36,
    "raster backward: evaluated": 36,
    "raster backward: blended": 72,
    LISTING: 170,
    QUEUEING: 60,
    "raster backward: registers": 66,
    "projection backward: registers": 80,
    "projection backward with Adam: registers": 80,
    "bytes of an entry for the backward pass": 60,
}
"""What the figures may be at the most; those of Faster-GS and gsplat 1.5.3 are in cuda/README.md."""


def instruction_figures(disassembly: str, architecture: str) -> list[Figure]:
    """The instructions of raster.cu, compiled for `CHANNELS`.

    Raises:
        UserError: its code has no such loops.
    """
    kernels = sass.kernels(disassembly)
    values = _forward(kernels["raster"]) | _backward(kernels["raster_backward"])
    return [Figure(name, architecture, value, BUDGETS[name]) for name, value in values.items()]


def rasterizer_costs(architecture: str) -> dict[str, int]:
    """The values of `instruction_figures`, of what is compiled for this.

    Raises:
        UserError: it cannot be compiled or disassembled.
    """
    disassembly = sass.disassemble(compile_source("raster", architecture, CHANNELS).code)
    return {figure.name: figure.value for figure in instruction_figures(disassembly, architecture)}


def register_figures(registers: dict[str, int], architecture: str) -> list[Figure]:
    """Registers of a thread of the kernels with a budget.

    Args:
        registers: of every kernel.
    """
    names = {f"{name}: registers": registers[kernel] for name, kernel in KERNELS.items()}
    return [Figure(name, architecture, value, BUDGETS[name]) for name, value in names.items()]


def _forward(blocks: list[sass.Block]) -> dict[str, int]:
    pairs = sass.loop_around(blocks, ALPHA_TEST)
    around = next(loop for loop in sass.loops(blocks) if loop.members > pairs.members)
    return {
        "raster: skipped": around.shortest(avoiding=pairs.members),
        "raster: evaluated": _evaluated(pairs),
        "raster: blended": _per_pair(pairs, pairs.longest()),
    }


def _backward(blocks: list[sass.Block]) -> dict[str, int]:
    steps = sass.loop_around(blocks, ALPHA_TEST)
    around = next(loop for loop in sass.loops(blocks) if loop.members > steps.members)
    return {
        "raster backward: idle": _per_pair(steps, steps.shortest()),
        "raster backward: evaluated": _evaluated(steps),
        "raster backward: blended": _per_pair(steps, steps.longest()),
        LISTING: sass.loop_around(blocks, "POPC").longest(),
        QUEUEING: around.longest(avoiding=steps.members),
    }


def _evaluated(loop: sass.Loop) -> int:
    return _per_pair(loop, loop.shortest(through=lambda block: block.has(ALPHA_TEST)))


def _per_pair(loop: sass.Loop, instructions: int) -> int:
    """A compiler may put several pairs into one iteration."""
    return -(-instructions // loop.count(ALPHA_TEST))


def memory_figure() -> Figure:
    """Bytes of a pair of a tile and a splat in large scenes."""
    name = "bytes of an entry for the backward pass"
    return Figure(name, "any", bytes_of_an_entry(CHANNELS, BUCKET_SIZES[0]), BUDGETS[name])


def lines(figures: list[Figure]) -> list[str]:
    """The table: a row for each figure, a column for each architecture, and the budget."""
    rows: dict[str, list[Figure]] = {}
    for figure in figures:
        rows.setdefault(figure.name, []).append(figure)
    names = sorted({figure.architecture for figure in figures})
    table = [f"instructions of a warp for 32 pairs of a pixel and a splat, {CHANNELS} channels, and other figures", ""]
    table.append(f"{'':<44}" + "".join(f" {name:>8}" for name in names) + f" {'budget':>8}")
    for name, row in rows.items():
        cells = {figure.architecture: figure.value for figure in row}
        table.append(f"{name:<44}" + "".join(f" {cells.get(at, ''):>8}" for at in names) + f" {row[0].budget:>8}")
    return table
