"""Whether our kernels compute what the reference computes on a GPU, before `auto` uses them there.

    python -m nfc_gs.rendering.self_test cuda:0

compares them (`rendering.kernel_comparison`), prints {"passed": true, "reason": "", "lasting": true} and exits with 0,
or with 1 if they failed. `self_test` runs that as a process of its own, since an illegal access would leave this one
without a usable GPU, and keeps the verdict in the folder of compiled kernels.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import signal
import subprocess
import sys
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch

from nfc_gs.core import plain_json
from nfc_gs.core.errors import UserError
from nfc_gs.core.files import atomic_write, make_folder
from nfc_gs.core.text import in_one_line
from nfc_gs.ops import nvrtc
from nfc_gs.ops.device import gpu_problem
from nfc_gs.rendering.kernel_comparison import DifferenceError, compare

_log = logging.getLogger("nfc_gs")

PROGRAM = "nfc_gs.rendering.self_test"
"""The module that compares."""

TIME_LIMIT = 120.0
"""Seconds that it may take: it imports torch and compiles the kernels, which together take about ten."""

_CALLERS = ("ops/gpu.py", "ops/kernel_args.py", "rendering/cuda_backend.py", "rendering/kernel_comparison.py")
"""Files of the package whose changes make a verdict void, beside the kernels."""

_FROM_OUTSIDE = ("SIGHUP", "SIGINT", "SIGKILL", "SIGTERM")
"""Signals by which others end a process, the system out of memory among them: they say nothing of the kernels."""


@dataclass(frozen=True)
class Verdict:
    """What a self-test found.

    Attributes:
        passed: our kernels compute on this GPU what the reference computes.
        reason: why not, a clause without a full stop; "" if passed.
        gpu: name and UUID.
        driver: its version.
        kernels: hash of the kernels, of what calls them, and of torch's version.
    """

    passed: bool
    reason: str
    gpu: str
    driver: str
    kernels: str


def self_test(device: torch.device | str, *, retest: bool = False) -> Verdict:
    """Whether our kernels work on a GPU: the verdict that is kept for it, else that of a new test.

    A verdict is kept for one GPU, driver, version of torch and state of the kernels. That of a test which ran out of
    time or memory, or which somebody ended, is not kept: the next process tests again.

    Args:
        device: "cuda" or "cuda:N".
        retest: test in any case.
    """
    device = torch.device(device)
    try:
        problem = gpu_problem(device)
        if problem:
            raise UserError(problem)
        device = nvrtc.with_index(device)
        asked = _subject(device)
    except UserError as error:
        return Verdict(False, str(error).removesuffix("."), "", "", "")
    kept = None if retest else _kept(asked)
    if kept is not None:
        return kept
    _log.info("Testing our CUDA kernels on %s, once for this GPU and driver; this may take a minute.", asked.gpu)
    passed, reason, lasting = _run(device)
    verdict = replace(asked, passed=passed, reason=reason)
    if lasting:
        _keep(verdict)
    else:
        with contextlib.suppress(OSError):  # where nothing can be removed
            _file(verdict).unlink(missing_ok=True)
    return verdict


def _subject(device: torch.device) -> Verdict:
    """What is tested, as a verdict that nobody has given yet. Raises UserError if our kernels cannot be compiled."""
    found = torch.cuda.get_device_properties(device)
    kernels = nvrtc.kernels_hash(*nvrtc.target_for(found.major, found.minor), nvrtc.compiler_name())
    digest = hashlib.sha256(json.dumps([kernels, torch.__version__]).encode())
    package = Path(__file__).resolve().parents[1]
    for name in _CALLERS:
        digest.update((package / name).read_bytes())
    return Verdict(False, "", f"{found.name}, {found.uuid}", nvrtc.driver_version(), digest.hexdigest()[:16])


def _file(verdict: Verdict) -> Path:
    """Where a verdict is kept: one file for each GPU, so that a new driver or new kernels replace the old verdict."""
    return nvrtc.cache_folder() / f"self-test-{hashlib.sha256(verdict.gpu.encode()).hexdigest()[:16]}.json"


def _kept(asked: Verdict) -> Verdict | None:
    """The verdict in the cache; None if there is none of the same GPU, driver and kernels, or it is damaged."""
    try:
        values = plain_json.as_dict(plain_json.parse(_file(asked).read_bytes()), "the verdict")
        passed = values["passed"]
        if not isinstance(passed, bool):
            raise ValueError("passed is no truth value")
        texts = {name: plain_json.as_text(values[name], name) for name in ("reason", "gpu", "driver", "kernels")}
    except (OSError, KeyError, ValueError):
        return None
    verdict = Verdict(passed, **texts)
    same = replace(verdict, passed=asked.passed, reason=asked.reason) == asked
    return verdict if same and passed == (not verdict.reason) else None


def _keep(verdict: Verdict) -> None:
    """Write a verdict into the cache; one that cannot be written is found again by the next process."""
    path = _file(verdict)
    try:
        make_folder(path.parent)
        with atomic_write(path) as temporary:
            temporary.write_text(json.dumps(asdict(verdict), indent=1), encoding="utf-8")
    except UserError as error:
        _log.warning("%s", error)


def _run(device: torch.device) -> tuple[bool, str, bool]:
    """Compare in a process of its own; returns whether it passed, the reason if not, and whether that will last."""
    package = Path(__file__).resolve().parents[1]
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(str(Path(folder).resolve()) for folder in sys.path if folder),
        nvrtc.CACHE_VARIABLE: str(nvrtc.cache_folder().resolve()),
    }
    command = [sys.executable, "-m", PROGRAM, str(device)]
    try:
        ended = subprocess.run(
            command,
            cwd=package.parent,
            env=environment,
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            timeout=TIME_LIMIT,
        )
    except subprocess.TimeoutExpired:
        return False, f"its self-test did not end within {TIME_LIMIT:g} seconds", False
    except OSError as error:
        return False, f"its self-test could not be started ({error})", False
    try:
        values = plain_json.as_dict(plain_json.parse(ended.stdout.splitlines()[-1]), "the verdict")
        reason = plain_json.as_text(values["reason"], "reason")
        passed, lasting = values["passed"], values["lasting"]
        if not isinstance(lasting, bool) or passed is not (not reason):
            raise ValueError("it is no verdict")
        return passed, reason, lasting
    except (IndexError, KeyError, ValueError):
        return False, f"its self-test crashed ({_last_words(ended)})", not _ended_from_outside(ended.returncode)


def _ended_from_outside(code: int) -> bool:
    return code < 0 and _signal_name(-code) in _FROM_OUTSIDE


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:  # one of those for real time
        return f"signal {number}"


def _last_words(ended: subprocess.CompletedProcess[str]) -> str:
    """How a process ended: its signal or exit code, and the last line of what it said."""
    how = _signal_name(-ended.returncode) if ended.returncode < 0 else f"exit code {ended.returncode}"
    lines = [line for line in ended.stderr.splitlines() if line.strip()]
    return f"{how}: {in_one_line(lines[-1])}" if lines else how


# ---- in the process that compares ---------------------------------------------------------------------------------


def main(device: str) -> int:
    """Compare, and print the verdict; returns the exit code."""
    reason, lasting = compared(torch.device(device))
    print(json.dumps({"passed": not reason, "reason": reason, "lasting": lasting}), flush=True)
    return 1 if reason else 0


def compared(device: torch.device) -> tuple[str, bool]:
    """Why the kernels fail on a GPU, "" if they do not, and whether that will be so the next time, too."""
    problem = gpu_problem(device)  # as where another process holds the GPU
    if problem:
        return problem, False
    try:
        compare(nvrtc.runtime_for(device))
    except DifferenceError as difference:
        return f"its self-test failed: {difference}", True
    except torch.OutOfMemoryError:
        return "its self-test found too little free memory on the GPU", False
    except UserError as error:
        return str(error).removesuffix("."), True
    except Exception as error:  # whatever torch, the driver or the loader says of kernels that do wrong
        return f"its self-test failed: {in_one_line(error)}", True
    return "", True


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
