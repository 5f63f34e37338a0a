"""The program `nfc-gs` as a function, and options of a training that takes a moment."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

from nfc_gs import cli

HERE = Path(__file__).resolve().parent
"""Where child processes run: not in the sources, which would hide the installed package."""
SMALL = ("--max-gaussians", "60", "--backend", "cpu", "--device", "cpu", "--no-view")


def nfc(*words: object) -> int:
    return cli.main([str(word) for word in words])


def read_metrics(run: Path) -> dict:
    return json.loads((run / "metrics.json").read_text())


def contents(folder: Path) -> dict[str, str]:
    """A hash of every file below a folder."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


class Cli:
    """Runs command lines and checks the rules of errors: one sentence, exit code 2, and no file changed."""

    def __init__(self, capfd: pytest.CaptureFixture[str], tmp_path: Path) -> None:
        self.capfd = capfd
        self.folder = tmp_path

    def error(self, *words: object, naming: str | tuple[str, ...] = ()) -> str:
        """Run a command that must fail; returns its sentence."""
        before = contents(self.folder)
        code = nfc(*words)
        out, err = self.capfd.readouterr()
        assert code == 2, out + err
        sentence = only_sentence(out, err)
        for word in (naming,) if isinstance(naming, str) else naming:
            assert word in sentence
        assert contents(self.folder) == before, "a file was changed, lost or left behind"
        return sentence

    def warning(self, *words: object) -> str:
        """Run a command that must succeed; returns what it said on stderr."""
        code = nfc(*words)
        out, err = self.capfd.readouterr()
        assert code == 0, out + err
        assert "Traceback" not in out + err
        return err


def only_sentence(out: str, err: str) -> str:
    """The one error sentence on stderr."""
    assert "Traceback" not in out + err
    errors = [line for line in err.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1 and errors[0] == err.splitlines()[-1], err
    assert errors[0].endswith("."), errors[0]
    return errors[0]
