"""Writing files so that a reader never sees half of one."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

from nfc_gs.core.errors import UserError

_CAUSES = {
    errno.ENOSPC: "the disk is full; free some space or choose another place",
    errno.EDQUOT: "the disk quota is used up; free some space or choose another place",
    errno.EFBIG: "the file would pass the size limit; raise the limit or choose another place",
    errno.EACCES: "permission is denied; choose a folder that you can write to",
    errno.EPERM: "permission is denied; choose a folder that you can write to",
    errno.EROFS: "the file system is read-only; choose a folder that you can write to",
    errno.ENOTDIR: "a part of the path is a file, not a folder; choose another place",
    errno.EISDIR: "a folder of that name is there; choose another name",
}


_being_written: set[Path] = set()
"""Temporary files of this process."""

_PARTIAL = re.compile(r"\.(?:(\d+)-[0-9a-f]+\.)?partial(?:\.|$)")
"""In the name of a temporary file, with the id of its process."""

LONGEST_WRITE = 3600.0
"""Seconds; an older temporary file is left over, even if there is a process with the id in its name."""


def write_error(path: Path | str, error: OSError) -> UserError:
    """The sentence for an `OSError` met while writing `path`."""
    cause = _CAUSES.get(error.errno or 0, f"{error.strerror or error}; choose another place")
    return UserError(f"Cannot write {path}: {cause}.")


def check_path(path: Path | str) -> None:
    """Check that a path is one that the system takes, whether or not there is something.

    Raises:
        UserError: it holds a zero byte, is too long, or links lead around in a circle.
    """
    try:
        Path(path).stat()
    except ValueError:
        raise UserError(f"{str(path)[:60]!r} is no path, since it holds a zero byte; give another.") from None
    except OSError as error:
        if error.errno in (errno.ENAMETOOLONG, errno.ELOOP):
            name = str(path) if len(str(path)) <= 60 else f"{str(path)[:57]}..."
            raise UserError(f"The system does not take the path {name}: {error.strerror}; give another.") from None


def make_folder(path: Path | str) -> Path:
    """Create a folder and its parents (no error if it is there) and return it.

    Raises:
        UserError: the folder cannot be made.
    """
    folder = Path(path)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except FileExistsError:
        raise UserError(f"Cannot write {folder}: a file of that name is there; choose another name.") from None
    except OSError as error:
        raise write_error(folder, error) from None
    return folder


@contextlib.contextmanager
def atomic_write(path: Path | str) -> Iterator[Path]:
    """Yield a temporary path beside `path`; on success it is flushed to disk and renamed to `path`.

    The temporary name keeps the suffix, so that libraries which choose a format by suffix work. If the
    body raises, the temporary file is removed and an earlier file at `path` is untouched.

    Raises:
        UserError: the disk is full, the folder is not writable, and the like.
    """
    target = Path(path)
    temporary = target.with_name(f".{target.stem}.{os.getpid()}-{uuid.uuid4().hex[:8]}.partial{target.suffix}")
    _being_written.add(temporary)
    try:
        temporary.touch()
        mode = temporary.stat().st_mode
        yield temporary
        temporary.chmod(mode)  # some libraries make files that only their owner can read
        with open(temporary, "rb+") as handle:
            os.fsync(handle.fileno())
        os.replace(temporary, target)
        _sync_folder(target.parent)
    except BaseException as error:
        with contextlib.suppress(OSError):  # where it could not be made it cannot be removed either
            temporary.unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise write_error(target, error) from None
        raise
    finally:
        _being_written.discard(temporary)


def _sync_folder(folder: Path) -> None:
    """Flush the names in a folder to disk, where the system can."""
    if os.name != "posix":
        return
    with contextlib.suppress(OSError):  # some file systems cannot
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def remove_leftovers(folder: Path | str) -> None:
    """Remove the temporary files that a process left in `folder` when it was killed in the middle of a write.

    Those that are being written stay, and those that cannot be removed.
    """
    for path in Path(folder).glob(".*.partial*"):
        with contextlib.suppress(OSError):
            if path.is_file() and not path.is_symlink() and not _is_being_written(path):
                path.unlink(missing_ok=True)


def _is_being_written(path: Path) -> bool:
    """Whether a temporary file belongs to a process that may still write it."""
    found = _PARTIAL.search(path.name)
    if path in _being_written:
        return True
    if found is None or found[1] is None or int(found[1]) == os.getpid():
        return False
    return time.time() - path.stat().st_mtime < LONGEST_WRITE and _is_alive(int(found[1]))


def _is_alive(process: int) -> bool:
    """Whether there is a process of this id."""
    if os.name != "posix":
        return True
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except OSError:  # of another user
        return True
    return True


def write_text(path: Path | str, text: str) -> None:
    """Write UTF-8 text through `atomic_write`."""
    with atomic_write(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
