"""Parses the PTX that NVRTC makes: a module of constants and kernels, a kernel of variables, registers and code."""

from __future__ import annotations

import re
import struct
from bisect import bisect_right
from dataclasses import dataclass, field

BITS = {"pred": 1} | {f"{kind}{bits}": bits for kind in "bus" for bits in (8, 16, 32, 64)} | {"f32": 32, "f64": 64}
"""How many bits a type has. Its first letter says what they are: b bits, u unsigned, s signed, f floating-point."""


FLOAT_LITERALS = {"0f": 32, "0d": 64}
"""How the literal of a floating-point number begins, and its bits."""


class PtxError(Exception):
    """PTX that cannot be translated, with the kernel and the line."""


@dataclass(frozen=True)
class Variable:
    """An array, or a single value, in memory.

    Attributes:
        space: "global", "const", "shared" or "local".
        align, size: in bytes.
        content: its bytes at the start; empty where there are none.
    """

    space: str
    name: str
    align: int
    size: int
    content: bytes


@dataclass(frozen=True)
class Label:
    name: str


@dataclass(frozen=True)
class Instruction:
    """One instruction.

    Attributes:
        guard: the predicate it is executed under, as "%p1" or "!%p1"; empty for always.
        name: with its modifiers and types, as "add.s32".
        operands: as written, with `%` before the names of registers; the registers of an inner scope renamed.
        used_bytes: which bytes of a load are used (a bit each), as the compiler notes before loads that are wider.
    """

    line: int
    guard: str
    name: str
    operands: tuple[str, ...]
    used_bytes: int = -1

    @property
    def op(self) -> str:
        return self.name.split(".")[0]

    @property
    def types(self) -> tuple[str, ...]:
        """The types at the end of its name, as ("f32", "s32") of "cvt.rn.f32.s32"."""
        parts = self.name.split(".")
        first = next((k for k in range(len(parts), 0, -1) if parts[k - 1] not in BITS), 0)
        return tuple(parts[first:])

    @property
    def modifiers(self) -> tuple[str, ...]:
        """What is between operation and types, as ("rn",) of "cvt.rn.f32.s32"."""
        parts = self.name.split(".")
        return tuple(parts[1 : len(parts) - len(self.types)])


@dataclass
class Kernel:
    """One kernel.

    Attributes:
        parameter: the name of its only argument.
        threads: in a block.
        registers: name, without %, to type.
        branch_tables: label to the labels that `brx.idx` chooses among.
    """

    name: str
    parameter: str
    threads: int
    variables: list[Variable] = field(default_factory=list)
    registers: dict[str, str] = field(default_factory=dict)
    code: list[Label | Instruction] = field(default_factory=list)
    branch_tables: dict[str, tuple[str, ...]] = field(default_factory=dict)


@dataclass(frozen=True)
class Module:
    variables: list[Variable]
    kernels: list[Kernel]


ENTRY = re.compile(r"(?:\.visible\s+|\.weak\s+)?\.entry\s+([\w$]+)\s*\(([^)]*)\)([^{]*)\{")
VARIABLE = re.compile(
    r"(?:\.(?:visible|weak|extern)\s+)*\.(global|const|shared|local)\s+(?:\.align\s+(\d+)\s+)?\.(\w+)\s+([\w$]+)"
    r"\s*(\[\s*\d*\s*\])?\s*(?:=\s*(.*))?$",
    re.S,
)
TOKEN = re.compile(
    r'\s*(?:(?P<open>\{)|(?P<close>\})|(?P<label>[$\w]+)\s*:|(?P<statement>[^\s;{}](?:[^;"]|"[^"]*")*);)'
)
NAME = re.compile(r"(?<![\w$%])%?[A-Za-z_$][\w$]*")


def parse(text: str) -> Module:
    """The module that a text holds.

    Raises:
        PtxError: it has something that this parser does not know.
    """
    text = re.sub(r"//[^\n]*", lambda comment: " " * len(comment[0]), text.replace("\0", " "))
    newlines = [found.start() for found in re.finditer("\n", text)]

    def line_of(position: int) -> int:
        return bisect_right(newlines, position) + 1

    kernels, outside, end = [], [], 0
    for entry in ENTRY.finditer(text):
        outside.append((end, text[end : entry.start()]))
        end = _end_of_block(text, entry.end())
        name, parameters, directives = entry.groups()
        threads = re.search(r"\.maxntid\s+(\d+)\s*(?:,\s*1\s*)*(?![\s\d,])", directives + ".")
        names = re.findall(r"\.param\s[^,]*?([\w$]+)\s*(?:\[\d+\])?\s*(?:,|$)", parameters.strip())
        if threads is None or len(names) != 1:
            raise PtxError(
                f"kernel {name}, line {line_of(entry.start())}: it needs launch bounds (along x) and one struct"
            )
        kernels.append(Kernel(name, names[0], int(threads[1])))
        _Body(kernels[-1], line_of).read(text, entry.end(), end)
    outside.append((end, text[end:]))
    variables = []
    for start, part in outside:
        part = re.sub(
            r"^\s*\.(version|target|address_size)\b[^\n]*", lambda found: " " * len(found[0]), part, flags=re.M
        )
        for statement in re.finditer(r"[^\s;][^;]*", part):
            variables.append(_variable(statement[0].strip(), f"line {line_of(start + statement.start())}"))
    return Module(variables, kernels)


def _end_of_block(text: str, position: int) -> int:
    """Behind the brace that closes the block whose content starts at `position`."""
    depth = 1
    while depth:
        brace = re.compile(r"[{}]").search(text, position)
        if brace is None:
            raise PtxError("the text ends within a kernel")
        depth += 1 if brace[0] == "{" else -1
        position = brace.end()
    return position


class _Body:
    """Reads what is between the braces of a kernel."""

    def __init__(self, kernel: Kernel, line_of) -> None:
        self.kernel, self.line_of = kernel, line_of
        self.scopes: list[dict[str, str]] = [{}]  # written name to name, of registers
        self.scope_count = 0
        self.used_bytes = -1  # of the next instruction
        self.label = ""  # the one before

    def read(self, text: str, position: int, end: int) -> None:
        while text[position:end].strip() != "}":
            token = TOKEN.match(text, position, end)
            if token is None:
                raise PtxError(f"{self._where(position)}: it does not end with a semicolon")
            position = token.end()
            if token["open"]:
                self.scopes.append({})
                self.scope_count += 1
            elif token["close"]:
                self.scopes.pop()
            elif token["label"]:
                self.label = token["label"]
                self.kernel.code.append(Label(self.label))
            else:
                self._statement(" ".join(token["statement"].split()), token.start("statement"))

    def _where(self, position: int) -> str:
        return f"kernel {self.kernel.name}, line {self.line_of(position)}"

    def _statement(self, text: str, position: int) -> None:
        directive = re.match(r"\.\w+", text)
        if directive is None:
            self._instruction(text, position)
        elif directive[0] == ".reg":
            self._registers(text, position)
        elif directive[0] == ".pragma":
            mask = re.search(r'"used_bytes_mask (\w+)"', text)
            self.used_bytes = int(mask[1], 0) if mask else self.used_bytes
        elif directive[0] == ".branchtargets":
            self.kernel.branch_tables[self.label] = tuple(re.findall(r"[\w$]+", text)[1:])
        else:
            variable = _variable(text, self._where(position))
            if any(variable.name == other.name for other in self.kernel.variables):
                raise PtxError(f"{self._where(position)}: there are two variables {variable.name}")
            self.kernel.variables.append(variable)

    def _registers(self, text: str, position: int) -> None:
        """`.reg .b32 %r<45>;` declares %r0 to %r44, `.reg .b32 %a, %b;` these two."""
        _, kind, names = text.split(None, 2)
        for name in names.split(","):
            declared = re.fullmatch(r"\s*(%?[\w$]+?)(?:<(\d+)>)?\s*", name)
            assert declared is not None, text
            written, count = declared.groups()
            for each in [written] if count is None else [f"{written}{k}" for k in range(int(count))]:
                unique = each.lstrip("%").replace("$", "_")
                if count is None or len(self.scopes) > 1:
                    unique += f"_{self.scope_count}"
                if unique in self.kernel.registers:
                    raise PtxError(f"{self._where(position)}: the name of {each} is too much like another's")
                self.scopes[-1][each] = f"%{unique}"
                self.kernel.registers[unique] = kind.lstrip(".")

    def _instruction(self, text: str, position: int) -> None:
        found = re.fullmatch(r"(?:@(!?%?[\w$]+)\s+)?([a-z][\w.:]*)\s*(.*)", text)
        if found is None:
            raise PtxError(f"{self._where(position)}: '{text}' is not an instruction")
        guard, name, operands = found.groups()
        parts = re.findall(r"(?:\{[^}]*\}|\[[^\]]*\]|[^,{\[])+", self._renamed(operands))
        self.kernel.code.append(
            Instruction(
                self.line_of(position),
                self._renamed(guard or ""),
                name,
                tuple(part.strip() for part in parts if part.strip()),
                self.used_bytes,
            )
        )
        self.used_bytes = -1

    def _renamed(self, text: str) -> str:
        def unique(name: re.Match[str]) -> str:
            return next((scope[name[0]] for scope in reversed(self.scopes) if name[0] in scope), name[0])

        return NAME.sub(unique, text)


def _variable(text: str, where: str) -> Variable:
    declared = VARIABLE.match(text)
    if declared is None or declared[3] not in BITS:
        raise PtxError(f"{where}: '{text[:60]}' is not known")
    space, align, kind, name, extent, content = declared.groups()
    bytes_each = BITS[kind] // 8
    values = [] if content is None else re.findall(r"[^\s{},]+", content)
    try:
        packed = b"".join(_packed(value, bytes_each) for value in values)
    except ValueError:
        raise PtxError(f"{where}: a value of {name} is not a number") from None
    count = 1 if extent is None else int(extent.strip("[] \t") or len(values))
    return Variable(space, name, int(align or bytes_each), count * bytes_each, packed)


def _packed(value: str, size: int) -> bytes:
    number = number_of(value)
    return struct.pack("<Q", number & 0xFFFFFFFFFFFFFFFF)[:size]


def number_of(text: str) -> int:
    """The bits of a literal: 12, -1, 0x7F, 0f3F800000 (a float) or 0d3FF0000000000000 (a double).

    Raises:
        ValueError: it is none.
    """
    size = FLOAT_LITERALS.get(text[:2].lower())
    if size:
        if len(text) != 2 + size // 4:
            raise ValueError(f"{text} has not the digits of {size} bits")
        return int(text[2:], 16)
    return int(text.rstrip("U"), 0)
