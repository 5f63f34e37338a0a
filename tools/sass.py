"""Counts instructions in the loops of compiled kernels, from their disassembly; a module of `cubins.py`, no command.

A kernel's code is cut into basic blocks, its loops are found, and an iteration of a loop is a path from its head back
to its head. What an iteration costs is the instructions on that path, those with a false predicate included: they are
issued, too.
"""

from __future__ import annotations

import functools
import importlib.metadata
import re
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from nfc_gs.core.errors import UserError

PACKAGE = "nvidia-cuda-nvdisasm"

RARE = "CALL|WARPSYNC.COLLECTIVE|ENDCOLLECTIVE"
"""What blocks have that hardly ever run: divisions of unusual numbers, and shuffles of lanes that come one by one."""

_INSTRUCTION = re.compile(r"^\s+/\*[0-9a-f]+\*/\s+(?:\{\s*)?(@!?U?P\w+\s+)?([^;]*?)\s*(?:;|\})")
_SECTION = re.compile(r"^\.text\.(\w+):")
_LABEL = re.compile(r"^(\.L_\w+):")
_TARGET = re.compile(r"`\((\.L_\w+)\)")


@dataclass(frozen=True)
class Instruction:
    """One line of the disassembly.

    Attributes:
        predicated: it may do nothing.
        text: from its name on.
    """

    predicated: bool
    text: str

    @property
    def name(self) -> str:
        return self.text.split()[0]


@dataclass
class Block:
    """Instructions that are entered at the first and left after the last.

    Attributes:
        next: indices of the blocks that may follow.
    """

    instructions: list[Instruction] = field(default_factory=list)
    next: list[int] = field(default_factory=list)

    def has(self, pattern: str) -> bool:
        """Whether an instruction matches a regular expression, from its name on."""
        return any(re.match(pattern, instruction.text) for instruction in self.instructions)


@dataclass(frozen=True)
class Loop:
    """A loop of a kernel.

    Attributes:
        blocks: of the whole kernel.
        head: index of the block where an iteration begins.
        members: indices of its blocks.
    """

    blocks: list[Block]
    head: int
    members: frozenset[int]

    def count(self, pattern: str) -> int:
        """How many of its instructions match a regular expression."""
        return sum(
            bool(re.match(pattern, instruction.text))
            for index in self.members
            for instruction in self.blocks[index].instructions
        )

    def shortest(self, through: Callable[[Block], bool] | None = None, avoiding: frozenset[int] = frozenset()) -> int:
        """Instructions of the shortest iteration that passes all blocks of a kind and none of `avoiding`.

        Raises:
            UserError: there is none.
        """
        required = frozenset(i for i in self.members if through is not None and through(self.blocks[i]))
        costs = self._costs(avoiding)
        fitting = [cost for cost, passed in costs if passed >= required] if required else [cost for cost, _ in costs]
        if not fitting:
            raise UserError("the disassembly has no such iteration")
        return min(fitting)

    def longest(self, avoiding: frozenset[int] = frozenset()) -> int:
        """Instructions of the longest iteration that passes none of `avoiding`.

        Raises:
            UserError: there is none.
        """
        costs = [cost for cost, _ in self._costs(avoiding)]
        if not costs:
            raise UserError("the disassembly has no such iteration")
        return max(costs)

    def _costs(self, avoiding: frozenset[int]) -> list[tuple[int, frozenset[int]]]:
        """Instructions and blocks of every iteration that goes through no block twice."""
        found: list[tuple[int, frozenset[int]]] = []

        def walk(index: int, cost: int, passed: frozenset[int]) -> None:
            block = self.blocks[index]
            if index in avoiding or index in passed:
                return
            cost, passed = cost + len(block.instructions), passed | {index}
            for after in block.next:
                if after == self.head:
                    found.append((cost, passed))
                elif after in self.members:
                    walk(after, cost, passed)

        walk(self.head, 0, frozenset())
        return found


def disassemble(cubin: bytes) -> str:
    """The text that NVIDIA's disassembler makes of a cubin.

    Raises:
        UserError: it is not installed.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "kernels.cubin"
        path.write_bytes(cubin)
        return subprocess.run([disassembler(), "-c", str(path)], capture_output=True, text=True, check=True).stdout


@functools.cache
def disassembler() -> str:
    """The path of NVIDIA's disassembler: that of its Python package, or else one on the PATH.

    Raises:
        UserError: it is not installed.
    """
    try:
        for file in importlib.metadata.files(PACKAGE) or ():
            if file.name in ("nvdisasm", "nvdisasm.exe"):
                return str(file.locate())
    except importlib.metadata.PackageNotFoundError:
        pass
    found = shutil.which("nvdisasm")
    if found is None:
        raise UserError(f"NVIDIA's disassembler is missing; run pip install {PACKAGE}.")
    return found


def kernels(disassembly: str) -> dict[str, list[Block]]:
    """The basic blocks of every kernel by name, the first where it begins; nothing leads to or from those of `RARE`."""
    texts: dict[str, list[str]] = {}
    lines: list[str] | None = None
    for line in disassembly.splitlines():
        if section := _SECTION.match(line):
            lines = texts.setdefault(section[1], [])
        elif "\t.section" in line:
            lines = None
        elif lines is not None:
            lines.append(line)
    return {name: _blocks(lines) for name, lines in texts.items()}


def _blocks(lines: list[str]) -> list[Block]:
    blocks, at_label, targets = [Block()], {}, {}
    ended = False  # the last instruction was a jump: the next begins a block
    for line in lines:
        label, match = _LABEL.match(line), _INSTRUCTION.match(line)
        if (label or match) and (ended or (label and blocks[-1].instructions)):
            blocks.append(Block())
            ended = False
        if label:
            at_label[label[1]] = len(blocks) - 1
        elif match:
            instruction = Instruction(bool(match[1]), match[2])
            blocks[-1].instructions.append(instruction)
            if instruction.name.split(".")[0] in ("BRA", "EXIT", "RET", "CALL", "BRX"):
                ended = True
                target = _TARGET.search(instruction.text)
                if target and instruction.name.startswith("BRA"):
                    targets[len(blocks) - 1] = target[1]
    for index, block in enumerate(blocks):
        if index in targets and targets[index] in at_label:
            block.next.append(at_label[targets[index]])
        if index + 1 < len(blocks) and (not block.instructions or _may_fall_through(block.instructions[-1])):
            block.next.append(index + 1)
    rare = {index for index, block in enumerate(blocks) if block.has(RARE)}
    reached, waiting = set(), [0]
    while waiting:
        at = waiting.pop()
        blocks[at].next = [after for after in blocks[at].next if after not in rare]
        waiting += [after for after in blocks[at].next if after not in reached]
        reached |= set(blocks[at].next)
    for index in set(range(len(blocks))) - reached - {0}:
        blocks[index].next = []
    return blocks


def _may_fall_through(last: Instruction) -> bool:
    name = last.name.split(".")[0]
    if name == "BRA":  # "BRA P0, `(.L_1)" and "BRA.DIV UR4, `(.L_1)" are conditions, too
        return last.predicated or "," in last.text
    return last.predicated or name not in ("EXIT", "RET", "BRX")


def loops(blocks: list[Block]) -> list[Loop]:
    """The loops of a kernel, the smallest first; those with one head are one loop.

    A loop is what lies between a jump backwards and where that leads to: compilers lay code out so.
    """
    before: dict[int, set[int]] = {index: set() for index in range(len(blocks))}
    for index, block in enumerate(blocks):
        for after in block.next:
            before[after].add(index)
    members: dict[int, set[int]] = {}
    for index, block in enumerate(blocks):
        for head in block.next:
            if head > index:
                continue
            inside = members.setdefault(head, {head})
            waiting = [index]
            while waiting:
                at = waiting.pop()
                if at in inside or at < head:
                    continue
                inside.add(at)
                waiting += before[at]
    found = [Loop(blocks, head, frozenset(inside)) for head, inside in members.items()]
    return sorted(found, key=lambda loop: sum(len(blocks[index].instructions) for index in loop.members))


def loop_around(blocks: list[Block], pattern: str) -> Loop:
    """The smallest loop with as many matching instructions as any of the innermost loops that have one.

    (A compiler may repeat the body of a loop before it or within it.)

    Raises:
        UserError: no loop has one.
    """
    inner = [loop for loop in loops(blocks) if loop.count(pattern)]
    if not inner:
        raise UserError(f"no loop of the disassembly has an instruction like {pattern}")
    innermost = [loop for loop in inner if not any(other.members < loop.members for other in inner)]
    return max(innermost, key=lambda loop: loop.count(pattern))
