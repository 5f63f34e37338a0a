"""The pages of the project: their links, paths, names, options and examples are those of the code."""

from __future__ import annotations

import contextlib
import io
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from unittest.mock import patch

import pytest

from nfc_gs.cli import main
from nfc_gs.data.readers import registry as readers
from nfc_gs.formats.registry import FORMATS
from nfc_gs.model.correction_kinds import CORRECTIONS

ROOT = Path(__file__).resolve().parents[1]

FOLDERS = ("nfc_gs", "cuda", "tools", "tests")

PAGES = ["README.md", *sorted(p.relative_to(ROOT).as_posix() for f in FOLDERS for p in (ROOT / f).rglob("README.md"))]

HOW_TO = [
    "nfc_gs/data/readers/README.md",
    "nfc_gs/formats/README.md",
    "nfc_gs/model/heads/README.md",
    "nfc_gs/objective/README.md",
    "nfc_gs/training/README.md",
]
"""Pages whose Python blocks, run one after the other, are an example that works as it is."""

EXAMPLES = {
    "nfc_gs/data/readers/csv_cameras.py",
    "nfc_gs/formats/gauss.py",
    "nfc_gs/model/exposure.py",
    "nfc_gs/model/heads/flat.py",
    "nfc_gs/training/exposure.py",
}
"""Files that a reader of these pages writes."""

pytestmark = pytest.mark.skipif(not (ROOT / "README.md").is_file(), reason="the pages are not beside the tests")


def text_of(page: str) -> str:
    return (ROOT / page).read_text("utf-8")


def code_of(page: str) -> list[str]:
    return re.findall(r"^```python\n(.*?)^```", text_of(page), re.MULTILINE | re.DOTALL)


def saved_by(page: str) -> dict[str, str]:
    """The modules that a page says to save, by their file names."""
    blocks = re.findall(r"Save this as\s`([\w./]+)`:\n\n```python\n(.*?)^```", text_of(page), re.MULTILINE | re.DOTALL)
    return {Path(path).name: code for path, code in blocks}


def prose_of(page: str) -> str:
    """A page without its fenced blocks."""
    return re.sub(r"^```.*?^```", "", text_of(page), flags=re.MULTILINE | re.DOTALL)


@pytest.fixture(scope="module")
def words() -> set[str]:
    """Every word of the code."""
    suffixes = {".py", ".h", ".cpp", ".cu", ".inl", ".txt"}
    files = [path for folder in FOLDERS for path in (ROOT / folder).rglob("*") if path.suffix in suffixes]
    return {word for path in files for word in re.findall(r"\w+", path.read_text("utf-8"))}


def test_every_page_is_found() -> None:
    assert {"README.md", "nfc_gs/README.md", "cuda/README.md", "tools/bench/README.md", *HOW_TO} <= set(PAGES)


def test_the_readme_is_short() -> None:
    assert len(text_of("README.md").splitlines()) <= 200


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_to_files(page: str) -> None:
    targets = re.findall(r"\]\(([^)#\s]+)[^)]*\)", prose_of(page))
    local = [target for target in targets if not re.match(r"[a-z]+:", target)]
    missing = [target for target in local if not ((ROOT / page).parent / target).exists()]
    assert not missing


@pytest.mark.parametrize("page", PAGES)
def test_paths_in_backticks_exist(page: str) -> None:
    named = set(re.findall(r"`((?:nfc_gs|cuda|tools|tests)/[\w./-]+)`", prose_of(page)))
    missing = {path for path in named if not (ROOT / path).exists()}
    assert missing <= (EXAMPLES if page in HOW_TO else set())


@pytest.mark.parametrize("page", PAGES)
def test_tests_in_backticks_exist(page: str) -> None:
    defined = set()
    for path in (ROOT / "tests").glob("test_*.py"):
        defined |= set(re.findall(r"^def (test_\w+)", path.read_text("utf-8"), re.MULTILINE))
    assert set(re.findall(r"`(test_\w+)`", prose_of(page))) <= defined


@pytest.mark.parametrize("page", [page for page in PAGES if page.startswith(("nfc_gs", "cuda"))])
def test_names_in_backticks_occur_in_the_code(page: str, words: set[str]) -> None:
    named = set(re.findall(r"`([A-Za-z_]\w*(?:\.\w+)*)(?:\([^`]*\))?`", prose_of(page)))
    assert {name for name in named if not words.issuperset(name.split("."))} == set()


def test_options_in_the_readme_exist() -> None:
    """Those in its prose and tables, whatever command they are of; `test_packaging.py` looks at whole commands."""
    shown = io.StringIO()
    with contextlib.redirect_stdout(shown):
        main(["--help"])
        for command in ("demo", "train", "view", "eval", "render", "export", "info"):
            main([command, "--help-all"])
    known = set(re.findall(r"--[a-z][\w.-]*", shown.getvalue()))
    named = set(re.findall(r"(?<![\w-])--[a-z][\w.-]*[\w]", prose_of("README.md")))
    assert "--max-gaussians" in named
    assert named <= known


@pytest.mark.parametrize("page", HOW_TO)
def test_lines_that_a_page_changes_are_those_of_the_code(page: str) -> None:
    code = "\n".join(path.read_text("utf-8") for path in (ROOT / "nfc_gs").rglob("*.py"))
    blocks = re.findall(r"^```diff\n(.*?)^```", text_of(page), re.MULTILINE | re.DOTALL)
    lines = [line for block in blocks for line in block.splitlines() if re.match(r"[ -](?! ?#)", line)]
    old = [line[1:] if line[0] == " " else line[1:].split(" = ")[0] for line in lines]  # values may have grown
    assert old and not [line for line in old if line not in code]


@pytest.mark.parametrize("page", PAGES)
def test_python_blocks_compile(page: str) -> None:
    for number, block in enumerate(code_of(page), start=1):
        compile(block, f"{page}, block {number}", "exec")


@pytest.fixture
def tables_as_before(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Undoes what an example adds to a table."""
    monkeypatch.setattr(readers, "READERS", readers.READERS)
    with patch.dict(FORMATS), patch.dict(CORRECTIONS):
        yield


@pytest.mark.usefixtures("tables_as_before")
@pytest.mark.parametrize("page", HOW_TO)
def test_the_example_of_a_page_runs(page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    for name, code in saved_by(page).items():
        (tmp_path / name).write_text(code, "utf-8")
        monkeypatch.delitem(sys.modules, Path(name).stem, raising=False)  # of another page
    names: dict[str, object] = {"__name__": "example"}
    for number, block in enumerate(code_of(page), start=1):
        exec(compile(block, f"{page}, block {number}", "exec"), names)
