"""A tiny run that is killed at a write and gone on with, again and again: a program of its own, since it forks.

    python killed_runs.py FOLDER FIRST STEP

kills it at each write, from the FIRST on each STEP-th, once just before and once just after, and prints what of a run
folder differs from that of the unbroken run. It ends with the number of kills.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from tiny_scenes import tiny_config, tiny_scene

from nfc_gs.results import finish
from nfc_gs.runs import history
from nfc_gs.training import run as run_module
from nfc_gs.training.trainer import Trainer

KILLED = 9
SCENE = tiny_scene()


def train(run: Path) -> None:
    """Begin the run or go on with it, saving after each step."""
    if (run / "checkpoint.safetensors").exists():
        trainer = Trainer.resume(run, scene=SCENE)
    else:
        config = tiny_config(steps=5, eval_every=0.4, checkpoint_every=0.0)
        trainer = Trainer(SCENE, config, run, capture="tiny")
    trainer.train()
    finish(trainer)


def call_at_writes(at: Callable[[], None]) -> None:
    """Call `at` before and after each file is put in its place, and each line of the history is written."""
    replace, opened = os.replace, open

    def replaced(source: Any, target: Any) -> None:
        at()
        replace(source, target)
        at()

    def opened_for_a_line(path: Any, *args: Any, **options: Any) -> Any:
        at()
        return opened(path, *args, **options)

    os.replace = replaced
    history.open = opened_for_a_line  # type: ignore[attr-defined]


def in_fork(work: Callable[[], None]) -> int:
    """Do the work in a fork of this process; returns its exit code."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            work()
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def killed_at(number: int, run: Path) -> int:
    """Train, and end without a trace at write `number`."""
    left = [number]

    def at() -> None:
        left[0] -= 1
        if left[0] < 0:
            os._exit(KILLED)

    def work() -> None:
        call_at_writes(at)
        train(run)

    return in_fork(work)


def without(value: Any, *names: str) -> Any:
    """A JSON value without the fields of these names."""
    if isinstance(value, dict):
        return {key: without(part, *names) for key, part in value.items() if key not in names}
    return value


def contents(run: Path) -> dict[str, Any]:
    """What must be equal in two run folders: the names of the files, and what they hold but for times."""
    found: dict[str, Any] = {}
    for path in sorted(run.rglob("*")):
        name = str(path.relative_to(run))
        if path.is_dir() or path.name == "report.html":
            found[name] = ""
        elif path.suffix == ".safetensors":
            with safe_open(str(path), "pt") as file:
                found |= {f"{name}/{key}": file.get_tensor(key).numpy().tobytes() for key in file.keys()}  # noqa: SIM118
                found[name] = without(json.loads(file.metadata()["nfc_gs"]), "seconds", "timings")
        elif path.suffix == ".jsonl":
            found[name] = [without(json.loads(line), "seconds") for line in path.read_text().splitlines()]
        elif path.name == "metrics.json":
            found[name] = without(json.loads(path.read_text()), "train_seconds", "timings", "peak_memory_mb")
        else:
            found[name] = hashlib.sha256(path.read_bytes()).hexdigest()
    return found


def main(folder: Path, first: int, step: int) -> None:
    """Kill and go on; prints what differs, and how many kills there were."""
    torch.set_num_threads(1)
    run_module.SAVE_SHARE = 0
    assert in_fork(lambda: train(folder / "whole")) == 0
    whole = contents(folder / "whole")
    kills = 0
    for number in range(first, 1000, step):
        run = folder / f"killed-{number}"
        code = killed_at(number, run)
        if code == 0:
            break
        assert code == KILLED and in_fork(lambda run=run: train(run)) == 0, f"after write {number}"
        kills += 1
        again = contents(run)
        for name in sorted(whole.keys() | again.keys()):
            if whole.get(name) != again.get(name):
                print(f"write {number}: {name}: {whole.get(name)!s:.300} != {again.get(name)!s:.300}")
    print(f"{kills} kills")


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
