"""The folder of a run: it is made for one process alone, is never overwritten, and says what it is."""

from __future__ import annotations

import contextlib
import re
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import yaml

from nfc_gs.core.errors import UserError
from nfc_gs.core.files import check_path, make_folder, remove_leftovers, write_error, write_text
from nfc_gs.runs.checkpoint import checkpoint_path
from nfc_gs.runs.lock import RunLock
from nfc_gs.runs.names import (
    CHECKPOINT_NAME,
    CONFIG_NAME,
    FRAMES_NAME,
    HISTORY_NAME,
    IMAGE_CACHE,
    LOCK_NAME,
    RENDERS,
    TENSORBOARD,
    TIMELAPSE,
    VIEWER_NAME,
)

_OF_A_RUN = (CHECKPOINT_NAME, CONFIG_NAME, HISTORY_NAME)
"""A folder that holds one of them holds a run."""

_OF_SAFETENSORS = re.compile(r"\.tmp[0-9A-Za-z]{6}")
"""Temporary files that safetensors makes beside the file that it writes."""


class RunFolder:
    """A run folder that this object alone writes into, until it is released (`RunLock`).

    As a context it is released at the end. If an exception ends the context of a new run before its first step is
    done, what was made of the run is removed again.

    Attributes:
        path: of the folder.
        lock: which others cannot have meanwhile.
        is_worth_keeping: whether there is more to the run than its start.
    """

    def __init__(self, path: Path, lock: RunLock, made: Sequence[Path] = (), *, is_new: bool = False) -> None:
        """`made`: the folders that were made for it, the innermost first."""
        self.path, self.lock, self.is_worth_keeping = path, lock, not is_new
        self._made = tuple(made)

    def __enter__(self) -> RunFolder:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is not None and not self.is_worth_keeping:
            self.abandon()
        self.lock.release()

    def abandon(self) -> None:
        """Remove what was made of a run whose first step is not done, and release its folder.

        Folders stay in which there is something else.
        """
        if not self.lock.held:  # others may have made something of it
            return
        start = self.path / TIMELAPSE
        with contextlib.suppress(OSError):
            for file in (*(self.path / name for name in (*_OF_A_RUN, VIEWER_NAME)), start / f"{0:07d}.jpg"):
                file.unlink(missing_ok=True)
        if self._made:
            shutil.rmtree(self.path / TENSORBOARD, ignore_errors=True)
        remove_leftovers_of(self.path)
        for folder in (start, self.path / RENDERS):
            with contextlib.suppress(OSError):
                folder.rmdir()
        self.lock.release()
        for folder in self._made:
            with contextlib.suppress(OSError):
                folder.rmdir()
        self._made = ()


def claim_run_folder(run: Path | str) -> RunFolder:
    """Make and lock the folder of a new run, before work is done for it.

    Raises:
        UserError: it holds a run already, another process works in it, or it cannot be made.
    """
    check_path(run)
    path = Path(run)
    if not (path / LOCK_NAME).exists():
        _check_holds_no_run(path)  # without a trace
    missing = [folder for folder in (path, *path.parents) if not folder.exists()]
    make_folder(path)
    return _claimed(path, missing)


def claim_free_folder(run: Path) -> RunFolder:
    """Make and lock `run`, `run-2`, `run-3`, ...: the first that is not there yet.

    Raises:
        UserError: it cannot be made.
    """
    missing = [folder for folder in run.parents if not folder.exists()]
    make_folder(run.parent)
    path, number = run, 1
    while not _made_by_us(path):
        number += 1
        path = run.with_name(f"{run.name}-{number}")
    return _claimed(path, [path, *missing])


def lock_run_folder(run: Path | str) -> RunFolder:
    """Lock the folder of a run that is there, to go on with it; another object of this process gives way.

    Raises:
        UserError: there is no run, or another process works in it.
    """
    checkpoint = checkpoint_path(run)
    if checkpoint.name != CHECKPOINT_NAME:
        raise UserError(f"{run} is a compact file, which holds no training; give the folder of the run.")
    path = checkpoint.parent
    lock = RunLock(path)
    lock.acquire(take_over=True)
    return RunFolder(path, lock)


def _made_by_us(path: Path) -> bool:
    """Make a folder; whether it was not there yet, which of several processes one alone is told."""
    try:
        path.mkdir()
    except FileExistsError:
        return False
    except OSError as error:
        raise write_error(path, error) from None
    return True


def _claimed(path: Path, made: Sequence[Path]) -> RunFolder:
    folder, began_before = RunFolder(path, RunLock(path), made, is_new=True), (path / LOCK_NAME).exists()
    try:
        folder.lock.acquire(take_over=True)
        folder.lock.busy = True  # until there is a trainer, which others may take over
        _check_holds_no_run(path)
        if began_before:  # and was killed before its first checkpoint
            remove_leftovers_of(path)
    except BaseException:
        folder.lock.release()
        for each in made:
            with contextlib.suppress(OSError):
                each.rmdir()
        raise
    return folder


def _check_holds_no_run(run: Path) -> None:
    for name in _OF_A_RUN:
        if (run / name).exists():
            raise UserError(
                f"{run} holds a run already, and a run is never overwritten; choose another folder (--out, in Python "
                f"out), or go on with it: --resume {run}, in Python nfc_gs.Trainer.resume({str(run)!r})."
            )


def check_is_capture(path: Path | str) -> None:
    """Raise UserError for a run that is given in the place of a capture."""
    check_path(path)
    if (Path(path) / CHECKPOINT_NAME).is_file():
        raise UserError(
            f"{path} is a run, not a capture; give the folder of the photos, or go on with the run: --resume {path}, "
            f"in Python nfc_gs.Trainer.resume({str(path)!r})."
        )


def image_cache_of(run: Path) -> Path:
    """The folder for decoded copies of photos that a run shares with those beside it; it need not be there."""
    return (run if run.name not in ("", "..") else run.resolve()).parent / IMAGE_CACHE


def remove_leftovers_of(run: Path) -> None:
    """Remove the temporary files that a killed process left in a run folder, and in its folders of results."""
    results = [run / RENDERS, run / FRAMES_NAME]
    folders = [each for top in results if top.is_dir() for each in (top, *top.rglob("*")) if each.is_dir()]
    for folder in (run, *folders):
        remove_leftovers(folder)
    with contextlib.suppress(OSError):
        for file in run.glob(".tmp*"):
            if _OF_SAFETENSORS.fullmatch(file.name) and file.is_file():
                file.unlink(missing_ok=True)


def write_config(run: Path, config: Mapping[str, Any], capture: Path, data: Mapping[str, Any]) -> None:
    """Write `config.yaml`, for people to read; a run goes on from its checkpoint, which holds the same."""
    document = {"capture": str(capture), "data": dict(data), **config}
    write_text(run / CONFIG_NAME, yaml.safe_dump(document, sort_keys=False))
