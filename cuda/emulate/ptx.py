"""Translates the PTX that NVRTC makes of `cuda/gpu` to C++ over `ptx.h`, to run it without a GPU.

    python cuda/emulate/ptx.py --list        the instructions in our kernels, for all architectures
    python cuda/emulate/ptx.py --list sm_75  for this one, or several
    python cuda/emulate/ptx.py raster.ptx    the C++ of a file of PTX

`ptx_parser.py` reads the text, and most of what instructions compute is in `ptx_rules.py`. An instruction or modifier
that is in neither that table nor a method here is an error.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path

from ptx_parser import BITS, FLOAT_LITERALS, Instruction, Kernel, Label, Module, PtxError, Variable, number_of, parse
from ptx_rules import ATOMICS, COMBINATIONS, COMPARISONS, HINTS, ROUNDING, RULES, SPACES, SPECIAL, TO_WHOLE


def cpp_type(kind: str) -> str:
    if kind == "pred":
        return "bool"
    if kind[0] == "f":
        return "float" if kind == "f32" else "double"
    return f"{'int' if kind[0] == 's' else 'uint'}{BITS[kind]}_t"


def wide(kind: str) -> str:
    return f"{kind[0]}{2 * BITS[kind]}"


def identifier(symbol: str) -> str:
    return symbol.lstrip("%").replace("$", "_")


def readable(symbol: str) -> str:
    """The name that a variable of a kernel has in its source: `a` of "_ZZ8kernel_0E1a"."""
    inner = re.fullmatch(r"_ZZ.*E(\d+)([A-Za-z_]\w*)", symbol)
    return inner[2][: int(inner[1])] if inner else symbol


def substituted(expression: str, **values: str) -> str:
    return re.sub(r"\b[A-Za-z]+\b", lambda word: values.get(word[0], word[0]), expression)


# ---- a kernel -------------------------------------------------------------------------------------------------------


class Writer:
    """Writes the C++ of one kernel."""

    def __init__(self, kernel: Kernel, constants: list[Variable]) -> None:
        self.kernel = kernel
        self.shared = [v for v in [*constants, *kernel.variables] if v.space == "shared"]
        self.symbols = {v.name: f"uint64_t({identifier(v.name)})" for v in [*constants, *kernel.variables]}
        for place, variable in enumerate(self.shared):
            # far apart, and aligned to no more than is asked for: see SharedMemory
            self.symbols[variable.name] = f"{hex(((place + 1) << 20) + variable.align)}u"
        self.symbols[kernel.parameter] = "uint64_t(arguments)"
        self.labels = {each.name for each in kernel.code if isinstance(each, Label)}
        self.unit = 4  # the smallest access to shared memory, in bytes
        self.forms: dict[str, Callable[[Instruction], str]] = {
            "mov": self.mov, "ld": self.load, "st": self.store, "cvt": self.convert, "setp": self.compare,
            "set": self.compare, "bra": self.branch, "brx": self.branch_by_index, "shfl": self.shuffle,
            "atom": self.atomic, "red": self.atomic,
        }  # fmt: skip

    def text(self) -> str:
        kernel, code = self.kernel, []
        for each in kernel.code:
            if isinstance(each, Label):
                code.append(f"{identifier(each.name)}:;")
                continue
            guard = "" if not each.guard else f"if ({self.read(each, each.guard, 'pred')}) "
            written = f"@{each.guard} " if each.guard else ""
            operands = ", ".join(each.operands)
            code.append(f"  {guard}{{ {self.statement(each)} }}  // {each.line}: {written}{each.name} {operands}")
        registers = defaultdict(list)
        for name, kind in kernel.registers.items():
            registers["bool" if kind == "pred" else f"uint{BITS[kind]}_t"].append(f"{name} = 0")
        declared = [f"  {kind} {', '.join(names)};" for kind, names in registers.items()]
        for v in kernel.variables:
            if v.space == "local":
                declared.append(f"  alignas({v.align}) unsigned char {identifier(v.name)}[{v.size}];")
        arrays = ", ".join(f'{{"{readable(v.name)}", {v.align}, {v.size}}}' for v in self.shared)
        return "\n".join(
            [
                f'extern "C" const unsigned {kernel.name}_threads = {kernel.threads};',
                f'extern "C" void {kernel.name}(const void* arguments) {{',
                f"  static SharedMemory<{self.unit}> shared({{{arrays}}});",
                "  static Generic<decltype(shared)> generic{shared};",
                *declared,
                *code,
                "}",
            ]
        )

    def error(self, instruction: Instruction, what: str) -> PtxError:
        return PtxError(f"kernel {self.kernel.name}, line {instruction.line}: {what}")

    def unknown(self, instruction: Instruction) -> PtxError:
        text = f"{instruction.name} {', '.join(instruction.operands)}".strip()
        return self.error(instruction, f"the instruction '{text}' is not known to cuda/emulate/ptx.py")

    # ---- operands

    def read(self, instruction: Instruction, operand: str, kind: str) -> str:
        """An operand as a value of a type."""
        if operand.startswith("!"):
            return f"!{self.read(instruction, operand[1:], kind)}"
        name, target = identifier(operand), cpp_type(kind)
        if operand.startswith("%") and name in self.kernel.registers:
            value, own = name, self.kernel.registers[name]
        elif operand in SPECIAL:
            value, own = SPECIAL[operand], "u32"
        elif (symbol := re.fullmatch(r"([\w$]+?)(?:\+(-?\d+))?", operand)) and symbol[1] in self.symbols:
            value, own = f"({self.symbols[symbol[1]]} + {symbol[2] or 0})", "u64"
        else:
            return self.literal(instruction, operand, kind)
        if (kind == "pred") != (own == "pred"):
            raise self.error(instruction, f"{operand} is no operand of type {kind}")
        if kind[0] == "f":
            if BITS[own] != BITS[kind]:
                raise self.error(instruction, f"{operand} has not the {BITS[kind]} bits of {kind}")
            return f"as<{target}>({value})"
        return value if cpp_type(own) == target and own[0] not in "sf" else f"{target}({value})"

    def literal(self, instruction: Instruction, operand: str, kind: str) -> str:
        try:
            number = number_of(operand)
        except ValueError:
            raise self.error(instruction, f"the operand '{operand}' is not known") from None
        own = FLOAT_LITERALS.get(operand[:2].lower())
        if own != BITS[kind] and (own or kind[0] == "f"):
            raise self.error(instruction, f"the operand '{operand}' is not of type {kind}")
        if kind == "pred":
            return "true" if number else "false"
        digits = f"0x{number & (1 << BITS[kind]) - 1:X}{'u' if BITS[kind] <= 32 else 'ull'}"
        return f"as<{cpp_type(kind)}>({digits})" if kind[0] == "f" else f"{cpp_type(kind)}({digits})"

    def write(self, instruction: Instruction, operand: str, kind: str, value: str) -> str:
        """Assigns a value of a type to a register, whose further bits get the sign of a signed one."""
        if operand == "_":
            return f"(void)({value});"
        name = identifier(operand)
        if name not in self.kernel.registers or (kind == "pred") != (self.kernel.registers[name] == "pred"):
            raise self.error(instruction, f"{operand} is no register for a result of type {kind}")
        own = self.kernel.registers[name]
        if BITS[own] < BITS[kind]:
            raise self.error(instruction, f"{operand} is too small for a result of type {kind}")
        return (
            f"{name} = bits({cpp_type(kind)}({value}));" if kind[0] == "f" else f"{name} = {cpp_type(kind)}({value});"
        )

    def address(self, instruction: Instruction, operand: str) -> str:
        found = re.fullmatch(r"\[\s*([%\w$]+)\s*(?:\+\s*(-?\d+))?\s*\]", operand)
        if found is None:
            raise self.error(instruction, f"the address '{operand}' is not known")
        base, offset = found.groups()
        return f"{self.read(instruction, base, 'u64')} + {offset}" if offset else self.read(instruction, base, "u64")

    # ---- instructions

    def statement(self, instruction: Instruction) -> str:
        form = self.forms.get(instruction.op)
        return form(instruction) if form else self.expression(instruction)

    def expression(self, instruction: Instruction) -> str:
        """An instruction of `RULES`."""
        kind = instruction.types[-1] if instruction.types else ""
        extras = [m for m in instruction.modifiers if m in ROUNDING or m in ("ftz", "sat")]
        name = ".".join([instruction.op, *(m for m in instruction.modifiers if m not in extras)])
        rules = [found for found in RULES.get(name, ()) if kind in (found.types.split() or [""])]
        if not rules or len(instruction.types) > 1:
            raise self.unknown(instruction)
        found = rules[0]
        result, _, operands = found.signature.partition("=")
        results, kinds = result.split(), operands.split()
        allowed = {*(ROUNDING if "round" in found.extras else ()), *found.extras}
        if not allowed.issuperset(extras) or len(instruction.operands) != len(results) + len(kinds):
            raise self.unknown(instruction)
        codes = {"T": kind, "W": wide(kind) if "W" in found.signature else "", "p": "pred"}
        types = {code: cpp_type(each) for code, each in codes.items() if each and code != "p"}
        given = instruction.operands[len(results) :]
        values = [self.read(instruction, text, codes.get(k, k)) for text, k in zip(given, kinds, strict=True)]
        if "ftz" in extras:
            values = [f"flushed({value})" for value in values]
        mode = next((ROUNDING[m] for m in extras if ROUNDING.get(m)), "")
        if mode:
            names = [f"auto {name}" for name in "abcd"[: len(values)]]
            value = f"rounded({mode}, []({', '.join(names)}) {{ return {found.expression}; }}, {', '.join(values)})"
        else:
            value = substituted(found.expression, **types, **dict(zip("abcd", values, strict=False)))
        if "sat" in extras:
            value = f"saturated({value})"
        if "ftz" in extras:
            value = f"flushed({value})"
        if not results:
            return f"{value};"
        return self.write(instruction, instruction.operands[0], codes.get(results[0], results[0]), value)

    def mov(self, instruction: Instruction) -> str:
        """A copy; or several registers as the parts of one, or the other way round."""
        if instruction.modifiers or len(instruction.types) != 1 or len(instruction.operands) != 2:
            raise self.unknown(instruction)
        (kind,), (to, source) = instruction.types, instruction.operands
        whole = kind if kind == "pred" else f"u{BITS[kind]}"
        parts = [part.strip() for part in (to if to[0] == "{" else source).strip("{}").split(",")]
        bits = BITS[kind] // len(parts)
        if to[0] == "{":
            value = self.read(instruction, source, whole)
            written = [
                self.write(instruction, part, f"u{bits}", f"{value} >> {bits * k}") for k, part in enumerate(parts)
            ]
            return " ".join(written)
        if source[0] == "{":
            values = [self.read(instruction, part, f"u{bits}") for part in parts]
            shifted = [f"{cpp_type(whole)}({value}) << {bits * k}" for k, value in enumerate(values)]
            return self.write(instruction, to, whole, " | ".join(shifted))
        return self.write(instruction, to, whole, self.read(instruction, source, whole))

    def memory(self, instruction: Instruction, operand: str, known: tuple[str, ...]) -> tuple[str, int, str]:
        """The memory that a load, store or atomic uses, how many values it has, and what is done before.

        Args:
            operand: its address.
            known: its other modifiers.
        """
        others = [m for m in instruction.modifiers if not HINTS.fullmatch(m) and m not in known]
        spaces = [m.removesuffix("::cta") for m in others if m.removesuffix("::cta") in SPACES]
        vectors = [m for m in others if m in ("v2", "v4", "v8")]
        if len(spaces) + len(vectors) < len(others) or len(instruction.types) != 1:
            raise self.unknown(instruction)
        count = int(vectors[0][1:]) if vectors else 1
        bytes_each = BITS[instruction.types[0]] // 8
        space = spaces[0] if spaces else "generic"
        memory = space if space in ("shared", "generic") else "global"
        if memory != "global":
            self.unit = min(self.unit, bytes_each)
        before = (
            f"const uint64_t at = {self.address(instruction, operand)}; {memory}.aligned(at, {count * bytes_each});"
        )
        return memory, count, before

    def load(self, instruction: Instruction) -> str:
        if len(instruction.operands) != 2:
            raise self.unknown(instruction)
        to, source = instruction.operands
        memory, count, before = self.memory(instruction, source, ())
        kind = instruction.types[0]
        size = BITS[kind] // 8
        registers = [each.strip() for each in to.strip("{}").split(",")]
        if len(registers) != count:
            raise self.unknown(instruction)
        parts = [before]
        for k, register in enumerate(registers):
            if instruction.used_bytes >> (k * size) & ((1 << size) - 1):
                value = f"{memory}.load<{cpp_type(kind)}>(at + {k * size})"
                parts.append(self.write(instruction, register, kind, value))
        return " ".join(parts)

    def store(self, instruction: Instruction) -> str:
        if len(instruction.operands) != 2:
            raise self.unknown(instruction)
        to, source = instruction.operands
        memory, count, before = self.memory(instruction, to, ())
        kind = instruction.types[0]
        values = [each.strip() for each in source.strip("{}").split(",")]
        if len(values) != count:
            raise self.unknown(instruction)
        written = [
            f"{memory}.store<{cpp_type(kind)}>(at + {k * BITS[kind] // 8}, {self.read(instruction, value, kind)});"
            for k, value in enumerate(values)
        ]
        return " ".join([before, *written])

    def atomic(self, instruction: Instruction) -> str:
        operations = [m for m in instruction.modifiers if m in ATOMICS]
        operands = instruction.operands if instruction.op == "atom" else ("_", *instruction.operands)
        to, *given = operands  # `red` has no result
        if len(operations) != 1 or len(given) != (3 if operations == ["cas"] else 2):
            raise self.unknown(instruction)
        memory, _, before = self.memory(instruction, given[0], (operations[0],))
        kind = instruction.types[0]
        values = [self.read(instruction, each, kind) for each in given[1:]]
        target = cpp_type(kind)
        after = substituted(ATOMICS[operations[0]], **dict(zip("bc", values, strict=False)))
        value = f"{memory}.atomic<{target}>(at, [&]({target} old) {{ return {target}({after}); }})"
        return f"{before} {self.write(instruction, to, kind, value)}"

    def convert(self, instruction: Instruction) -> str:
        if len(instruction.types) != 2 or len(instruction.operands) != 2:
            raise self.unknown(instruction)
        to, source = instruction.types
        modifiers = set(instruction.modifiers)
        value = self.read(instruction, instruction.operands[1], source)
        flush, saturate = "ftz" in modifiers, "sat" in modifiers
        modifiers -= {"ftz", "sat"}
        if flush and source[0] == "f":
            value = f"flushed({value})"
        if source[0] == "f" and (to[0] != "f" or modifiers & TO_WHOLE.keys()):
            whole = modifiers & TO_WHOLE.keys()
            if len(whole) != 1:
                raise self.unknown(instruction)
            modifiers -= whole
            value = f"{TO_WHOLE[whole.pop()]}({value})"
        mode = next((m for m in ROUNDING if m in modifiers), "rn")
        if modifiers - {mode} or "pred" in (to, source):
            raise self.unknown(instruction)
        target = cpp_type(to)
        if to[0] == "f":
            converted = f"{target}({value})"
            if ROUNDING[mode]:
                converted = f"rounded({ROUNDING[mode]}, [](auto a) {{ return {target}(a); }}, {value})"
            value = f"saturated({converted})" if saturate else converted
            value = f"flushed({value})" if flush else value
        elif source[0] == "f":
            value = f"to_integer<{target}>({value})"
        elif saturate:
            value = f"clamped<{target}>({value})"
        return self.write(instruction, instruction.operands[0], to, value)

    def compare(self, instruction: Instruction) -> str:
        """`setp` writes a predicate and perhaps its opposite, `set` all ones or zeros, or 1.0 or 0.0."""
        kind, modifiers, operands = instruction.types[-1:], list(instruction.modifiers), instruction.operands
        combined = len(operands) == 4 and len(modifiers) > 1 and modifiers[1] in COMBINATIONS
        if not kind or len(operands) != (4 if combined else 3):
            raise self.unknown(instruction)
        known = {"ftz", *modifiers[: 2 if combined else 1]}
        types = 2 if instruction.op == "set" else 1
        if (
            not known.issuperset(modifiers)
            or modifiers[0] not in {*COMPARISONS, "ne"}
            or len(instruction.types) != types
        ):
            raise self.unknown(instruction)
        a, b = (self.read(instruction, each, kind[0]) for each in operands[1:3])
        if "ftz" in modifiers:
            a, b = f"flushed({a})", f"flushed({b})"
        unequal = "a < b || a > b" if kind[0][0] == "f" else "a != b"
        value = f"({substituted(COMPARISONS.get(modifiers[0], unequal), a=a, b=b)})"
        further = ""
        if combined:
            further = f" {COMBINATIONS[modifiers[1]]} {self.read(instruction, operands[3], 'pred')}"
        if instruction.op == "set":
            to = instruction.types[0]
            return self.write(instruction, operands[0], to, f"{value}{further} ? {'1' if to[0] == 'f' else '-1'} : 0")
        first, _, second = operands[0].partition("|")
        opposite = self.write(instruction, second, "pred", f"!{value}{further}") if second else ""
        holds = self.write(instruction, first, "pred", "holds")
        return f"const bool holds = {value}{further}; {opposite} {holds}"

    def shuffle(self, instruction: Instruction) -> str:
        """`shfl.sync.MODE.b32 d|p, a, b, c, mask`."""
        modifiers = instruction.modifiers
        if len(modifiers) != 2 or modifiers[0] != "sync" or modifiers[1] not in ("up", "down", "bfly", "idx"):
            raise self.unknown(instruction)
        to, *given = instruction.operands
        values = ", ".join(self.read(instruction, each, "u32") for each in given)
        if len(given) != 4:
            raise self.unknown(instruction)
        first, _, second = to.partition("|")
        parts = [f"const Shuffled got = shuffle(Shuffle::{modifiers[1]}, {values});"]
        parts.append(self.write(instruction, first.strip(), "u32", "got.value"))
        if second:
            parts.append(self.write(instruction, second.strip(), "pred", "got.within"))
        return " ".join(parts)

    def branch(self, instruction: Instruction) -> str:
        if instruction.modifiers not in ((), ("uni",)) or instruction.operands[0] not in self.labels:
            raise self.unknown(instruction)
        return f"goto {identifier(instruction.operands[0])};"

    def branch_by_index(self, instruction: Instruction) -> str:
        """`brx.idx %r1, table;` goes to the label at a place of a table."""
        if not set(instruction.modifiers) <= {"idx", "uni"} or len(instruction.operands) != 2:
            raise self.unknown(instruction)
        index, table = instruction.operands
        labels = self.kernel.branch_tables.get(table, ())
        cases = " ".join(f"case {k}: goto {identifier(label)};" for k, label in enumerate(labels))
        value = self.read(instruction, index, "u32")
        return f'switch ({value}) {{ {cases} default: fail("a branch beyond its table"); }}'


# ---- a module -------------------------------------------------------------------------------------------------------


def translate(text: str) -> str:
    """The C++ of a module of PTX. It holds, for each kernel, a function and how many threads its blocks have, as
    `NFC_KERNEL` of `device.h` makes them.

    Raises:
        PtxError: it has an instruction, or something else, that is not known here.
    """
    module = parse(text)
    lines = [f'#include "{Path(__file__).resolve().parent / "ptx.h"}"', "using namespace emulate;"]
    for variable in module.variables:
        if variable.space != "shared":
            content = ", ".join(map(str, variable.content))
            align = max(variable.align, 1)
            lines.append(
                f"alignas({align}) static unsigned char {identifier(variable.name)}[{variable.size}] = {{{content}}};"
            )
    lines += [Writer(kernel, module.variables).text() for kernel in module.kernels]
    return "\n".join(lines) + "\n"


def instructions(module: Module) -> Iterator[str]:
    """The names of all instructions, each as often as it occurs."""
    for kernel in module.kernels:
        for each in kernel.code:
            if isinstance(each, Instruction):
                yield each.name


# ---- the command line -----------------------------------------------------------------------------------------------


def supported_architectures() -> list[str]:
    """What NVRTC compiles for, oldest first."""
    from cuda.bindings import nvrtc  # which only what compiles needs, and may be missing

    return [f"sm_{number}" for number in nvrtc.nvrtcGetSupportedArchs()[1]]


def listing(architectures: list[str]) -> list[str]:
    """A line for each instruction in our kernels: how often it occurs, and in PTX for which architectures.

    Args:
        architectures: those of tools/cubins.py if there are none.

    Raises:
        PtxError: one of them is not known here.
        UserError: NVRTC is not installed.
    """
    from cubins import ARCHITECTURES, jobs

    from nfc_gs.ops.nvrtc import compile_source

    architectures = architectures or list(ARCHITECTURES)
    counts: Counter[str] = Counter()
    seen: dict[str, set[str]] = defaultdict(set)
    for source, architecture, channels in jobs(tuple(architectures)):
        text = compile_source(source, architecture, channels, to="ptx").code.decode()
        translate(text)
        for name in instructions(parse(text)):
            counts[name] += 1
            seen[name].add(architecture)
    lines = [f"{counts[name]:>8}  {name:<28} {_all_or(seen[name], architectures)}" for name in sorted(counts)]
    return [*lines, f"{len(counts)} instructions, all of them covered"]


def _all_or(seen: set[str], architectures: list[str]) -> str:
    return "all" if len(seen) == len(architectures) else " ".join(a for a in architectures if a in seen)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--list", action="store_true", help="list the instructions in our kernels")
    parser.add_argument("names", nargs="*", help="architectures to list them for, or one file of PTX")
    args = parser.parse_args()
    try:
        if args.list:
            sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tools"))
            print("\n".join(listing(args.names)))
        else:
            print(translate(Path(args.names[0]).read_text("utf-8")), end="")
    except PtxError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
