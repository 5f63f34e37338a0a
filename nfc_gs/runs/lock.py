"""The lock of a run folder: one process at a time writes into it."""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import threading
import weakref
from pathlib import Path

from filelock import FileLock, Timeout

from nfc_gs.core.errors import UserError
from nfc_gs.core.files import write_error
from nfc_gs.runs.names import LOCK_NAME

logger = logging.getLogger("nfc_gs")

PATIENCE = 0.1
"""Seconds to wait for a lock: who releases one removes its file first, and another may have opened that."""

NO_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP}
"""What file systems say that have no locks."""

_guard = threading.RLock()
_holders: dict[Path, weakref.ref[RunLock]] = {}
"""Who holds the lock of a folder, in this process."""


class FolderInUseError(UserError):
    """Another process, or another object of this one, works in a run folder."""


class RunLock:
    """The right to write into a run folder, which one object of one process has.

    It is a lock of the operating system, which ends with its process in any case, on the file `.lock` in the folder;
    that is removed when the lock is released, when this object is forgotten, and when the process ends. On a file
    system without locks a warning says so, once, and nothing is locked.

    Attributes:
        folder: that is locked, or will be.
        busy: whether the holder is at work, so that no other object of this process can take the lock over.
    """

    def __init__(self, folder: Path | str) -> None:
        self.folder, self.busy = Path(folder), False
        self._release: weakref.finalize | None = None
        self._has_file = False

    @property
    def held(self) -> bool:
        """Whether this object has the right to write."""
        return self._release is not None and self._release.alive

    def acquire(self, *, take_over: bool = False) -> None:
        """Take the lock of a folder that is there; nothing changes where this object holds it already.

        Args:
            take_over: also from another object of this process, unless that is busy.

        Raises:
            FolderInUseError: another process works in the folder, or another object of this process.
            UserError: nothing can be written there.
        """
        if self.held:
            return
        with _guard:
            place = self.folder.resolve()
            holder = _holders[place]() if place in _holders else None
            if holder is not None and holder.held:
                if holder.busy or not take_over:
                    raise FolderInUseError(
                        f"Another training of this process works in {self.folder}; go on with that one, or choose "
                        "another folder."
                    )
                holder.release()
            lock = self._lock_file(place / LOCK_NAME)
            self._has_file = lock is not None
            self._release = weakref.finalize(self, _let_go, lock, place, os.getpid())
            _holders[place] = weakref.ref(self)

    def is_lost(self) -> bool:
        """Whether the folder, or the file of the lock that is held, was removed, perhaps for a run of another process.

        That takes a look at the disk.
        """
        try:
            return self._has_file and _owner(self.folder / LOCK_NAME) not in (None, os.getpid())
        except FileNotFoundError:
            return True

    def release(self) -> None:
        """Let others write."""
        if self._release is not None:
            self._release()

    def _lock_file(self, file: Path) -> FileLock | None:
        """The lock of a file, held; None where the file system has none."""
        lock = FileLock(file, timeout=PATIENCE, thread_local=False, fallback_to_soft=False)
        try:
            lock.acquire()
            with contextlib.suppress(OSError):  # Windows lets nobody write what is locked
                file.write_text(f"{os.getpid()}\n")
        except Timeout:
            raise FolderInUseError(
                f"Another process{_process_in(file)} works in {self.folder}; wait until it has ended, or choose "
                "another folder."
            ) from None
        except (OSError, NotImplementedError) as error:
            if isinstance(error, OSError) and error.errno not in NO_LOCKS:
                raise write_error(file, error) from None
            logger.warning(
                "The file system of %s has no locks: take care that no other process works in this run.", self.folder
            )
            return None
        return lock


def _process_in(file: Path) -> str:
    """', pid 123,' where the file of a lock says which process holds it."""
    with contextlib.suppress(FileNotFoundError):
        owner = _owner(file)
        return "" if owner is None else f", pid {owner},"
    return ""


def _owner(file: Path) -> int | None:
    """The process that a lock's file names; None where it names none, or cannot be read. Raises FileNotFoundError."""
    try:
        return int(file.read_text())
    except FileNotFoundError:
        raise
    except (OSError, ValueError):
        return None


def _let_go(lock: FileLock | None, folder: Path, process: int) -> None:
    """Remove the file of a lock, while it is held where the system can, and release it."""
    if process != os.getpid():  # a fork of the process that holds it
        return
    file = folder / LOCK_NAME
    with contextlib.suppress(OSError):
        if _owner(file) in (None, process):  # else the folder was removed, and this is the file of another's
            file.unlink()
    if lock is not None:
        lock.release(force=True)
    if os.name != "posix":
        with contextlib.suppress(OSError):
            file.unlink(missing_ok=True)
