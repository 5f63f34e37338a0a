"""Imports: of the package down only, one file loads compiled code, nothing is unpickled; of tests no other test."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from importlib.util import resolve_name
from pathlib import Path

import pytest

import nfc_gs

PACKAGE = Path(nfc_gs.__file__).parent
TESTS = Path(__file__).parent

LAYERS = (
    {"core"},
    {"ops"},
    {"data"},
    {"model"},
    {"rendering", "fields"},
    {"objective"},
    {"formats"},
    {"runs"},
    {"training", "export"},
    {"viewer", "results"},
    {"api"},
    {"__init__"},
    {"commands"},
    {"cli"},
    {"__main__"},
)
"""From the bottom up. A part imports itself and what lies below; parts that share a layer never import each other."""

LEVEL = {part: level for level, parts in enumerate(LAYERS) for part in parts}

COMPILED_CODE = "nfc_gs._core"

UNPICKLERS = {"pickle", "cPickle", "_pickle", "cloudpickle", "dill", "joblib", "marshal", "shelve"}

HEAVY = {
    "gsplat",
    "imageio",
    "imageio_ffmpeg",
    "matplotlib",
    "numpy",
    "pycolmap",
    "rich",
    "scipy",
    "skimage",
    "torch",
    "viser",
}
"""What `import nfc_gs` leaves for later."""

SOURCES = {path.relative_to(PACKAGE).as_posix(): path.read_text("utf-8") for path in sorted(PACKAGE.rglob("*.py"))}


@cache
def syntax(source: str) -> tuple[ast.AST, ...]:
    """All nodes of a file."""
    return tuple(ast.walk(ast.parse(source)))


def imported(source: str, file: str) -> Iterator[tuple[int, str]]:
    """Line and full name of everything that a file imports, wherever it stands and under whatever condition.

    A string that names a module of the package (for `import_module`) counts as an import of it.
    """
    package = ".".join(["nfc_gs", *Path(file).parts[:-1]])
    for node in syntax(source):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            module = resolve_name("." * node.level + (node.module or ""), package)
            yield from ((node.lineno, f"{module}.{alias.name}") for alias in node.names)
        elif isinstance(node, ast.Constant) and re.fullmatch(r"nfc_gs(\.\w+)+", str(node.value)):
            yield node.lineno, node.value


def part_of(file: str) -> str:
    """The part of the package that a file belongs to: its folder, or its own name at the top."""
    return Path(file).parts[0].removesuffix(".py")


def imports_that_go_up(source: str, file: str) -> list[str]:
    """One line for each import of `file` that its layer does not allow."""
    part, wrong = part_of(file), []
    for line, name in imported(source, file):
        words = name.split(".")
        if words[0] != "nfc_gs" or name in (COMPILED_CODE, "nfc_gs.__version__"):
            continue
        target = words[1] if len(words) > 1 and words[1] in LEVEL else "__init__"
        if target != part and LEVEL[target] >= LEVEL[part]:
            wrong.append(f"nfc_gs/{file}:{line} imports {name}: {part} stands below or beside {target}")
    return wrong


def modules_imported(source: str, file: str) -> set[str]:
    """The other files of the package that a file imports, under whatever condition and however late."""
    found = set()
    for _, name in imported(source, file):
        words = name.split(".")
        if words[0] != "nfc_gs" or name in (COMPILED_CODE, "nfc_gs.__version__"):
            continue
        for length in (len(words), len(words) - 1):  # a module, or a name in one
            base = "/".join(words[1:length])
            files = [path for path in (f"{base}.py", f"{base}/__init__.py".lstrip("/")) if path in SOURCES]
            if files:
                found.add(files[0])
                break
    return found - {file}


def circles(imports: dict[str, set[str]]) -> list[list[str]]:
    """Groups of files each of which leads to every other one of its group by imports (Tarjan 1972)."""
    number: dict[str, int] = {}
    lowest: dict[str, int] = {}
    stack: list[str] = []
    found: list[list[str]] = []

    def visit(file: str) -> None:
        number[file] = lowest[file] = len(number)
        stack.append(file)
        for other in sorted(imports.get(file, ())):
            if other not in number:
                visit(other)
                lowest[file] = min(lowest[file], lowest[other])
            elif other in stack:
                lowest[file] = min(lowest[file], number[other])
        if lowest[file] == number[file]:
            group = stack[stack.index(file) :]
            del stack[stack.index(file) :]
            if len(group) > 1:
                found.append(sorted(group))

    for file in imports:
        if file not in number:
            visit(file)
    return found


def loads_compiled_code(source: str, file: str) -> bool:
    return any(f"{name}.".startswith(f"{COMPILED_CODE}.") for _, name in imported(source, file))


def unpickling(source: str, file: str) -> list[str]:
    """One line for each place of `file` that could unpickle something: pickles run code of whoever wrote them."""
    found = [
        f"nfc_gs/{file}:{line} imports {name}"
        for line, name in imported(source, file)
        if name.split(".")[0] in UNPICKLERS or name == "torch.load"
    ]
    for node in syntax(source):
        if isinstance(node, ast.Attribute) and ast.unparse(node) == "torch.load":
            found.append(f"nfc_gs/{file}:{node.lineno} uses torch.load")
        elif isinstance(node, ast.keyword) and node.arg == "allow_pickle" and ast.unparse(node.value) != "False":
            found.append(f"nfc_gs/{file}:{node.value.lineno} allows pickles")
    return found


def imported_test_files(source: str) -> list[str]:
    """Which test files a file of tests imports, or names in code that it runs elsewhere."""
    words = re.findall(r"(?m)^\s*(?:from|import)\s+(test_\w+)", source)
    return sorted(word for word in set(words) if (TESTS / f"{word}.py").is_file())


def test_every_file_belongs_to_a_layer() -> None:
    assert {part_of(file) for file in SOURCES} - set(LEVEL) == set()


def test_imports_go_down_only() -> None:
    assert [line for file, source in SOURCES.items() for line in imports_that_go_up(source, file)] == []


def test_the_viewer_knows_no_trainer() -> None:
    viewer = [name for f, source in SOURCES.items() if part_of(f) == "viewer" for _, name in imported(source, f)]
    assert [name for name in viewer if name.startswith("nfc_gs.training")] == []


def test_no_modules_import_each_other_in_a_circle() -> None:
    assert circles({file: modules_imported(source, file) for file, source in SOURCES.items()}) == []


def test_only_one_module_loads_compiled_code() -> None:
    files = [file for file, source in SOURCES.items() if loads_compiled_code(source, file)]
    assert files == ["ops/native.py"]


def test_nothing_is_unpickled() -> None:
    assert [line for file, source in SOURCES.items() for line in unpickling(source, file)] == []


@pytest.mark.parametrize(
    ("file", "source"),
    [
        ("model/a.py", "from nfc_gs.rendering import backend"),
        ("model/a.py", "def f():\n    import nfc_gs.rendering.backend"),
        ("core/a.py", "if TYPE_CHECKING:\n    from nfc_gs.data.scene import SceneData"),
        ("training/a.py", "from nfc_gs.export.video import write_png"),
        ("export/a.py", "from ..training import trainer"),
        ("rendering/a.py", "from nfc_gs import runs"),
        ("data/a.py", "import nfc_gs"),
        ("data/a.py", "from nfc_gs import render"),
        ("ops/a.py", "from nfc_gs.data.scene import SceneData"),
        ("runs/a.py", "from nfc_gs.training.config import TrainConfig"),
        ("__init__.py", "from nfc_gs.cli import main"),
        ("__init__.py", "import_module('nfc_gs.commands.train')"),
        ("commands/a.py", "from nfc_gs.cli import main"),
    ],
)
def test_an_import_that_goes_up_is_seen(file: str, source: str) -> None:
    assert len(imports_that_go_up(source, file)) == 1


@pytest.mark.parametrize(
    ("file", "source"),
    [
        ("training/a.py", "from nfc_gs.training.config import TrainConfig"),
        ("training/a.py", "from . import config"),
        ("runs/checkpoint.py", "from nfc_gs import __version__"),
        ("commands/a.py", "import nfc_gs"),
        ("core/a.py", "import logging\nlogging.getLogger('nfc_gs')"),
    ],
)
def test_an_import_that_goes_down_or_stays_is_allowed(file: str, source: str) -> None:
    assert imports_that_go_up(source, file) == []


def test_a_circle_is_seen_however_long() -> None:
    straight = {"a.py": {"b.py", "c.py"}, "b.py": {"c.py"}, "c.py": set()}
    assert circles(straight) == []
    assert circles({**straight, "c.py": {"a.py"}, "d.py": {"a.py"}}) == [["a.py", "b.py", "c.py"]]


@pytest.mark.parametrize(
    "source",
    [
        "from nfc_gs.runs import names",
        "from nfc_gs.runs.names import CHECKPOINT_NAME",
        "def f():\n    import nfc_gs.runs.names",
        "if TYPE_CHECKING:\n    from ..runs import names",
    ],
)
def test_every_way_to_import_a_module_counts(source: str) -> None:
    assert modules_imported(source, "training/a.py") == {"runs/names.py"}


@pytest.mark.parametrize(
    "source", ["import pickle", "from torch import load", "torch.load(path)", "np.load(path, allow_pickle=True)"]
)
def test_unpickling_is_seen(source: str) -> None:
    assert len(unpickling(source, "data/a.py")) == 1


def test_no_test_file_imports_another() -> None:
    """What several need stands in a module beside them."""
    found = {path.name: imported_test_files(path.read_text("utf-8")) for path in sorted(TESTS.glob("*.py"))}
    assert {name: files for name, files in found.items() if files} == {}


@pytest.mark.parametrize("source", ["from test_imports import circles", "def f():\n    import test_imports as other"])
def test_an_import_of_a_test_file_is_seen(source: str) -> None:
    assert imported_test_files(source) == ["test_imports"]


def test_import_nfc_gs_is_light_and_silent(tmp_path: Path) -> None:
    code = (
        "import sys\n"
        "before = set(sys.modules)\n"
        "import nfc_gs\n"
        "with open('modules.txt', 'w') as file:\n"
        "    file.write('\\n'.join(set(sys.modules) - before))\n"
    )
    paths = [str(PACKAGE.parent), os.environ.get("PYTHONPATH", "")]
    run = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))},
        capture_output=True,
        text=True,
    )
    modules = (tmp_path / "modules.txt").read_text().split()
    assert (run.returncode, run.stdout, run.stderr) == (0, "", "")
    assert "nfc_gs" in modules
    assert {name.split(".")[0] for name in modules} & HEAVY == set()
    assert COMPILED_CODE not in modules
