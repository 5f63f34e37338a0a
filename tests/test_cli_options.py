"""Words, options and help of the command line; nothing is trained here."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

import pytest

import nfc_gs
from nfc_gs import cli
from nfc_gs.cli import COMMANDS
from nfc_gs.commands.info import Info
from nfc_gs.commands.options import Command
from nfc_gs.commands.parsing import flags_of
from nfc_gs.commands.render import Render
from nfc_gs.commands.train import Train
from nfc_gs.commands.view import View

HERE = Path(__file__).resolve().parent
"""Where child processes run: not in the sources, which would hide the installed package."""

NEEDED = {"view": ["x"], "eval": ["x"], "render": ["x"], "export": ["x"]}
"""The words without which a command is refused."""

PAGES = [(), *((name,) for name in COMMANDS)]
"""The words before --help of every help there is."""


def train(*words: object) -> Train:
    """The command `nfc-gs train WORDS`."""
    command = cli.parse(["train", *map(str, words)])
    assert isinstance(command, Train)
    return command


def options_in(value: object, prefix: str = "--") -> Iterator[tuple[str, Any]]:
    """The options of a command and of all dataclasses in it, and their values."""
    for each in fields(value):  # type: ignore[arg-type]
        inner, name = getattr(value, each.name), each.name.replace("_", "-")
        if is_dataclass(inner):
            yield from options_in(inner, prefix if isinstance(value, Command) else f"{prefix}{name}.")
        elif isinstance(value, nfc_gs.DataConfig) and name == "background":
            yield "--image-background", inner
        else:
            yield prefix + name, inner


def inverse(flag: str) -> str:
    """The option that turns a switch off."""
    *section, name = flag.removeprefix("--").split(".")
    return "--" + ".".join([*section, f"no-{name}"])


def error_of(capsys: pytest.CaptureFixture[str], line: str) -> str:
    """The one sentence with which a command line is refused."""
    assert cli.main(line.split()) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.startswith("error: ") and err.count("\n") == 1, "one line on stderr"
    return err.removeprefix("error: ").rstrip("\n")


def help_of(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    """What is printed, without the spaces that fill the lines."""
    assert cli.main([*words]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    return re.sub(" +$", "", out, flags=re.MULTILINE)


def explained(text: str) -> list[tuple[str, str]]:
    """The options in a help text, in its order, and what it says of each."""
    found: list[tuple[str, str]] = []
    for line in text.splitlines():
        if line.startswith("  --") and not line.startswith("  ---"):
            name, _, words = line.strip().partition("  ")
            found.append((re.split("[ ,]", name)[0], words.strip()))
        elif line.startswith(" " * 6) and found:
            found[-1] = (found[-1][0], f"{found[-1][1]} {line.strip()}".strip())
    return found


# ---- reading words ----


def test_words_become_the_values_of_nested_dataclasses() -> None:
    command = train("x", "--steps=30", "--rates.means", "0.5", "--adc.stop", 0.25, "--no-masks", "--view", "--out", "y")
    assert command.capture == Path("x") and command.out == Path("y") and command.view
    assert command.training.steps == 30
    assert command.training.rates == nfc_gs.TrainConfig().rates.__class__(means=0.5)
    assert command.training.adc.stop == 0.25
    assert command.data == nfc_gs.DataConfig(masks=False)


def test_what_is_left_out_has_its_default() -> None:
    assert train("x") == Train(capture=Path("x"))
    assert cli.parse(["info"]) == Info()


def test_auto_stands_for_none() -> None:
    command = train("x", "--steps", "auto", "--test-every", "auto", "--head", "auto")
    assert (command.training.steps, command.data.test_every, command.training.head) == (None, None, None)


def test_options_take_several_words() -> None:
    command = train("x", "--image-background", 0, 0.5, 1, "--hexplane.levels", 1, 2, 4, "--objective.extra", "a", 0.5)
    assert command.data.background == (0.0, 0.5, 1.0)
    assert command.training.hexplane.levels == (1, 2, 4)
    assert command.training.objective.extra == {"a": 0.5}


def test_switches_are_turned_off_by_no_before_their_own_name() -> None:
    command = train("x", "--no-masks", "--deformation.no-color", "--deformation.scales", "--no-view")
    deformation = command.training.deformation
    assert (command.data.masks, deformation.color, deformation.scales, command.view) == (False, False, True, False)


def test_a_negative_number_is_a_value_and_the_last_of_two_values_counts() -> None:
    assert train("x", "--seed", -3).training.seed == -3
    assert train("x", "--seed", 3, "--seed", 4).training.seed == 4


def test_an_option_that_may_be_given_several_times_takes_one_value_each_time() -> None:
    command = cli.parse(["view", "--trusted-origin", "https://a.org", "x", "y", "--trusted-origin", "https://b.org"])
    assert isinstance(command, View) and command.paths == (Path("x"), Path("y"))
    assert command.page.trusted_origin == ("https://a.org", "https://b.org")


def test_options_may_stand_before_and_after_the_words_without_a_name() -> None:
    assert cli.parse(["view", "a", "b", "--port", "9000"]) == cli.parse(["view", "--port", "9000", "a", "b"])
    render = cli.parse(["render", "--outputs", "rgb", "depth", "run"])
    assert isinstance(render, Render) and render.path == Path("run") and render.outputs == ("rgb", "depth")


def test_after_two_dashes_nothing_is_an_option() -> None:
    command = cli.parse(["view", "--open", "--", "--odd name", "b"])
    assert isinstance(command, View) and command.paths == (Path("--odd name"), Path("b")) and command.page.open


@pytest.mark.parametrize("name", COMMANDS)
def test_every_option_reads_its_default_back(name: str) -> None:
    words = [name, *NEEDED.get(name, [])]
    command, flags = cli.parse(words), flags_of(COMMANDS[name].load())
    values = {flag: value for flag, value in options_in(command) if flag in flags}
    assert len(flags) == len(values) + sum(isinstance(value, bool) for value in values.values())
    for flag, value in values.items():
        if isinstance(value, bool):
            given = [flag if value else inverse(flag)]
        elif value is None:
            given = [flag, *["auto"] * (3 if flag == "--image-background" else 1)]
        elif value == ():
            given = []  # an option for each value
        else:
            given = [flag, *map(str, value if isinstance(value, (tuple, dict)) else [value])]
        assert cli.parse([*words, *given]) == command, given


# ---- mistakes ----


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ("trian", "nfc-gs has no command trian; did you mean train?"),
        ("xyz", f"nfc-gs has no command xyz; the commands are {', '.join(COMMANDS)}."),
        ("trian --help", "nfc-gs has no command trian; did you mean train?"),
        ("--steps 3", "nfc-gs has no option --steps; begin with a command, as in nfc-gs train CAPTURE."),
        ("train x --stps 3", "nfc-gs train has no option --stps; did you mean --steps?"),
        ("train x --time_budget 3m", "nfc-gs train has no option --time_budget; did you mean --time-budget?"),
        ("train x --no-mask", "nfc-gs train has no option --no-mask; did you mean --no-masks?"),
        ("train x --objective.l=1", "nfc-gs train has no option --objective.l; did you mean --objective.l1?"),
        ("train x -q", "nfc-gs train has no option -q; see nfc-gs train --help."),
        (
            "view x --steps 10",
            "nfc-gs view has no option --steps, which belongs to demo and train; see nfc-gs view --help.",
        ),
        (
            "eval x --out y",
            "nfc-gs eval has no option --out, which belongs to demo, train, render and export; see nfc-gs eval --help.",
        ),
        ("eval", "nfc-gs eval needs a RUN; see nfc-gs eval --help."),
        ("eval --lpip run", "nfc-gs eval has no option --lpip; did you mean --lpips?"),
        (
            "view --port 80",
            "There is nothing to look at; give a run folder, a checkpoint or compact file (.safetensors), or a splat "
            "file (.ply or .splat).",
        ),
        ("render --outputs", "nfc-gs render needs a RUN; see nfc-gs render --help."),
        ("eval x y", "'y' is one word too many here; see nfc-gs eval --help."),
        ("view a --port 9000 b", "'b' is one word too many here; see nfc-gs view --help."),
        ("demo x", "'x' is one word too many here; see nfc-gs demo --help."),
        ("train x --steps", "--steps needs a value; see nfc-gs train --help."),
        ("train x --out --steps 3", "--out needs a value; see nfc-gs train --help."),
        ("train x --image-background 0 1", "--image-background needs 3 values; see nfc-gs train --help."),
        ("train x --view=yes", "--view takes no value; leave it out."),
        ("train x --steps many", "--steps: 'many' is not a whole number; see nfc-gs train --help."),
        ("train x --rates.means 1,5", "--rates.means: '1,5' is not a number; see nfc-gs train --help."),
        (
            "train x --preset fst",
            "--preset: 'fst' is none of auto, fast, quality, paper; see nfc-gs train --help.",
        ),
        (
            "train x --device gpu",
            "There is no device 'gpu'; choose auto, cpu, cuda or cuda:N with the number of a GPU.",
        ),
        (
            "render x --outputs rgb alpha",
            "--outputs: 'alpha' is none of rgb, depth, normals, bits, bit_entropy; see nfc-gs render --help.",
        ),
        ("train x --hexplane.levels 1 b", "--hexplane.levels: 1, b is not understood; see nfc-gs train --help."),
        (
            "train x --objective.extra a",
            "--objective.extra takes pairs of a name and a value; see nfc-gs train --help.",
        ),
        ("--completion", "--completion needs a value: bash, zsh or fish."),
        ("--completion ksh", "--completion: 'ksh' is none of bash, zsh, fish."),
    ],
)
def test_a_mistake_is_answered_by_one_sentence(line: str, sentence: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert error_of(capsys, line) == sentence


# ---- help ----


@pytest.mark.parametrize("columns", [80, 120, None])
@pytest.mark.parametrize("everything", [False, True])
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page[0] if page else "all")
def test_help_wraps_cleanly_and_has_no_noise(
    page: tuple[str, ...],
    everything: bool,
    columns: int | None,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)
    if columns is not None:
        monkeypatch.setenv("COLUMNS", str(columns))
    text = help_of(capsys, *page, "--help-all" if everything else "--help")
    assert max(map(len, text.splitlines())) <= (columns or 80)
    for noise in ("None", "MISSING", "(default: )", "()", "{}", "dataclass", "{fixed}", "\t"):
        assert noise not in " ".join(text.split())
    assert not re.search(r"\d\n +\d{3}\b", text), "a number is broken over two lines"
    for _, words in explained(text):
        assert not re.search("  |^ ", words)


def test_the_overview_has_a_line_for_each_command(capsys: pytest.CaptureFixture[str]) -> None:
    text = help_of(capsys, "--help")
    for name, entry in COMMANDS.items():
        assert re.search(rf"^  {name} +{re.escape(entry.summary)}$", text, re.MULTILINE)
    for word in ("NFC_GS_THREADS", "--version", "--completion", "nfc-gs COMMAND"):
        assert word in text


@pytest.mark.parametrize("name", COMMANDS)
def test_the_examples_in_the_help_are_right(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    examples = re.findall(r"^  nfc-gs (.*)$", help_of(capsys, name, "--help"), re.MULTILINE)
    assert examples
    for example in examples:
        assert type(cli.parse(example.split())) is COMMANDS[name].load()


@pytest.mark.parametrize("name", COMMANDS)
def test_all_options_of_a_command_are_in_its_whole_help_once_and_explained(
    name: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    shown = explained(help_of(capsys, name, "--help-all"))
    command = cli.parse([name, *NEEDED.get(name, [])])
    flags = flags_of(COMMANDS[name].load())
    assert sorted(flag for flag, _ in shown) == sorted(flag for flag, _ in options_in(command) if flag in flags)
    for flag, words in shown:
        assert re.fullmatch(r"[A-Za-z\d].*[.]( \(default: .+\))?", words), f"{flag}: {words}"


def test_the_short_help_of_train_shows_what_matters_in_groups(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    short, whole = help_of(capsys, "train", "--help"), help_of(capsys, "train", "--help-all")
    assert len(short.splitlines()) <= 90 < 200 < len(whole.splitlines())
    for text in (short, whole):
        assert re.findall(r"^ (\w+) options$", text, re.MULTILINE)[:3] == ["viewer", "image", "training"]
    shown = ["capture", *(flag.removeprefix("--").replace("-", "_") for flag, _ in explained(short))]
    assert len(shown) == 20 and sorted(shown) == sorted(Train.short)
    assert "nfc-gs train --help-all" in short and "--help-all" not in whole
    assert "objective" not in short and re.search(r"\n objective options\n[ -]+\n  What is minimised", whole)


def test_help_is_shown_wherever_it_is_asked_for(capsys: pytest.CaptureFixture[str]) -> None:
    text = help_of(capsys, "eval", "--help")
    assert help_of(capsys, "eval", "run", "--lpips", "-h") == text
    assert help_of(capsys) == help_of(capsys, "-h") == help_of(capsys, "--help-all")


# ---- the start ----


@pytest.mark.parametrize("words", ["--version", "--help", "trian"])
def test_version_help_and_misspelt_commands_need_no_torch(words: str) -> None:
    code = f"import sys; from nfc_gs.cli import main; main({words.split()!r}); sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, cwd=HERE)


# ---- completion ----


def completed(line: str, script: Path) -> list[str]:
    """What bash offers for the last word of a line."""
    words = line.split(" ")
    code = f"source {script}; COMP_WORDS=({' '.join(repr(word) for word in words)}); COMP_CWORD={len(words) - 1}; "
    code += '[[ $(complete -p nfc-gs) = *"-o default"* ]] && _nfc_gs; echo "${#COMPREPLY[@]} ${COMPREPLY[*]}"'
    done = subprocess.run(["bash", "-c", code], check=True, capture_output=True, text=True)
    assert done.stderr == ""
    count, *offered = done.stdout.split()
    assert int(count) == len(offered), "nothing is offered as an empty word"
    return offered


@pytest.mark.skipif(shutil.which("bash") is None or os.name == "nt", reason="needs bash")
def test_bash_completes_commands_options_and_values(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    script = tmp_path / "nfc-gs"
    script.write_text(help_of(capsys, "--completion", "bash"))
    assert completed("nfc-gs tr", script) == ["train"]
    assert completed("nfc-gs train x --ste", script) == ["--steps"]
    assert completed("nfc-gs train --no-m", script) == ["--no-masks"]
    assert completed("nfc-gs train --preset ", script) == ["auto", "fast", "quality", "paper"]
    assert completed("nfc-gs render x --outputs b", script) == ["bits", "bit_entropy"]
    assert completed("nfc-gs view --steps", script) == [], "an option of another command"
    assert completed("nfc-gs train capt", script) == [], "the shell completes file names"


@pytest.mark.skipif(shutil.which("fish") is None, reason="needs fish")
def test_fish_completes_commands_options_values_and_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "script").write_text(help_of(capsys, "--completion", "fish"))
    (tmp_path / "captures").mkdir()

    def offered(line: str) -> list[str]:
        code = f"source script; complete -C '{line}'"
        done = subprocess.run(
            ["fish", "--no-config", "-c", code], check=True, capture_output=True, text=True, cwd=tmp_path
        )
        return [words.split("\t")[0] for words in done.stdout.splitlines()]

    assert offered("nfc-gs tr") == ["train"]
    assert offered("nfc-gs train x --time-bud") == ["--time-budget"]
    assert offered("nfc-gs train --preset qu") == ["quality"]
    assert "captures/" in offered("nfc-gs train capt") and offered("nfc-gs train --out capt") == ["captures/"]


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_a_completion_script_is_understood_by_its_shell(
    shell: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = help_of(capsys, "--completion", shell)
    for name in COMMANDS:
        assert name in text
    if shutil.which(shell) is None:
        pytest.skip(f"there is no {shell} here")
    (tmp_path / "script").write_text(text)
    done = subprocess.run([shell, "-n", str(tmp_path / "script")], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
