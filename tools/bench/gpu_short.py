"""`bench.py gpu --short`: what is to be known of a GPU at first contact, in eight minutes.

A module of `bench.py gpu`, not a command. It is a table of parts, each a command that can be run alone; `parts.py` runs
them. Measuring parts are calls of `bench.py gpu` with fewer rounds. gsplat is compiled after everything that does not
need it, since that takes minutes and may fail.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import os
import platform
import re
import shutil
import statistics
import subprocess
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from parts import HERE, Part, Reading, Results, run_parts

ROOT, BENCH, SANITIZE = HERE.parents[1], HERE / "bench.py", HERE / "gpu_sanitize.py"

TEST_FILES = (
    "tests/test_render_backends.py",
    "tests/test_render_bits.py",
    "tests/test_render_normals.py",
    "tests/test_render_parts.py",
    "tests/test_cuda_training.py",
    "tests/test_gpu.py",
)
"""Those with tests on a GPU: of the smallest scenes first."""

PACKAGES = ("cuda-core", "cuda-bindings", "cuda-pathfinder", "gsplat", "pycolmap", "pytest", "nfc-gs")
"""Their versions are noted."""

SELF_TEST = "nfc_gs.rendering.self_test"
"""The module that compares our kernels with the reference."""

COMPILE_GSPLAT = "compiling gsplat"

AROUND_TRAINING = 40.0
"""Seconds that a training takes beside its own: to start, to draw or read the capture, to compile, to measure."""


@dataclass(frozen=True)
class Plan:
    """What the measuring parts measure.

    Attributes:
        json: the file of all results; parts write beside it.
        capture: to train on; None for the built-in one.
        garden: gsplat's test scene; None for synthetic points.
        gaussians: numbers of Gaussians, ascending.
        bits: number of Gaussians at which bits are compared with direct colors.
        size: width and height of the pictures.
        rounds, views: as of `bench.py gpu`.
        training: most seconds of the training.
    """

    json: Path
    capture: Path | None = None
    garden: Path | None = None
    gaussians: tuple[int, ...] = (100_000, 1_000_000, 4_000_000)
    bits: int = 1_000_000
    size: tuple[int, int] = (1920, 1080)
    rounds: int = 5
    views: int = 3
    training: float = 60.0


def run(plan: Plan, budget: float) -> int:
    """Run all parts within `budget` seconds and print; returns the exit code.

    Raises:
        UserError: the results cannot be written.
    """
    facts = machine_facts()
    results = Results(plan.json, facts)
    results.say("\n".join(f"{name}: {value}" for name, value in facts.items()))
    return run_parts(gpu_parts(plan), results, budget)


def gpu_parts(plan: Plan) -> list[Part]:
    """All parts in their order."""
    ours = scene_options(plan, plan.gaussians, ("compare", "kernels"))
    bits = scene_options(plan, (plan.bits,), ("bits",))
    both = scene_options(plan, plan.gaussians, ("compare",), ("gsplat",))
    return [
        Part(
            "self-test", fixed(sys.executable, "-m", "nfc_gs.rendering.self_test", "cuda:0"), read_self_test, limit=60
        ),
        tests_part("tests on the GPU", "not gsplat", TEST_FILES, limit=120, least=20),
        memcheck_part(),
        measuring_part("ours", plan, ours, read=read_ours(plan.gaussians), limit=75),
        training_part(plan),
        measuring_part("bits", plan, bits, read=read_bits, limit=45),
        compiling_part(),
        measuring_part(
            "ours and gsplat in turn", plan, both, read=read_peer(plan.gaussians), limit=75, after=COMPILE_GSPLAT
        ),
        tests_part("tests beside gsplat", "gsplat", TEST_FILES[-1:], limit=40, least=10, after=COMPILE_GSPLAT),
    ]


# ---- commands -----------------------------------------------------------------------------------------------------


def fixed(*words: object) -> Any:
    """A command that is the same whatever time it may take."""
    return lambda seconds: [str(word) for word in words]


def scene_options(plan: Plan, gaussians: Sequence[int], parts: Sequence[str], peers: Sequence[str] = ()) -> list[str]:
    """Options of `bench.py gpu` for measuring on the tiled scene."""
    scene = ["--synthetic"] if plan.garden is None else ["--garden", str(plan.garden)]
    counts = [str(count) for count in gaussians]
    return [
        *scene, "--gaussians", *counts, "--sizes", *map(str, plan.size), "--parts", *parts, "--peers", *peers,
        "--rounds", str(plan.rounds), "--views", str(plan.views),
    ]  # fmt: skip


def measuring_part(name: str, plan: Plan, options: Sequence[str], **rest: Any) -> Part:
    """A part that is a call of `bench.py gpu`, which writes what it measured beside the results.

    Args:
        rest: fields of `Part`.
    """
    measured = plan.json.with_name(f"{plan.json.stem}-{name.replace(' ', '-')}.json")
    command = fixed(sys.executable, BENCH, "gpu", *options, "--json", measured)
    return Part(name, command, measured=measured, least=20, **rest)


def tests_part(name: str, keyword: str, files: Sequence[str], **rest: Any) -> Part:
    """A part of the tests, whose names are printed as they end.

    Args:
        keyword: of the names of the tests, as pytest's -k takes it.
        files: below the root of the repository.
        rest: fields of `Part`.
    """
    words = ["-m", "pytest", "-c", ROOT / "pyproject.toml", "--rootdir", ROOT, *["-vv", "--tb=short"]]
    words += ["-p", "no:cacheprovider", "-m", "gpu and not slow", "-k", keyword, *(ROOT / file for file in files)]
    missing = "" if has("pytest") else "pytest is not installed."
    return Part(name, fixed(sys.executable, *words), read_tests, missing=missing, **rest)


def memcheck_part() -> Part:
    """Every kernel on the smallest scene under compute-sanitizer."""
    program = find_sanitizer()
    words = ["--tool", "memcheck", "--error-exitcode", "9"]
    return Part(
        "memcheck",
        fixed(program, *words, sys.executable, SANITIZE, "--smallest"),
        read_memcheck,
        limit=60,
        least=20,
        missing="" if program else "compute-sanitizer is not found; it is a program of the CUDA toolkit.",
        environment={"PYTORCH_NO_CUDA_MEMORY_CACHING": "1"},  # torch's pool hides what is beyond an array
    )


def compiling_part() -> Part:
    """gsplat's kernels, compiled where they are not yet."""
    return Part(
        COMPILE_GSPLAT,
        fixed(sys.executable, "-c", "from gsplat.cuda._backend import _C; assert _C is not None"),
        lambda output, measured: Reading(""),
        limit=300,
        least=60,
        missing=why_no_gsplat(),
        environment=compiling_environment(),
    )


def training_part(plan: Plan) -> Part:
    """A training for a minute, or for what is left."""
    capture = "built-in" if plan.capture is None else plan.capture
    measured = plan.json.with_name(f"{plan.json.stem}-training.json")

    def command(seconds: float) -> list[str]:
        training = max(min(plan.training, seconds - AROUND_TRAINING), 1.0)
        words = (
            sys.executable,
            BENCH,
            "gpu",
            "--train",
            capture,
            "--train-time",
            f"{training:.0f}s",
            "--json",
            measured,
        )
        return [str(word) for word in words]

    missing = "" if has("pycolmap") else "pycolmap is not installed, which reads captures."
    limit = plan.training + AROUND_TRAINING
    return Part("training", command, read_training, limit, AROUND_TRAINING + 10.0, measured, missing)


def find_sanitizer() -> str | None:
    """The path of compute-sanitizer: on PATH, in a CUDA toolkit, or in a package of NVIDIA's."""
    toolkits = [os.environ[name] for name in ("CUDA_HOME", "CUDA_PATH") if name in os.environ] + ["/usr/local/cuda"]
    folders = os.pathsep.join(str(Path(toolkit) / "bin") for toolkit in toolkits)
    found = shutil.which("compute-sanitizer") or shutil.which("compute-sanitizer", path=folders)
    if found is not None:
        return found
    spec = importlib.util.find_spec("nvidia")
    packages = [Path(folder) for folder in (spec.submodule_search_locations or ())] if spec else []
    programs = [path for folder in packages for path in folder.rglob("compute-sanitizer") if os.access(path, os.X_OK)]
    return next((str(path) for path in programs if path.is_file()), None)


def why_no_gsplat() -> str:
    """Why gsplat cannot be measured here, a sentence; empty if it may be."""
    if not has("gsplat"):
        return "gsplat is not installed."
    from torch.utils.cpp_extension import CUDA_HOME

    built = importlib.util.find_spec("gsplat")
    assert built is not None and built.origin is not None
    if CUDA_HOME is None and not list(Path(built.origin).parent.glob("csrc*.so")):
        return "The CUDA toolkit is not found, whose nvcc compiles gsplat's kernels."
    return ""


def compiling_environment() -> dict[str, str]:
    """Variables by which gsplat's kernels are compiled for this GPU alone, on all processors, unless they are set."""
    capability = ask_driver("compute_cap")
    wanted = {"MAX_JOBS": str(os.cpu_count() or 1)} | ({"TORCH_CUDA_ARCH_LIST": capability} if capability else {})
    return {name: os.environ.get(name, value) for name, value in wanted.items()}


def has(package: str) -> bool:
    """Whether a package can be imported."""
    return importlib.util.find_spec(package) is not None


def ask_driver(what: str) -> str:
    """A property of the first GPU, by its name in `nvidia-smi --help-query-gpu`; empty if it cannot be had."""
    command = ["nvidia-smi", f"--query-gpu={what}", "--format=csv,noheader"]
    try:
        ended = subprocess.run(command, capture_output=True, text=True, timeout=20)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return ended.stdout.splitlines()[0].strip() if ended.returncode == 0 and ended.stdout else ""


def machine_facts() -> dict[str, str]:
    """The machine and the versions that the results belong to; touches no GPU."""
    versions = {}
    for name in PACKAGES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            versions[name] = "not installed"
    return {
        "GPU": ask_driver("name,driver_version,memory.total,compute_cap") or "unknown: nvidia-smi does not answer",
        "processors": str(os.cpu_count()),
        "python": platform.python_version(),
        "torch": f"{torch.__version__}, CUDA {torch.version.cuda}",
        "nvcc": shutil.which("nvcc") or "not on PATH",
        "compute-sanitizer": find_sanitizer() or "not found",
    } | versions


# ---- reading results ----------------------------------------------------------------------------------------------


def read_self_test(output: str, _: Mapping[str, Any]) -> Reading:
    """The verdict of `nfc_gs.rendering.self_test`: one line of JSON."""
    lines = [line for line in output.splitlines() if line.startswith("{")]
    if not lines:
        return Reading("", "It printed no verdict.")
    verdict = json.loads(lines[-1])
    return Reading("", "" if verdict["passed"] else verdict["reason"])


def read_tests(output: str, _: Mapping[str, Any]) -> Reading:
    """How many tests ended how, of as many as ended before pytest did."""
    found = Counter(re.findall(r"^\S*tests/\S+::.* (PASSED|FAILED|SKIPPED|ERROR)\b", output, re.M))
    words = ", ".join(f"{found[end]} {end.lower()}" for end in ("PASSED", "FAILED", "ERROR", "SKIPPED") if found[end])
    return Reading(words, "" if found["PASSED"] else "No test passed.")


def read_memcheck(output: str, _: Mapping[str, Any]) -> Reading:
    """Errors that compute-sanitizer counted, and the checks that ran under it."""
    checks = len(re.findall(r"^[^=\n].*: \d+ results$", output, re.M))
    errors = re.findall(r"ERROR SUMMARY: (\d+) error", output)
    figures = f"{checks} checks, {errors[-1] if errors else 'unknown'} errors"
    if not errors:
        return Reading(figures, "compute-sanitizer printed no summary.")
    return Reading(figures, "" if errors[-1] == "0" and checks else "compute-sanitizer found errors, or nothing ran.")


def skipped(output: str) -> str:
    """What a call of `bench.py gpu` skipped, as it says."""
    return " ".join(re.findall(r"^.* is skipped: .*$", output, re.M))


def comparisons(measured: Mapping[str, Any], part: str) -> dict[int, dict[str, dict[str, float]]]:
    """Median seconds by number of Gaussians, variant and stage."""
    return {
        entry["gaussians"]: {
            name: {stage: statistics.median(values) for stage, values in variant["seconds"].items()}
            for name, variant in entry["found"].items()
        }
        for entry in measured.get("measured", ())
        if entry["part"] == part
    }


def ratios(other: Mapping[str, float], own: Mapping[str, float]) -> str:
    """Seconds of each stage over those of another variant."""
    return ", ".join(f"{stage} {other[stage] / seconds:.2f}" for stage, seconds in own.items())


def in_millions(count: int) -> str:
    """A number of Gaussians: '0.1 M'."""
    return f"{count / 1e6:g} M"


def read_ours(gaussians: Sequence[int], variant: str = "ours") -> Any:
    """Milliseconds of each stage, by number of Gaussians."""

    def read(output: str, measured: Mapping[str, Any]) -> Reading:
        found = {count: of[variant] for count, of in comparisons(measured, "compare").items() if variant in of}
        lines = [
            f"{in_millions(count)}: " + ", ".join(f"{stage} {1e3 * seconds:.2f}" for stage, seconds in stages.items())
            for count, stages in found.items()
        ]
        return Reading("\n".join([*lines, "(ms)"] if lines else lines), unmeasured(gaussians, found, output))

    return read


def read_peer(gaussians: Sequence[int], peer: str = "gsplat") -> Any:
    """Time of gsplat over ours, by number of Gaussians."""

    def read(output: str, measured: Mapping[str, Any]) -> Reading:
        found = {count: of for count, of in comparisons(measured, "compare").items() if {"ours", peer} <= of.keys()}
        lines = [
            f"{in_millions(count)}: "
            + ", ".join(f"{stage} {of[peer][stage] / own:.2f}" for stage, own in of["ours"].items())
            for count, of in found.items()
        ]
        return Reading("\n".join([f"{peer} / ours", *lines] if lines else lines), unmeasured(gaussians, found, output))

    return read


def unmeasured(gaussians: Sequence[int], found: Mapping[int, Any], output: str) -> str:
    """Which numbers of Gaussians are missing, and why; empty if none is."""
    missing = [in_millions(count) for count in gaussians if count not in found]
    return f"Not measured: {', '.join(missing)} Gaussians. {skipped(output)}".strip() if missing else ""


def read_bits(output: str, measured: Mapping[str, Any]) -> Reading:
    """Time with bits over that with direct colors."""
    for of in comparisons(measured, "bits").values():
        direct, *others = of
        lines = [
            f"{name} / {direct}: "
            + ", ".join(f"{stage} {of[name][stage] / own:.2f}" for stage, own in of[direct].items())
            for name in others
        ]
        return Reading("\n".join(lines), "" if others else f"Bits were not measured. {skipped(output)}".strip())
    return Reading("", f"Nothing was measured. {skipped(output)}".strip())


def read_training(_: str, measured: Mapping[str, Any]) -> Reading:
    """PSNR and speed."""
    if "training" not in measured:
        return Reading("", "It did not get to its end.")
    found = measured["training"]
    return Reading(
        f"{found['capture']}: {found['psnr']:.2f} dB after {found['steps']:,} steps in {found['seconds']:.1f} s, "
        f"{found['steps'] / found['seconds']:.0f} steps/s"
    )
