"""Compiles every GPU kernel for every architecture and lists what each needs; no GPU is needed.

    python tools/cubins.py                 all architectures and all numbers of channels; about a minute and a half
    python tools/cubins.py sm_90 sm_120    these only

For two of the architectures the instructions of the rasterizer's loops are counted, too (`instructions.py`). Needs
NVIDIA's compiler and disassembler (pip install ".[dev]"). The exit code is 1 if a kernel does not compile, spills
registers, or costs more than its budget.
"""

from __future__ import annotations

import re
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import instructions
import sass
from instructions import Figure

from nfc_gs.core.errors import UserError
from nfc_gs.ops.nvrtc import SOURCES, compile_source, compiler_name
from nfc_gs.rendering.cuda_backend import WIDTHS

ARCHITECTURES = ("sm_75", "sm_80", "sm_86", "sm_89", "sm_90", "sm_100", "sm_120")

CHANNELLED = ("raster",)
"""The sources that are compiled for a number of channels."""


@dataclass(frozen=True)
class Usage:
    """What one kernel needs.

    Attributes:
        channels: that it is compiled for; 0 for any.
        registers: per thread.
        shared: bytes of shared memory per block.
        stack: bytes per thread.
        spills: bytes per thread that are stored and loaded because registers ran out.
    """

    kernel: str
    architecture: str
    channels: int
    registers: int
    shared: int
    stack: int
    spills: int


def jobs(architectures: tuple[str, ...]) -> list[tuple[str, str, int]]:
    """Everything there is to compile: source, architecture, channels."""
    return [
        (source, architecture, channels)
        for architecture in architectures
        for source in SOURCES
        for channels in (WIDTHS if source in CHANNELLED else (0,))
    ]


def usage_of(log: str, architecture: str, channels: int) -> list[Usage]:
    """What the assembler's log says of each kernel, in its order."""
    found = []
    for part in log.split("Compiling entry function ")[1:]:
        numbers = {
            name: int(match[1]) if (match := re.search(pattern, part)) else 0
            for name, pattern in (
                ("registers", r"Used (\d+) registers"),
                ("shared", r"(\d+) bytes smem"),
                ("stack", r"(\d+) bytes stack frame"),
            )
        }
        spills = sum(int(number) for number in re.findall(r"(\d+) bytes spill", part))
        found.append(Usage(part.split("'")[1], architecture, channels, **numbers, spills=spills))
    return found


def compile_all(architectures: tuple[str, ...]) -> list[Usage]:
    """Compile everything, two at a time.

    Raises:
        UserError: something does not compile.
    """

    def one(job: tuple[str, str, int]) -> list[Usage]:
        source, architecture, channels = job
        return usage_of(compile_source(source, architecture, channels).log, architecture, channels)

    compiler_name()  # imports what two threads must not import at once
    with ThreadPoolExecutor(2) as pool:
        return [usage for usages in pool.map(one, jobs(architectures)) for usage in usages]


def lines(usages: list[Usage], architectures: tuple[str, ...]) -> list[str]:
    """The table: a row for each kernel, registers + bytes of shared memory for each architecture."""
    rows: dict[tuple[str, int], dict[str, str]] = {}
    for usage in usages:
        text = f"{usage.registers} + {usage.shared}" + (f" SPILLS {usage.spills}" if usage.spills else "")
        rows.setdefault((usage.kernel, usage.channels), {})[usage.architecture] = text
    table = ["registers of a thread + bytes of shared memory of a block", ""]
    table.append(f"{'kernel':<40} {'channels':>8}" + "".join(f" {name:>12}" for name in architectures))
    for (kernel, channels), cells in sorted(rows.items()):
        table.append(f"{kernel:<40} {channels or 'any':>8}" + "".join(f" {cells[name]:>12}" for name in architectures))
    return table


def figures(usages: list[Usage], architectures: tuple[str, ...]) -> list[Figure]:
    """What has a budget, for those of the architectures whose instructions are counted.

    Raises:
        UserError: there is no disassembler, or the code has not the loops that are expected.
    """
    found = []
    for architecture in [name for name in architectures if name in instructions.ARCHITECTURES]:
        cubin = compile_source("raster", architecture, instructions.CHANNELS).code
        registers = {
            usage.kernel: usage.registers
            for usage in usages
            if usage.architecture == architecture and usage.channels in (0, instructions.CHANNELS)
        }
        found += instructions.instruction_figures(sass.disassemble(cubin), architecture)
        found += instructions.register_figures(registers, architecture)
    return [*found, instructions.memory_figure()]


def main() -> int:
    architectures = tuple(sys.argv[1:]) or ARCHITECTURES
    try:
        usages = compile_all(architectures)
        counted = figures(usages, architectures)
    except UserError as error:
        print(error, file=sys.stderr)
        return 1
    print("\n".join([*lines(usages, architectures), "", *instructions.lines(counted)]))
    spilling = [usage for usage in usages if usage.spills or usage.stack]
    for usage in spilling:
        print(
            f"{usage.kernel} for {usage.architecture} ({usage.channels} channels) spills {usage.spills} bytes and has "
            f"a stack of {usage.stack} bytes.",
            file=sys.stderr,
        )
    over = [figure for figure in counted if figure.value > figure.budget]
    for figure in over:
        print(
            f"{figure.name} ({figure.architecture}): {figure.value} is over the budget of {figure.budget}.",
            file=sys.stderr,
        )
    return 1 if spilling or over else 0


if __name__ == "__main__":
    sys.exit(main())
