"""How much memory there is."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from command_line import HERE

from nfc_gs.core import memory

linux = pytest.mark.skipif(sys.platform != "linux", reason="control groups are Linux's")


def test_there_is_some_memory() -> None:
    found = memory.available_memory()
    assert found is None or 10**7 < found < 10**15


@linux
@pytest.mark.parametrize(
    ("limits", "left"),
    [
        ({"": ("max", "5")}, None),
        ({"": ("1000", "400")}, 700),
        ({"a/b": ("900", "850"), "a": ("700", "650")}, 150),
        ({"a/b": ("900", "1200")}, 0),
    ],
)
def test_the_limits_of_all_control_groups_around_the_process_count(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limits: dict[str, tuple[str, str]], left: int | None
) -> None:
    for name, (most, used) in limits.items():
        folder = tmp_path / name
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "memory.max").write_text(most + "\n")
        (folder / "memory.current").write_text(used + "\n")
        (folder / "memory.stat").write_text("anon 7\ninactive_file 60\nactive_file 40\n")
    inside = max(limits, key=len) or "gone"  # a container may not see the folder of its own group
    read_text = Path.read_text

    def fake(path: Path, *args, **kwargs) -> str:
        return f"0::/{inside}\n" if str(path) == "/proc/self/cgroup" else read_text(path, *args, **kwargs)

    monkeypatch.setattr(memory, "_CGROUPS", tmp_path)
    unlimited = memory.available_memory()
    monkeypatch.setattr(Path, "read_text", fake)
    found = memory.available_memory()
    assert unlimited is not None and found is not None
    assert found == left if left is not None else abs(found - unlimited) < unlimited / 2


@linux
def test_a_limit_of_the_address_space_counts() -> None:
    program = """
import resource
from nfc_gs.core.memory import available_memory
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + 50_000_000, resource.RLIM_INFINITY))
print(available_memory())
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=HERE)
    assert 40_000_000 < int(done.stdout) <= 50_000_000
