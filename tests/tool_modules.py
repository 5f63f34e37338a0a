"""The scripts of `tools/` as modules, for tests of them."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from types import ModuleType

import pytest

TOOLS = Path(__file__).resolve().parents[1] / "tools"
if not TOOLS.is_dir():
    pytest.skip("the tools are not beside the tests", allow_module_level=True)


def load(name: str) -> ModuleType:
    """A tool as a module, by its path below `tools/`: `load("bench/gpu_scenes")`.

    Its folder stays on `sys.path`, as it is where the tool runs, and the module has its plain name.
    """
    path = TOOLS / f"{name}.py"
    if str(path.parent) not in sys.path:
        sys.path.insert(0, str(path.parent))
    module = importlib.import_module(path.stem)
    assert module.__file__ == str(path), f"{path.stem} is the name of another module, too"
    return module
