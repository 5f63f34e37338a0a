"""The translator from PTX to C++, cuda/emulate/ptx.py: what single instructions compute, and what it refuses.

What is caught at run time, as races, is tested with the emulator of sources in test_cuda_kernels.py. That whole kernels
compute on PTX what the specification says is tested where they are, with NFC_GS_EMULATOR_KERNELS=oldest.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from emulator import CUDA, Emulator, KernelError, chosen_architecture, compiled_cpp, run
from ptx import listing, supported_architectures, translate
from ptx_parser import PtxError, parse

from nfc_gs.core.errors import UserError

THREADS = 64

DTYPES = {"u8": "u1", "s8": "i1", "u16": "u2", "s16": "i2", "b16": "u2", "u32": "u4", "s32": "i4", "b32": "u4",
          "u64": "u8", "s64": "i8", "b64": "u8", "f32": "f4", "f64": "f8"}  # fmt: skip


@pytest.fixture(scope="module", autouse=True)
def compiler() -> None:
    try:
        Emulator()
    except UserError as error:
        pytest.skip(str(error))


def kernel(name: str, body: str, threads: int = THREADS) -> str:
    return f""".visible .entry {name}(.param .align 8 .b8 args[32])
.maxntid {threads}, 1, 1
{{
{body}
}}
"""


HEADER = ".version 8.0\n.target sm_75\n.address_size 64\n"


# ---- single instructions --------------------------------------------------------------------------------------------


def array_of(values: Any, dtype: str) -> np.ndarray:
    """Values as an array; integers keep as many of their bits as it has."""
    if dtype[0] == "f":
        return np.asarray(values, dtype)
    size = int(dtype[1])
    return np.array([int(each) % 256**size for each in values], f"u{size}").view(dtype)


@dataclass(frozen=True)
class Case:
    """An instruction, and what it computes of some values.

    Attributes:
        code: it, with %d for its result and %a, %b, %c for its operands.
        types: of the result and the operands.
        operands: the values of each; arrays of the same length.
        expected: the results.
    """

    code: str
    types: str
    operands: tuple[Any, ...]
    expected: Any

    def arrays(self) -> list[np.ndarray]:
        pairs = zip((self.expected, *self.operands), self.types.split(), strict=True)
        return [array_of(values, DTYPES[kind]) for values, kind in pairs]

    def ptx(self, number: int) -> str:
        lines = [".reg .b32 %i;", ".reg .b64 %at, %off, %pointer;", ".reg .pred %p, %q;", "mov.u32 %i, %tid.x;"]
        kinds = self.types.split()
        stored = []
        for place, (letter, kind) in enumerate(zip("dabc", kinds, strict=False)):
            size = np.dtype(DTYPES[kind]).itemsize
            lines += [f".reg .b{max(16, 8 * size)} %{letter};", f"mul.wide.u32 %off, %i, {size};"]
            lines += [f"ld.param.u64 %pointer, [args+{8 * place}];", "add.s64 %at, %pointer, %off;"]
            if letter == "d":
                lines += [".reg .b64 %to;", "mov.b64 %to, %at;"]
                stored = [f"st.global.{kind} [%to], %d;"]
            else:
                lines += [f"ld.global.{kind} %{letter}, [%at];"]
        return kernel(f"kernel_{number}", "\n".join([*lines, *self.code.split("\n"), *stored, "ret;"]))


def case(code: str, types: str, *operands: Any, expected: Any) -> Any:
    return pytest.param(Case(code, types, operands, expected), id=code.split("%d")[0].split("\n")[-1].strip())


def on_integers(code: str, types: str, function: Callable[..., int], *operands: list[int]) -> Any:
    """What Python's integers, of any size, give, cut to the bits of the result."""
    return case(code, types, *operands, expected=[function(*each) for each in zip(*operands, strict=True)])


def rounded(value: Fraction, mode: str) -> np.float32:
    """A number as float32: nearest, ties to even, or the next one towards 0 (rz), -infinity (rm) or +infinity (rp)."""
    guess = np.float32(float(value))
    near = [np.nextafter(guess, np.float32(-np.inf)), guess, np.nextafter(guess, np.float32(np.inf))]
    below = max((n for n in near if Fraction(float(n)) <= value), key=float)
    above = min((n for n in near if Fraction(float(n)) >= value), key=float)
    if mode == "rn":
        distance = value - Fraction(float(below)), Fraction(float(above)) - value
        even = below if int(below.view(np.uint32)) % 2 == 0 else above
        return even if distance[0] == distance[1] else (below if distance[0] < distance[1] else above)
    return {"rm": below, "rp": above, "rz": below if value >= 0 else above}[mode]


def on_fractions(code: str, mode: str, function: Callable[..., Fraction], *operands: np.ndarray) -> Any:
    exact = [function(*(Fraction(float(each)) for each in row)) for row in zip(*operands, strict=True)]
    types = " ".join(["f32"] * (1 + len(operands)))
    return case(code, types, *operands, expected=np.array([rounded(value, mode) for value in exact]))


def floats(seed: int) -> np.ndarray:
    generator = np.random.default_rng(seed)
    return (generator.standard_normal(40) * 2.0 ** generator.integers(-3, 4, 40)).astype(np.float32)


A, B, C = floats(1), floats(2), floats(3)
BIG, SMALL, LARGE64 = [2**31 - 1, -(2**31), -7, 123456789], [-3, -1, 2, 5], [2**63 - 1, -(2**63), -12345678901234, 7]
WORDS = [0x00000000, 0xFFFFFFFF, 0x80000001, 0x12345678, 0x00F0F000]
SHIFTS = [0, 31, 32, 33, 255, 2**31]
INF, NAN = np.inf, np.nan
EDGES = [0.5, 1.5, -0.5, -1.5, 2.5, 3e9, -3e9, 5e9, 1e20, -1e20, INF, -INF, NAN, -1.0]
TINY = np.float32(1e-40)


def words_with(shifts: list[int]) -> tuple[list[int], list[int]]:
    pairs = [(word, shift) for word in WORDS for shift in shifts]
    return [word for word, _ in pairs], [shift for _, shift in pairs]


def signed(word: int, bits: int = 32) -> int:
    return word - 2**bits if word >= 2 ** (bits - 1) else word


def quotient(a: int, b: int) -> int:
    return abs(a) // abs(b) * (1 if (a < 0) == (b < 0) else -1)


def field(word: int, start: int, length: int, sign: bool) -> int:
    """Bits of a word that goes on with zeros, or with its sign."""
    long = signed(word) if sign else word
    value = long >> start & (1 << length) - 1
    return value - (1 << length) if sign and length and value >> (length - 1) else value


def bytes_of(a: int, b: int, selector: int) -> int:
    both = a.to_bytes(4, "little") + b.to_bytes(4, "little")
    chosen = [selector >> 4 * i & 15 for i in range(4)]
    parts = [both[c & 7] if c < 8 else 255 * (both[c & 7] >> 7) for c in chosen]
    return int.from_bytes(bytes(parts), "little")


FIELDS = [(word, start, length) for word in WORDS for start, length in ((0, 32), (4, 8), (28, 8), (31, 1), (5, 0))]

CASES = [
    on_integers("add.s32 %d, %a, %b;", "s32 s32 s32", lambda a, b: a + b, BIG, SMALL),
    on_integers("sub.s16 %d, %a, %b;", "s16 s16 s16", lambda a, b: a - b, [-32768, 5], [1, 6]),
    on_integers("mul.lo.s64 %d, %a, %b;", "s64 s64 s64", lambda a, b: a * b, LARGE64, SMALL),
    on_integers("mul.hi.s32 %d, %a, %b;", "s32 s32 s32", lambda a, b: a * b >> 32, BIG, SMALL),
    on_integers("mul.hi.u32 %d, %a, %b;", "u32 u32 u32", lambda a, b: a * b >> 32, WORDS, WORDS[::-1]),
    on_integers("mul.hi.s64 %d, %a, %b;", "s64 s64 s64", lambda a, b: a * b >> 64, LARGE64, LARGE64[::-1]),
    on_integers("mul.hi.u64 %d, %a, %b;", "u64 u64 u64", lambda a, b: a * b >> 64, [2**64 - 1, 2**40], [2**63, 2**30]),
    on_integers("mul.wide.s32 %d, %a, %b;", "s64 s32 s32", lambda a, b: a * b, BIG, SMALL),
    on_integers("mul.wide.u16 %d, %a, %b;", "u32 u16 u16", lambda a, b: a * b, [65535, 3], [65535, 4]),
    on_integers("mad.wide.u32 %d, %a, %b, %c;", "u64 u32 u32 u64", lambda a, b, c: a * b + c, WORDS, WORDS, WORDS),
    on_integers("mad.lo.s32 %d, %a, %b, %c;", "s32 s32 s32 s32", lambda a, b, c: a * b + c, BIG, SMALL, SMALL),
    on_integers("div.s32 %d, %a, %b;", "s32 s32 s32", quotient, BIG, SMALL),
    on_integers("rem.s32 %d, %a, %b;", "s32 s32 s32", lambda a, b: a - b * quotient(a, b), BIG, SMALL),
    on_integers("abs.s32 %d, %a;", "s32 s32", abs, BIG),
    on_integers("shl.b32 %d, %a, %b;", "b32 b32 u32", lambda a, n: a << min(n, 32), *words_with(SHIFTS)),
    on_integers("shr.u32 %d, %a, %b;", "u32 u32 u32", lambda a, n: a >> min(n, 32), *words_with(SHIFTS)),
    on_integers("shr.s32 %d, %a, %b;", "s32 u32 u32", lambda a, n: signed(a) >> min(n, 31), *words_with(SHIFTS)),
    on_integers("shr.s16 %d, %a, %b;", "s16 s16 u32", lambda a, n: a >> min(n, 15), [-5, 5, -5], [1, 1, 99]),
    on_integers("shf.l.wrap.b32 %d, %a, 0xF00F000F, %b;", "b32 b32 u32",
                lambda a, n: (0xF00F000F << 32 | a) << n % 32 >> 32, *words_with(SHIFTS)),
    on_integers("shf.r.clamp.b32 %d, %a, 0xF00F000F, %b;", "b32 b32 u32",
                lambda a, n: (0xF00F000F << 32 | a) >> min(n, 32), *words_with(SHIFTS)),
    on_integers("bfe.u32 %d, %a, %b, %c;", "u32 u32 u32 u32", lambda a, s, n: field(a, s, n, False),
                *map(list, zip(*FIELDS, strict=True))),
    on_integers("bfe.s32 %d, %a, %b, %c;", "s32 u32 u32 u32", lambda a, s, n: field(a, s, n, True),
                *map(list, zip(*FIELDS, strict=True))),
    on_integers("bfi.b32 %d, %a, 0x0FF00FF0, %b, %c;", "b32 b32 u32 u32",
                lambda a, s, n: 0x0FF00FF0 & ~((2**n - 1) << s) | (a & 2**n - 1) << s,
                *map(list, zip(*FIELDS, strict=True))),
    on_integers("bfind.u32 %d, %a;", "u32 u32", lambda a: a.bit_length() - 1, WORDS),
    on_integers("bfind.s32 %d, %a;", "u32 u32", lambda a: (signed(a) ^ signed(a) >> 31).bit_length() - 1, WORDS),
    on_integers("bfind.shiftamt.u32 %d, %a;", "u32 u32", lambda a: 32 - a.bit_length() if a else -1, WORDS),
    on_integers("bfind.shiftamt.s32 %d, %a;", "u32 s32", lambda a: 31 - ((a ^ a >> 31).bit_length() - 1) if a + 1 and a
                else -1, [0, -1, 1, -2, 2**31 - 1, -(2**31)]),
    on_integers("clz.b32 %d, %a;", "u32 b32", lambda a: 32 - a.bit_length(), WORDS),
    on_integers("clz.b64 %d, %a;", "u32 b64", lambda a: 64 - a.bit_length(), WORDS),
    on_integers("popc.b32 %d, %a;", "u32 b32", lambda a: f"{a:b}".count("1"), WORDS),
    on_integers("brev.b32 %d, %a;", "b32 b32", lambda a: int(f"{a:032b}"[::-1], 2), WORDS),
    on_integers("prmt.b32 %d, %a, %b, %c;", "b32 b32 b32 b32", bytes_of, [0x83828180] * 2, [0x07060504] * 2,
                [0x7531, 0xB0C4]),
    on_integers("lop3.b32 %d, %a, %b, %c, 0xCA;", "b32 b32 b32 b32", lambda a, b, c: a & b | ~a & c,
                [0xF0F0] * 2, [0xCCCC] * 2, [0xAAAA, 0x5555]),
    on_integers("fns.b32 %d, %a, %b, %c;", "b32 b32 b32 s32", lambda mask, base, n: {1: 3, 2: 5, -1: 1, 3: -1}[n],
                [0b101010] * 4, [2] * 4, [1, 2, -1, 3]),
    case("setp.lt.s32 %p, %a, %b;\nsetp.gt.or.s32 %q, %b, 4, %p;\nselp.s32 %d, %a, %b, %q;", "s32 s32 s32", BIG, SMALL,
         expected=[-3, -(2**31), -7, 123456789]),
    case("setp.lt.f32 %p|%q, %a, %b;\nselp.s32 %d, 5, 7, %q;", "s32 f32 f32", [1, 2, NAN], [2, 1, 1],
         expected=[7, 5, 5]),
    case("setp.ltu.f32 %p, %a, %b;\nselp.s32 %d, 5, 7, %p;", "s32 f32 f32", [1, 2, NAN], [2, 1, 1], expected=[5, 7, 5]),
    case("setp.ne.f32 %p, %a, %b;\nselp.s32 %d, 5, 7, %p;", "s32 f32 f32", [1, 2, NAN], [2, 2, 1], expected=[5, 7, 7]),
    case("setp.neu.f32 %p, %a, %b;\nselp.s32 %d, 5, 7, %p;", "s32 f32 f32", [1, 2, NAN], [2, 2, 1], expected=[5, 7, 5]),
    case("mov.s32 %d, 1;\nsetp.gt.s32 %p, %a, 0;\n@!%p add.s32 %d, %d, 5;", "s32 s32", [1, 0], expected=[1, 6]),
    case("mov.b64 {%i, _}, %a;\nmov.b64 %d, {%i, %i};", "b64 b64", [0x1234567887654321],
         expected=[0x8765432187654321]),
    *(on_fractions(f"fma.{mode}.f32 %d, %a, %b, %c;", mode, lambda a, b, c: a * b + c, A, B, C)
      for mode in ("rn", "rz", "rm", "rp")),
    *(on_fractions(f"add.{mode}.f32 %d, %a, %b;", mode, lambda a, b: a + b, A, B) for mode in ("rn", "rz", "rm", "rp")),
    *(on_fractions(f"div.{mode}.f32 %d, %a, %b;", mode, lambda a, b: a / b, A, B) for mode in ("rn", "rz", "rm", "rp")),
    on_fractions("mul.rz.f32 %d, %a, %b;", "rz", lambda a, b: a * b, A, B),
    on_fractions("rcp.rn.f32 %d, %a;", "rn", lambda a: 1 / a, A),
    case("sqrt.rn.f32 %d, %a;", "f32 f32", np.abs(A), expected=np.sqrt(np.abs(A))),
    case("rsqrt.approx.f32 %d, %a;", "f32 f32", np.abs(A), expected=1 / np.sqrt(np.abs(A))),
    case("ex2.approx.ftz.f32 %d, %a;", "f32 f32", A, expected=np.exp2(A.astype("f8"))),
    case("lg2.approx.f32 %d, %a;", "f32 f32", [0.5, 8.0, 0.0], expected=[-1, 3, -INF]),
    case("add.ftz.f32 %d, %a, %b;", "f32 f32 f32", [TINY, -TINY, 1.0], [0.0, -0.0, TINY], expected=[0.0, -0.0, 1.0]),
    case("add.sat.f32 %d, %a, %b;", "f32 f32 f32", [1, 0.25, -1, NAN], [1, 0.25, 0, 0], expected=[1, 0.5, 0, 0]),
    case("min.f32 %d, %a, %b;", "f32 f32 f32", [NAN, 1, 0.0, 2], [1, NAN, -0.0, 3], expected=[1, 1, -0.0, 2]),
    case("max.f32 %d, %a, %b;", "f32 f32 f32", [NAN, 1, -0.0, 2], [1, NAN, 0.0, 3], expected=[1, 1, 0.0, 3]),
    case("max.NaN.f32 %d, %a, %b;", "f32 f32 f32", [NAN, 1], [1, 2], expected=[NAN, 2]),
    case("copysign.f32 %d, %a, %b;", "f32 f32 f32", [-1, 1, -0.0], [2, -2, 3], expected=[-2, 2, -3]),
    case("cvt.rni.s32.f32 %d, %a;", "s32 f32", EDGES,
         expected=[0, 2, 0, -2, 2, 2**31 - 1, -(2**31), 2**31 - 1, 2**31 - 1, -(2**31), 2**31 - 1, -(2**31), 0, -1]),
    case("cvt.rzi.u32.f32 %d, %a;", "u32 f32", EDGES,
         expected=[0, 1, 0, 0, 2, 3000000000, 0, 2**32 - 1, 2**32 - 1, 0, 2**32 - 1, 0, 0, 0]),
    case("cvt.rpi.f32.f32 %d, %a;", "f32 f32", EDGES, expected=np.ceil(np.float32(EDGES))),
    case("cvt.rmi.s64.f64 %d, %a;", "s64 f64", [1.5, -1.5, 1e30, -1e30, NAN],
         expected=[1, -2, 2**63 - 1, -(2**63), -(2**63)]),
    case("cvt.sat.f32.f32 %d, %a;", "f32 f32", [2, 0.5, -1, NAN], expected=[1, 0.5, 0, 0]),
    case("cvt.rn.f32.s64 %d, %a;", "f32 s64", LARGE64, expected=np.float32(LARGE64)),
    case("cvt.rz.f32.f64 %d, %a;", "f32 f64", [1 + 2.0**-24 * 1.5], expected=[1]),
    case("cvt.s8.s32 %d, %a;", "s32 s32", [300, 200, -1], expected=[44, -56, -1]),
    case("cvt.sat.u8.s32 %d, %a;", "u32 s32", [300, 200, -1], expected=[255, 200, 0]),
    case("cvt.s64.s32 %d, %a;", "s64 s32", BIG, expected=BIG),
    case("cvt.u64.u32 %d, %a;", "u64 s32", BIG, expected=[each % 2**32 for each in BIG]),
    case("set.lt.u32.f32 %d, %a, %b;", "u32 f32 f32", [1, NAN], [2, 2], expected=[2**32 - 1, 0]),
]  # fmt: skip


@pytest.fixture(scope="module")
def instructions(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    """All cases, each a kernel with the number of its place."""
    text = HEADER + "".join(each.values[0].ptx(k) for k, each in enumerate(CASES))
    return library_of(tmp_path_factory.mktemp("instructions"), text)


def library_of(folder: Path, text: str) -> ctypes.CDLL:
    code = folder / "kernels.cpp"
    code.write_text(translate(text))
    return compiled_cpp(code)


def launch(library: ctypes.CDLL, name: str, *arrays: np.ndarray) -> None:
    pointers = (ctypes.c_uint64 * 4)(*(array.ctypes.data for array in arrays))
    run(library, name, pointers, 1, ctypes.c_uint.in_dll(library, f"{name}_threads").value)


@pytest.mark.parametrize("given", CASES)
def test_an_instruction_computes_what_its_description_says(instructions: ctypes.CDLL, given: Case):
    expected, *operands = given.arrays()
    padded = [np.ones(THREADS, array.dtype) for array in (expected, *operands)]
    for whole, array in zip(padded[1:], operands, strict=True):
        whole[: len(array)] = array
    launch(instructions, f"kernel_{[each.values[0] for each in CASES].index(given)}", *padded)
    actual = padded[0][: len(expected)]
    if "approx" in given.code:
        np.testing.assert_allclose(actual, expected, rtol=1e-6)
    else:
        np.testing.assert_array_equal(actual, expected)
        np.testing.assert_array_equal(np.signbit(actual[actual == 0]), np.signbit(expected[expected == 0]))


# ---- what threads do together, memory and branches ------------------------------------------------------------------

BODIES = {  # each leaves a result in %d
    "segments": """shfl.sync.down.b32 %r1|%p1, %i, 1, 0x181F, -1; selp.u32 %r2, 100, 0, %p1; add.u32 %d, %r1, %r2;""",
    "votes": """and.b32 %r1, %i, 3; match.any.sync.b32 %r2, %r1, -1; redux.sync.add.u32 %r3, %i, -1;
        setp.eq.u32 %p1, %r1, 0; vote.sync.ballot.b32 %r4, %p1, -1; setp.ne.u32 %p2, %r2, %r4;
        bar.red.popc.u32 %r5, 0, %p2; activemask.b32 %r6; popc.b32 %r7, %r6; mad.lo.u32 %d, %r5, 10000, %r3;
        add.u32 %d, %d, %r7;""",
    "atomics": """.shared .align 4 .b8 sums[8]; mov.u32 %r1, sums; setp.gt.u32 %p1, %i, 1; shl.b32 %r2, %i, 2;
        add.u32 %r3, %r1, %r2; @%p1 bra $AFTER; mov.u32 %r4, 0; st.shared.u32 [%r3], %r4;
        $AFTER: bar.sync 0; cvt.rn.f32.u32 %f1, %i; red.shared.add.f32 [sums+4], %f1; atom.shared.add.u32 %r5, [%r1], 2;
        atom.shared.max.u32 %r6, [sums], 5; atom.global.cas.b32 %r7, [%pointer], 0, 9; bar.sync 0;
        ld.shared.f32 %f2, [sums+4]; cvt.rzi.u32.f32 %d, %f2; ld.shared.u32 %r8, [sums]; mad.lo.u32 %d, %r8, 10000, %d;
        add.u32 %d, %d, %r7;""",
    "generic": """.shared .align 8 .b8 box[512]; mov.u64 %rd1, box; cvta.shared.u64 %rd2, %rd1;
        mad.wide.u32 %rd3, %i, 8, %rd2; add.u32 %r1, %i, 7; st.v2.u32 [%rd3], {%r1, %i};
        mad.wide.u32 %rd4, %i, 4, %pointer; st.u32 [%rd4], %i; cvta.to.shared.u64 %rd5, %rd3; cvt.u32.u64 %r2, %rd5;
        ld.shared.v2.u32 {%r3, %r4}, [%r2]; ld.u32 %r5, [%rd4]; add.u32 %d, %r3, %r4; add.u32 %d, %d, %r5;""",
    "branches": """and.b32 %r1, %i, 1; $TABLE: .branchtargets $EVEN, $ODD; brx.idx %r1, $TABLE;
        $EVEN: mov.u32 %d, 10; bra.uni $END;
        $ODD: mov.u32 %d, 20;
        $END: """,
    "scopes": """mov.u32 %r1, 5; { .reg .b32 %r1; mov.u32 %r1, 9; } { .reg .b32 t; add.u32 t, %r1, 1;
        mov.u32 %d, t; }""",
    "memories": """.local .align 8 .b8 depot[16]; mov.u64 %rd1, depot; st.local.u32 [%rd1+4], %i;
        ld.const.u32 %r2, [table+4]; ld.global.f32 %f1, [half]; mov.b32 %f2, 0f41000000;
        mul.f32 %f1, %f1, %f2; cvt.rzi.u32.f32 %r3, %f1; ld.local.u32 %d, [%rd1+4]; add.u32 %d, %d, %r2;
        add.u32 %d, %d, %r3;""",
    "bytes": """.shared .align 1 .b8 a[64]; mov.u32 %r1, a; add.u32 %r2, %r1, %i; st.shared.u8 [%r2], %i; bar.sync 0;
        xor.b32 %r3, %i, 1; add.u32 %r3, %r1, %r3; ld.shared.u8 %d, [%r3];""",
    "odd layout": """mov.u32 %r1,-0x5;// mov.u32 %r1, 7;
        add.s32\t%r2 , %r1,0b11; $LOOP:add.s32 %r2,%r2,1;setp.lt.s32 %p1,%r2,10;@%p1 bra $LOOP; @!%p1 add.s32 %r2,
        %r2, 12U; { .reg .b32 %r1; .reg .b32 %r0; mov.b64 {%r1, _}, %pointer; mov.u32 %r0, 3; { .reg .b32 %r0;
        mov.u32 %r0, 4; } add.s32 %r2, %r2, %r0; } add.s32 %d, %r2, %r1;""",
    "half used": """.shared .align 8 .b8 a[8]; setp.eq.u32 %p1, %i, 0; @%p1 st.shared.u32 [a], 3; bar.sync 0;
        .pragma "used_bytes_mask 15"; ld.shared.v2.u32 {%d, %r1}, [a];""",
}
CONSTANTS = ".const .align 4 .b8 table[8] = {1, 0, 0, 0, 255, 255};\n.global .align 4 .f32 half = 0f3F000000;\n"

WRONG = {  # and what is said of it
    "a vector that is not aligned": (
        ".shared .align 4 .b8 a[256]; st.shared.v4.f32 [a], {%f0, %f0, %f0, %f0};",
        r"a\[byte 0\]: an access of 16 bytes is not aligned",
    ),
    "a number that is not aligned": (
        ".shared .align 16 .b8 a[256]; mov.u32 %r1, a; ld.shared.f64 %rd1, [%r1+4];",
        r"a\[byte 4\]: an access of 8 bytes is not aligned",
    ),
    "global memory": (
        "ld.global.v2.f32 {%f1, %f2}, [%pointer+4];",
        "an access of 8 bytes to global memory is not aligned",
    ),
    "before the beginning": (
        ".shared .align 4 .b8 a[8]; .shared .align 4 .b8 b[8]; mov.u32 %r1, b; st.shared.u32 [%r1+-4], %i;",
        r"b\[byte -4\] is out of bounds of its 8 bytes",
    ),
    "beyond the end": (
        ".shared .align 8 .b8 a[12]; st.shared.v2.u32 [a+8], {%i, %i};",
        r"a\[byte 12\] is out of bounds of its 12 bytes",
    ),
    "a race of a single byte": (
        ".shared .align 1 .b8 a[64]; mov.u32 %r1, a; add.u32 %r2, %r1, %i; st.shared.u8 [%r2], %i; "
        "ld.shared.u8 %r3, [%r2]; st.shared.u8 [a+63], %i;",
        r"a\[byte 63\] is written with no barrier after thread 0 wrote it",
    ),
    "an atomic and a plain access": (
        ".shared .align 4 .b8 a[4]; setp.eq.u32 %p1, %i, 0; @%p1 st.shared.u32 [a], %i; bar.sync 0; "
        "red.shared.add.u32 [a], 1; ld.shared.u32 %r1, [a];",
        r"a\[byte 0\] is written with no barrier after another thread read it",
    ),
    "more than is used of a load": (
        BODIES["half used"].replace("mask 15", "mask 255"),
        r"a\[byte 4\] is read before it is written",
    ),
    "a division by zero": ("mov.u32 %r1, 0; div.u32 %d, %i, %r1;", "a division of integers by zero"),
    "another barrier": ("bar.sync 1;", "a barrier other than the first"),
    "a trap": ("trap;", "trap"),
}


@pytest.fixture(scope="module")
def bodies(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    """Kernels of `BODIES` and `WRONG`. They may use %i, the thread, %pointer, the result, and more registers."""
    start = """.reg .b32 %d, %i, %r<9>; .reg .b64 %at, %pointer, %rd<9>; .reg .pred %p<9>; .reg .f32 %f<9>;
        mov.u32 %i, %tid.x; ld.param.u64 %pointer, [args];"""
    end = "mad.wide.u32 %at, %i, 4, %pointer; st.global.u32 [%at], %d; ret;"
    given = BODIES | {name: body for name, (body, _) in WRONG.items()}
    kernels = [kernel(name.replace(" ", "_"), f"{start}\n{body}\n{end}") for name, body in given.items()]
    return library_of(tmp_path_factory.mktemp("bodies"), HEADER + CONSTANTS + "".join(kernels))


def result_of(library: ctypes.CDLL, name: str) -> list[int]:
    result = np.zeros(THREADS, np.uint32)
    launch(library, name.replace(" ", "_"), result)
    return result.tolist()


def test_shuffles_keep_to_their_segments(bodies: ctypes.CDLL):
    expected = [(i + 1 if i % 8 < 7 else i) + (100 if i % 8 < 7 else 0) for i in range(THREADS)]
    assert result_of(bodies, "segments") == expected


def test_votes_matches_and_reductions(bodies: ctypes.CDLL):
    expected = [48 * 10000 + sum(range(i // 32 * 32, i // 32 * 32 + 32)) + 1 for i in range(THREADS)]
    assert result_of(bodies, "votes") == expected


def test_atomics_in_shared_and_global_memory_do_not_race(bodies: ctypes.CDLL):
    sums = (5 + 63 * 2) * 10000 + sum(range(THREADS))  # the first thread has 5 instead of 2
    assert result_of(bodies, "atomics") == [sums] + [sums + 9] * (THREADS - 1)


def test_generic_addresses_are_of_shared_and_of_global_memory(bodies: ctypes.CDLL):
    assert result_of(bodies, "generic") == [3 * i + 7 for i in range(THREADS)]


def test_a_branch_by_index_goes_to_the_label_at_that_place(bodies: ctypes.CDLL):
    assert result_of(bodies, "branches") == [10, 20] * (THREADS // 2)


def test_registers_of_an_inner_scope_are_its_own(bodies: ctypes.CDLL):
    assert result_of(bodies, "scopes") == [6] * THREADS


def test_layout_comments_and_forms_of_numbers_make_no_difference(bodies: ctypes.CDLL):
    assert result_of(bodies, "odd layout") == [10 + 12 + 3 - 5] * THREADS


def test_constants_and_local_memory_hold_their_values(bodies: ctypes.CDLL):
    assert result_of(bodies, "memories") == [i + 65535 + 4 for i in range(THREADS)]


def test_bytes_beside_each_other_are_no_race(bodies: ctypes.CDLL):
    assert result_of(bodies, "bytes") == [i ^ 1 for i in range(THREADS)]


def test_what_a_wider_load_does_not_use_is_not_read(bodies: ctypes.CDLL):
    assert result_of(bodies, "half used") == [3] * THREADS


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_access_is_caught(bodies: ctypes.CDLL, name: str):
    with pytest.raises(KernelError, match=f"block 0, thread \\d+: .*({WRONG[name][1]})"):
        result_of(bodies, name)


# ---- what is refused ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("statement", "sentence"),
    [
        ("frobnicate.u32 %r1, %r2;", "the instruction 'frobnicate.u32 %r1, %r2' is not known"),
        ("add.fast.f32 %f1, %f1, %f1;", "the instruction 'add.fast.f32 %f1, %f1, %f1' is not known"),
        ("add.sat.s32 %r1, %r1, %r1;", "the instruction 'add.sat.s32"),
        ("add.u32 %r1, %r1;", "the instruction 'add.u32 %r1, %r1' is not known"),
        ("ld.shared.mystery.u32 %r1, [%r2];", "the instruction 'ld.shared.mystery.u32"),
        ("ld.global.v4.u32 {%r1, %r2}, [%rd1];", "the instruction 'ld.global.v4.u32"),
        ("cvt.rn.f16.f32 %r1, %f1;", "the instruction 'cvt.rn.f16.f32"),
        ("cvt.s32.f32 %r1, %f1;", "the instruction 'cvt.s32.f32"),
        ("setp.lt.nor.f32 %p1, %f1, %f1, %p1;", "the instruction 'setp.lt.nor.f32"),
        ("atom.global.average.u32 %r1, [%rd1], %r2;", "the instruction 'atom.global.average.u32"),
        ("shfl.sync.sideways.b32 %r1, %r1, 1, 31, -1;", "the instruction 'shfl.sync.sideways.b32"),
        ("bra $NOWHERE;", r"the instruction 'bra \$NOWHERE' is not known"),
        ("mov.u32 %r1, %clock;", "the operand '%clock' is not known"),
        ("mov.u32 %r1, %r99;", "the operand '%r99' is not known"),
        ("mov.u32 %r99, 1;", "%r99 is no register for a result of type u32"),
        ("cvt.s64.s32 %r1, %r1;", "%r1 is too small for a result of type s64"),
        ("ld.global.u32 %r1, [%rd1 - 4];", r"the address '\[%rd1 - 4\]' is not known"),
        (".maxstack 5;", "'.maxstack 5' is not known"),
        (".loc 1 23 5\nmov.u32 %r1, 1;", "'.loc 1 23 5 mov.u32 %r1, 1' is not known"),
        ("/* mov.u32 %r1, 1; */", r"'/\* mov.u32 %r1, 1' is not an instruction"),
        ("add.f32 %f1, %f1, 1;", "the operand '1' is not of type f32"),
        ("add.f32 %f1, %f1, 1.0;", "the operand '1.0' is not known"),
        ("add.f32 %f1, %f1, 0f3F8;", "the operand '0f3F8' is not known"),
        ("mul.f32 %f1, %f1, 0d3FF0000000000000;", "the operand '0d3FF0000000000000' is not of type f32"),
        ("fma.rn.f64 %rd1, %rd1, %rd1, 0f3F800000;", "the operand '0f3F800000' is not of type f64"),
        ("mov.u32 %r1, 017;", "the operand '017' is not known"),
        ("ld.global.u32 %r1, [%rd1+0x10];", r"the address '\[%rd1\+0x10\]' is not known"),
        (".shared .b8 a[4];{.shared .b8 a[4];}", "there are two variables a"),
        (".reg .b32 %x$y;{.reg .b32 %x_y;}.reg .b32 %x_y;", "the name of %x_y is too much like another's"),
    ],
)
def test_what_is_not_known_is_an_error_that_names_it_with_its_kernel_and_line(statement: str, sentence: str):
    body = f".reg .b32 %r<9>;\n.reg .b64 %rd<9>;\n.reg .f32 %f<9>;\n.reg .pred %p<9>;\n{statement}\nret;"
    with pytest.raises(PtxError, match=f"^kernel tested, line 11: {sentence}"):
        translate(HEADER + kernel("tested", body))


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (".func helper() { ret; }", "line 1: '.func helper"),
        (".visible .entry bare(.param .u64 a) { ret; }", "kernel bare, line 1: it needs launch bounds"),
        (
            ".visible .entry flat(.param .u64 a) .maxntid 8, 8, 1 { ret; }",
            "kernel flat, line 1: it needs launch bounds",
        ),
        (".global .u64 pointer = other;", "line 1: a value of pointer is not a number"),
        (kernel("open", "ret")[:-3], "the text ends within a kernel"),
        (kernel("loose", "ret"), "kernel loose, line 4: it does not end with a semicolon"),
    ],
)
def test_a_module_that_is_not_known_is_an_error(text: str, sentence: str):
    with pytest.raises(PtxError, match=sentence):
        parse(text)


# ---- our kernels ----------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_every_instruction_in_our_kernels_is_known(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("NFC_GS_EMULATOR_KERNELS", "oldest")
    try:
        chosen_architecture()
    except UserError as error:
        pytest.skip(str(error))
    monkeypatch.syspath_prepend(CUDA.parent / "tools")
    known = supported_architectures()
    lines = listing([known[0], known[-1]])
    assert lines[-1].endswith("instructions, all of them covered")
    assert any(line.split()[1:] == ["fma.rn.f32", "all"] for line in lines)
