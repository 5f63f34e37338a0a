"""All checks of the project in one command, for people and for CI.

    python tools/check.py             lint, format, types, tests
    python tools/check.py --fix       repair first what ruff can repair
    python tools/check.py --fast      leave out the tests marked as slow, as plain pytest does
    python tools/check.py --no-tests  lint, format and types only

Needs `pip install ".[dev]"` in the environment of the Python that runs it. Every check runs, whatever the ones
before it found; the exit code is 0 if all passed and 1 otherwise.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import subprocess
import sys
import sysconfig
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]

MODULES = ("ruff", "pyright", "pytest", "nfc_gs")
"""What the checks need to find installed."""


def commands(arguments: argparse.Namespace) -> dict[str, list[str]]:
    """The checks by name, in order, each a command to run in the root of the project."""
    python = sys.executable
    checks = {}
    if arguments.fix:
        checks["repair"] = [python, "-m", "ruff", "check", "--fix", "--exit-zero", "--quiet", "."]
        checks["reformat"] = [python, "-m", "ruff", "format", "."]
    checks["lint"] = [python, "-m", "ruff", "check", "."]
    checks["format"] = [python, "-m", "ruff", "format", "--check", "."]
    checks["types"] = [python, "-m", "pyright", "--pythonpath", python]
    if not arguments.no_tests:
        # The script, unlike `python -m pytest`, leaves the root off the path: the installed package is tested.
        checks["tests"] = [str(Path(sysconfig.get_path("scripts")) / "pytest")]
        if not arguments.fast:
            checks["tests"] += ["-m", ""]  # in place of the "not slow" of pyproject.toml
    return checks


def main() -> int:
    parser = argparse.ArgumentParser(description="Lint, format, types and tests in one command.")
    parser.add_argument("--fix", action="store_true", help="repair first what ruff can repair, and reformat")
    parser.add_argument("--fast", action="store_true", help="leave out the tests marked as slow, as plain pytest does")
    parser.add_argument("--no-tests", action="store_true", help="lint, format and types only")
    arguments = parser.parse_args()

    missing = [name for name in MODULES if importlib.util.find_spec(name) is None]
    if missing:
        print(f'{sys.executable} has no {", ".join(missing)}; run: pip install ".[dev]"', file=sys.stderr)
        return 1

    environment = {**os.environ, "PYRIGHT_PYTHON_IGNORE_WARNINGS": "1"}
    results = {}
    for name, command in commands(arguments).items():
        print(f"== {name}", flush=True)
        start = time.perf_counter()
        passed = subprocess.run(command, cwd=ROOT, env=environment).returncode == 0
        results[name] = (passed, time.perf_counter() - start)

    print("== summary")
    for name, (passed, seconds) in results.items():
        print(f"{'passed' if passed else 'FAILED'}  {name:<9} {seconds:6.1f} s")
    return 0 if all(passed for passed, _ in results.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
