"""Writing files so that a reader never sees half of one."""

from __future__ import annotations

import contextlib
import errno
import os
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


def write_error(path: Path | str, error: OSError) -> UserError:
    """The sentence for an `OSError` met while writing `path`."""
    cause = _CAUSES.get(error.errno or 0, f"{error.strerror or error}; choose another place")
    return UserError(f"Cannot write {path}: {cause}.")


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
    temporary = target.with_name(f".{target.stem}.{uuid.uuid4().hex[:8]}.partial{target.suffix}")
    try:
        temporary.touch()
        mode = temporary.stat().st_mode
        yield temporary
        temporary.chmod(mode)  # some libraries make files that only their owner can read
        with open(temporary, "rb+") as handle:
            os.fsync(handle.fileno())
        os.replace(temporary, target)
    except BaseException as error:
        with contextlib.suppress(OSError):  # where it could not be made it cannot be removed either
            temporary.unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise write_error(target, error) from None
        raise


def remove_leftovers(folder: Path | str) -> None:
    """Remove the temporary files that a process left in `folder` when it was killed in the middle of a write."""
    for path in Path(folder).glob(".*.partial*"):
        path.unlink(missing_ok=True)


def write_text(path: Path | str, text: str) -> None:
    """Write UTF-8 text through `atomic_write`."""
    with atomic_write(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
