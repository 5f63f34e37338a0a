"""How much memory there is."""

from __future__ import annotations

import contextlib
import ctypes
import os
import sys
from collections.abc import Iterator
from pathlib import Path

_CGROUPS = Path("/sys/fs/cgroup")


def available_memory() -> int | None:
    """Bytes that this process can still use without others being swapped out; None where the system does not say.

    On Linux the limits of control groups count, as those of containers and batch systems, and so does a limit of the
    address space (`ulimit -v`). On macOS it is half of all memory.
    """
    if sys.platform == "win32":
        return _of_windows()
    if sys.platform == "darwin":
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2
    free = _field(Path("/proc/meminfo"), "MemAvailable:")
    return min([*([] if free is None else [1024 * free]), *_left_in_cgroups(), *_left_of_addresses()], default=None)


def _left_of_addresses() -> Iterator[int]:
    """What is left of the limit of this process's address space, if it has one."""
    import resource

    limit = resource.getrlimit(resource.RLIMIT_AS)[0]
    used = _field(Path("/proc/self/status"), "VmSize:")
    if limit != resource.RLIM_INFINITY and used is not None:
        yield max(0, limit - 1024 * used)


def _left_in_cgroups() -> Iterator[int]:
    """What is left of the limit of each control group that this process is in, where it has one.

    Files that the system keeps in memory count as used, but give way.
    """
    lines: list[str] = []
    with contextlib.suppress(OSError):
        lines = Path("/proc/self/cgroup").read_text().splitlines()
    for line in lines:
        _, controllers, inside = line.split(":", 2)
        if controllers == "":  # version 2
            top, names, total = _CGROUPS, ("memory.max", "memory.current"), ""
        elif "memory" in controllers.split(","):
            top, total = _CGROUPS / "memory", "total_"
            names = ("memory.limit_in_bytes", "memory.usage_in_bytes")
        else:
            continue
        group = top / inside.lstrip("/")
        for folder in (group, *group.parents):
            limit, used = (_number(folder / name) for name in names)
            if limit is not None and used is not None:
                files = [_field(folder / "memory.stat", f"{total}{kind}_file") or 0 for kind in ("active", "inactive")]
                yield max(0, limit - used + sum(files))
            if folder == top:
                break


def _number(file: Path) -> int | None:
    """The number in a file; None where there is none, as in "max"."""
    try:
        return int(file.read_text())
    except (OSError, ValueError):
        return None


def _field(file: Path, name: str) -> int | None:
    """The number after a name at the beginning of a line."""
    try:
        lines = [line.split() for line in file.read_text().splitlines()]
        return next((int(words[1]) for words in lines if len(words) > 1 and words[0] == name), None)
    except (OSError, ValueError):
        return None


def _of_windows() -> int | None:
    class Status(ctypes.Structure):  # MEMORYSTATUSEX
        _fields_ = (("length", ctypes.c_uint32), ("load", ctypes.c_uint32), ("sizes", ctypes.c_uint64 * 7))

    status = Status(length=ctypes.sizeof(Status))
    found = ctypes.windll.kernel32.GlobalMemoryStatusEx(ctypes.byref(status))  # type: ignore[attr-defined]
    return status.sizes[1] if found else None
