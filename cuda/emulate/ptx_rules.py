"""What the instructions of PTX compute, as C++ over `ptx.h`: the table of `ptx.py`.

The meaning of each is in NVIDIA's "Parallel Thread Execution ISA". Approximations (`ex2.approx` and its like) are
computed accurately. Fences do nothing, since the emulator runs one thread at a time.
"""

from __future__ import annotations

import re
from collections import defaultdict
from dataclasses import dataclass

INTEGERS = "s16 u16 s32 u32 s64 u64"
FLOATS = "f32 f64"
PLAIN = "b16 b32 b64"
ANY = f"{PLAIN} {INTEGERS} {FLOATS}"

ROUNDING = {"rn": "", "rz": "FE_TOWARDZERO", "rm": "FE_DOWNWARD", "rp": "FE_UPWARD"}
"""The modes of rounding, as C++ names them; the first is the usual one."""


@dataclass(frozen=True)
class Rule:
    """What an instruction computes.

    Attributes:
        types: it is defined for, separated by spaces; empty if its name has no type.
        expression: C++ of its operands a, b, c, d and its type T; W is a type of twice the bits.
        signature: the types of its result and its operands: T, W, `p` for a predicate, or a type.
        extras: further modifiers it may have: "round" for one of `ROUNDING`, "ftz", "sat".
    """

    types: str
    expression: str
    signature: str
    extras: tuple[str, ...]


RULES: dict[str, list[Rule]] = defaultdict(list)
"""By name, without extras and type."""


def rule(names: str, types: str, expression: str, signature: str = "", extras: str = "") -> None:
    """Add an instruction that has several names, or one. By default its operands have its type."""
    operands = sorted(set(re.findall(r"\b[abcd]\b", expression)))
    for name in names.split():
        signature = signature or "T = " + " ".join("T" for _ in operands)
        RULES[name].append(Rule(types, expression, signature, tuple(extras.split())))


rule("add", INTEGERS, "a + b")
rule("sub", INTEGERS, "a - b")
rule("mul.lo", INTEGERS, "a * b")
rule("mul.hi", INTEGERS, "high_product(a, b)")
rule("mul.wide", "s16 u16 s32 u32", "W(a) * W(b)", "W = T T")
rule("mad.lo", INTEGERS, "a * b + c")
rule("mad.hi", INTEGERS, "high_product(a, b) + c")
rule("mad.wide", "s16 u16 s32 u32", "W(a) * W(b) + c", "W = T T W")
rule("sad", INTEGERS, "c + (a < b ? b - a : a - b)")
rule("div", INTEGERS, "divide(a, b)")
rule("rem", INTEGERS, "remainder_of(a, b)")
rule("abs", "s16 s32 s64", "a < 0 ? -a : a")
rule("neg", "s16 s32 s64", "-a")
rule("min", INTEGERS, "a < b ? a : b")
rule("max", INTEGERS, "a > b ? a : b")

rule("add", FLOATS, "a + b", extras="round ftz sat")
rule("sub", FLOATS, "a - b", extras="round ftz sat")
rule("mul", FLOATS, "a * b", extras="round ftz sat")
rule("fma mad", FLOATS, "std::fma(a, b, c)", extras="round ftz sat")
rule("div", FLOATS, "a / b", extras="round ftz")
rule("div.full div.approx", "f32", "a / b", extras="ftz")
rule("rcp", FLOATS, "1 / a", extras="round ftz")
rule("rcp.approx", FLOATS, "1 / a", extras="ftz")
rule("sqrt", FLOATS, "std::sqrt(a)", extras="round ftz")
rule("sqrt.approx", "f32", "std::sqrt(a)", extras="ftz")
rule("rsqrt.approx", FLOATS, "1 / std::sqrt(a)", extras="ftz")
rule("ex2.approx", "f32", "std::exp2(a)", extras="ftz")
rule("lg2.approx", "f32", "std::log2(a)", extras="ftz")
rule("sin.approx", "f32", "std::sin(a)", extras="ftz")
rule("cos.approx", "f32", "std::cos(a)", extras="ftz")
rule("tanh.approx", "f32", "std::tanh(a)")
rule("abs", FLOATS, "std::fabs(a)", extras="ftz")
rule("neg", FLOATS, "-a", extras="ftz")
rule("min", FLOATS, "minimum(a, b)", extras="ftz")
rule("max", FLOATS, "maximum(a, b)", extras="ftz")
rule("min.NaN", "f32", "unordered(a, b) ? NAN : minimum(a, b)", extras="ftz")
rule("max.NaN", "f32", "unordered(a, b) ? NAN : maximum(a, b)", extras="ftz")
rule("copysign", FLOATS, "std::copysign(b, a)")
rule("testp.finite", FLOATS, "std::isfinite(a)", "p = T")
rule("testp.infinite", FLOATS, "std::isinf(a)", "p = T")
rule("testp.number", FLOATS, "!std::isnan(a)", "p = T")
rule("testp.notanumber", FLOATS, "std::isnan(a)", "p = T")
rule("testp.normal", FLOATS, "std::isnormal(a)", "p = T")
rule("testp.subnormal", FLOATS, "std::fpclassify(a) == FP_SUBNORMAL", "p = T")

rule("and", f"pred {PLAIN}", "a & b")
rule("or", f"pred {PLAIN}", "a | b")
rule("xor", f"pred {PLAIN}", "a ^ b")
rule("not", PLAIN, "~a")
rule("not", "pred", "!a")
rule("cnot", PLAIN, "a == 0")
rule("lop3", "b32", "of_three(a, b, c, d)")
rule("shl", PLAIN, "shift_left(a, b)", "T = T u32")
rule("shr", f"{PLAIN} {INTEGERS}", "shift_right(a, b)", "T = T u32")
rule("shf.l.wrap", "b32", "funnel_left(a, b, c & 31)")
rule("shf.r.wrap", "b32", "funnel_right(a, b, c & 31)")
rule("shf.l.clamp", "b32", "funnel_left(a, b, std::min(c, 32u))")
rule("shf.r.clamp", "b32", "funnel_right(a, b, std::min(c, 32u))")
rule("bfe", "s32 u32 s64 u64", "extract(a, b, c)", "T = T u32 u32")
rule("bfi", "b32 b64", "insert(a, b, c, d)", "T = T T u32 u32")
rule("bfind", "s32 u32 s64 u64", "highest_bit(a)", "u32 = T")
rule("bfind.shiftamt", "s32 u32 s64 u64", "highest_bit(a) > kBits<T> ? ~0u : kBits<T> - 1 - highest_bit(a)", "u32 = T")
rule("brev", "b32 b64", "reversed(a)")
rule("clz", "b32 b64", "leading_zeros(a)", "u32 = T")
rule("popc", "b32 b64", "__builtin_popcountll(a)", "u32 = T")
rule("prmt", "b32", "permute(a, b, c)")
rule("fns", "b32", "nth_set_bit(a, b, int32_t(c))")
rule("selp", ANY, "c ? a : b", "T = T T p")
rule("cvta.to.global cvta.to.local cvta.to.const cvta.to.param", "u64", "a")
rule("cvta.global cvta.local cvta.const cvta.param", "u64", "a")
rule("cvta.shared", "u64", "a + kSharedWindow")
rule("cvta.to.shared", "u64", "a - kSharedWindow")

# ---- threads together: the emulator changes threads in these


rule("bar.sync barrier.sync barrier.sync.aligned", "", "(check_barrier(a), __syncthreads())", "= u32")
rule("bar.red.or barrier.red.or barrier.red.or.aligned", "pred", "(check_barrier(a), __syncthreads_or(b))", "p = u32 p")
rule(
    "bar.red.and barrier.red.and barrier.red.and.aligned",
    "pred",
    "(check_barrier(a), !__syncthreads_or(!b))",
    "p = u32 p",
)
rule(
    "bar.red.popc barrier.red.popc barrier.red.popc.aligned",
    "u32",
    "(check_barrier(a), __syncthreads_count(b))",
    "T = T p",
)
rule("bar.warp.sync", "", "__syncwarp(a)", "= u32")
rule("vote.sync.any", "pred", "__any_sync(b, a)", "p = p u32")
rule("vote.sync.all", "pred", "__all_sync(b, a)", "p = p u32")
rule("vote.sync.uni", "pred", "vote_uniform(b, a)", "p = p u32")
rule("vote.sync.ballot", "b32", "__ballot_sync(b, a)", "T = p T")
rule("match.any.sync", "b32", "match_any(a, b)")
rule("match.all.sync", "b32", "match_all(a, b)")
rule("redux.sync.add", "s32 u32", "reduced(a, b, [](T x, T y) { return x + y; })", "T = T u32")
rule("redux.sync.min", "s32 u32", "reduced(a, b, [](T x, T y) { return std::min(x, y); })", "T = T u32")
rule("redux.sync.max", "s32 u32", "reduced(a, b, [](T x, T y) { return std::max(x, y); })", "T = T u32")
rule("redux.sync.and", "b32", "reduced(a, b, [](T x, T y) { return x & y; })", "T = T u32")
rule("redux.sync.or", "b32", "reduced(a, b, [](T x, T y) { return x | y; })", "T = T u32")
rule("redux.sync.xor", "b32", "reduced(a, b, [](T x, T y) { return x ^ y; })", "T = T u32")
rule("activemask", "b32", "1u << lane()")  # alone, as each thread is here: what a program must be right with
rule("membar.cta membar.gl membar.sys", "", "(void)0", "=")
rule("fence.sc.cta fence.sc.gpu fence.sc.sys fence.acq_rel.cta fence.acq_rel.gpu fence.acq_rel.sys", "", "(void)0", "=")
rule("nanosleep", "u32", "void(a)", "= T")
rule("ret exit", "", "return", "=")
rule("trap", "", 'fail("trap")', "=")

COMPARISONS = {
    "eq": "a == b", "lt": "a < b", "le": "a <= b", "gt": "a > b", "ge": "a >= b",
    "lo": "a < b", "ls": "a <= b", "hi": "a > b", "hs": "a >= b",
    "equ": "!(a < b || a > b)", "neu": "a != b", "ltu": "!(a >= b)", "leu": "!(a > b)", "gtu": "!(a <= b)",
    "geu": "!(a < b)", "num": "!unordered(a, b)", "nan": "unordered(a, b)",
}  # fmt: skip
"""Of `setp` and `set`; those with a u, for unordered, hold for what is not a number, too. `ne` is below."""

COMBINATIONS = {"and": "&&", "or": "||", "xor": "!="}
"""Of a comparison and a further predicate."""

ATOMICS = {
    "add": "old + b", "min": "b < old ? b : old", "max": "b > old ? b : old", "and": "old & b", "or": "old | b",
    "xor": "old ^ b", "exch": "b", "cas": "old == b ? c : old", "inc": "old >= b ? 0 : old + 1",
    "dec": "old == 0 || old > b ? b : old - 1",
}  # fmt: skip
"""What `atom` and `red` put in the place of the value that was there."""

TO_WHOLE = {"rni": "std::nearbyint", "rzi": "std::trunc", "rmi": "std::floor", "rpi": "std::ceil"}
"""Roundings to integers, of `cvt`."""

SPACES = ("param", "global", "const", "local", "shared")

HINTS = re.compile(r"nc|volatile|weak|relaxed|acquire|release|acq_rel|cta|gpu|sys|c[agsv]|lu|wb|wt|L[12]::\w+|unified")
"""Modifiers of loads, stores and atomics about caches and the order of memory, which nothing here depends on."""

SPECIAL = {f"%{name}.{axis}": f"uint32_t({value}.{axis})" for axis in "xyz" for name, value in
           (("tid", "threadIdx"), ("ntid", "blockDim"), ("ctaid", "blockIdx"), ("nctaid", "gridDim"))}  # fmt: skip
SPECIAL |= {
    "WARP_SZ": "32u", "%laneid": "uint32_t(lane())", "%warpid": "uint32_t(threadIdx.x / 32)",
    "%lanemask_eq": "(1u << lane())", "%lanemask_lt": "((1u << lane()) - 1)", "%lanemask_le": "((2u << lane()) - 1)",
    "%lanemask_gt": "~((2u << lane()) - 1)", "%lanemask_ge": "~((1u << lane()) - 1)",
}  # fmt: skip
"""Registers that hold where a thread is."""
