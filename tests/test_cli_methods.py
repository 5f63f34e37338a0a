"""Methods and color heads on the command line, from training to a splat file."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
import torch
from command_line import SMALL, nfc
from PIL import Image
from plyfile import PlyData

from nfc_gs import cli
from nfc_gs.commands.render import bit_planes
from nfc_gs.data.builtin.captures import write_capture
from nfc_gs.model.heads.registry import HeadName
from nfc_gs.model.target_encoding import encode_colors
from nfc_gs.objective.presets import LAMBDA
from nfc_gs.runs.checkpoint import load_checkpoint, save_checkpoint
from nfc_gs.runs.opening import load_model

WIDTH, HEIGHT = 48, 36


@pytest.fixture(scope="module")
def capture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_capture(tmp_path_factory.mktemp("methods") / "still life", views=8, width=WIDTH, height=HEIGHT)


@pytest.fixture(scope="module")
def trained(capture: Path) -> Path:
    """A run of 10 steps with bits; read it, do not change it."""
    out = capture.parent / "trained"
    words = ("--out", out, "--steps", 10, "--test-every", 4, "--sh-degree", 2, "--method", "nfc-te", "--eval-every", 0)
    assert nfc("train", capture, *words, *SMALL) == 0
    return out


@pytest.fixture
def run(trained: Path, tmp_path: Path) -> Path:
    """A copy of the run."""
    return Path(shutil.copytree(trained, tmp_path / "run"))


def rest_of(path: Path) -> int:
    """How many view-dependent coefficients the splats of a file have."""
    return sum(prop.name.startswith("f_rest_") for prop in PlyData.read(str(path))["vertex"].properties)


def in_one_line(text: str) -> str:
    return " ".join(text.split())


def test_the_head_is_that_of_the_method_unless_it_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    heads = [cli.parse(["train", "x", *words]).training.head for words in ((), ("--head", "auto"), ("--head", "bits"))]
    assert heads == [None, None, "bits"]
    assert cli.main(["train", "x", "--head", "mlp"]) == 2
    assert f"'mlp' is none of auto, {', '.join(get_args(HeadName))};" in capsys.readouterr().err


def test_a_run_of_bits_leaves_an_ordinary_splat_and_says_what_that_costs(
    capture: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("--method", "nfc-bitwise", "--bit-view", "full", "--bit-hardness", 0.5, "--objective.bit-ce", 0.2)
    assert nfc("train", capture, "--out", tmp_path / "run", "--steps", 3, "--test-every", 4, *words, *SMALL) == 0
    out = in_one_line(capsys.readouterr().out)
    assert "method nfc-bitwise" in out
    assert re.search(
        r"baked to SH of degree 3 in the splat file: [\d.]+ dB .*, [+-]\d\.\d{3} dB beside the bits\.", out
    )
    assert rest_of(tmp_path / "run" / "splat.ply") == 45
    model = load_model(tmp_path / "run").model
    assert model.bit_shifts is not None and model.bit_shifts.shape == (60, 15, 24)
    saved = load_checkpoint(tmp_path / "run").config
    assert (saved["method"], saved["bit_hardness"], saved["objective"]["bit_ce"]) == ("nfc-bitwise", 0.5, 0.2)


def test_a_run_of_direct_sh_says_nothing_of_baking(
    capture: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("--out", tmp_path / "run", "--steps", 2, "--test-every", 4, "--method", "nfc")
    assert nfc("train", capture, *words, *SMALL) == 0
    assert nfc("export", tmp_path / "run", "--out", tmp_path / "a.ply") == 0
    out = capsys.readouterr().out
    assert "method nfc," in in_one_line(out) and "bake" not in out


@pytest.mark.parametrize(
    ("words", "rest", "degree"), [((), 24, 2), (("--sh-degree", 0), 0, 0), (("--sh-degree", 3), 45, 3)]
)
def test_export_bakes_bits_to_the_given_degree_and_says_what_it_costs(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], words: tuple, rest: int, degree: int
) -> None:
    assert nfc("export", run, "--out", tmp_path / "a.ply", *words) == 0
    out = in_one_line(capsys.readouterr().out)
    assert re.search(rf"baked to SH of degree {degree} in the splat file: [\d.]+ dB .* dB beside the bits", out)
    assert rest_of(tmp_path / "a.ply") == rest
    if degree == 2:
        assert (tmp_path / "a.ply").read_bytes() == (run / "splat.ply").read_bytes()
    assert load_model(run).model.head == "bits", "the run keeps its bits"


def test_export_bakes_bits_whose_capture_is_gone_all_the_same(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save_checkpoint(run / "checkpoint.safetensors", replace(load_checkpoint(run), capture=str(run / "gone")))
    assert nfc("export", run / "checkpoint.safetensors", "--out", tmp_path / "a.ply") == 0
    assert "What baking the bits costs is not measured: The capture" in in_one_line(capsys.readouterr().out)
    assert (tmp_path / "a.ply").read_bytes() == (run / "splat.ply").read_bytes()


@pytest.mark.parametrize("degree", [-1, 4])
def test_export_knows_no_other_degrees(run: Path, degree: int, capsys: pytest.CaptureFixture[str]) -> None:
    before = (run / "splat.ply").read_bytes()
    assert nfc("export", run, "--sh-degree", degree) == 2
    assert f"--sh-degree is {degree}, but must be between 0 and 3" in capsys.readouterr().err
    assert (run / "splat.ply").read_bytes() == before


def test_render_writes_bit_planes_and_their_uncertainty_beside_the_image(run: Path, tmp_path: Path) -> None:
    words = ("render", run, "--what", "test", "--out", tmp_path / "out", "--outputs")
    assert nfc(*words, "rgb", "bits", "bit_entropy") == 0
    image = np.asarray(Image.open(tmp_path / "out" / "0001.png")).astype(float)
    assert image.shape == (HEIGHT, 10 * WIDTH, 3)
    rgb, *planes, uncertainty = (image[:, i * WIDTH : (i + 1) * WIDTH] for i in range(10))
    # The planes add up to the image, each to half an 8-bit step, and so does the image.
    decoded = sum(2 ** (7 - j) / 255 * plane for j, plane in enumerate(planes))
    assert np.abs(decoded - rgb).max() <= 1.0 and rgb.std() > 5
    assert (uncertainty[..., 0] == uncertainty[..., 2]).all() and uncertainty.max() > uncertainty.min()
    assert nfc(*words, "rgb") == 0
    np.testing.assert_allclose(np.asarray(Image.open(tmp_path / "out" / "0001.png")), rgb, rtol=0, atol=1)


def test_bit_planes_are_side_by_side_from_the_most_significant_on() -> None:
    colors = torch.randint(0, 256, (3, 5, 3), generator=torch.Generator().manual_seed(0))
    planes = bit_planes(encode_colors(colors))
    assert planes.shape == (3, 40, 3)
    for j in range(8):
        assert torch.equal(planes[:, 5 * j : 5 * j + 5], (colors >> (7 - j) & 1).float())


def test_render_has_no_bits_of_direct_sh(
    capture: Path, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert nfc("train", capture, "--out", tmp_path / "sh", "--steps", 1, "--eval-every", 0, *SMALL) == 0
    assert nfc("render", tmp_path / "sh", "--what", "test", "--outputs", "rgb", "bits", "--out", tmp_path / "out") == 2
    assert "--head bits" in capsys.readouterr().err


def test_eval_gives_the_numbers_of_the_training_again(run: Path) -> None:
    before = json.loads((run / "metrics.json").read_text())
    (run / "metrics.json").unlink()
    assert nfc("eval", run) == 0
    after = json.loads((run / "metrics.json").read_text())
    assert after["test"] == before["test"] and after["method"] == before["method"] == "nfc-te"


@pytest.mark.parametrize(
    ("options", "texts"),
    [
        ({}, (f"nfc-te, minimising 0.8 l1 + 0.2 ssim + {LAMBDA:g} ce", "24 bits, one shift a channel for the view")),
        ({"method": "nfr", "head": "sh"}, ("nfr, minimising", "spherical harmonics")),
    ],
)
def test_info_names_the_method_and_the_color_head(
    capture: Path, run: Path, tmp_path: Path, options: dict, texts: tuple, capsys: pytest.CaptureFixture[str]
) -> None:
    if options:
        run = tmp_path / "other"
        words = [word for name, value in options.items() for word in (f"--{name}", value)]
        assert nfc("train", capture, "--out", run, "--steps", 1, "--eval-every", 0, *words, *SMALL) == 0
        capsys.readouterr()
    assert nfc("info", run) == 0
    out = in_one_line(capsys.readouterr().out.replace("│", " ").replace("┃", " "))
    for text in texts:
        assert text in out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--method", "nfx"), "nfc-bitwise"),
        (("--head", "mlp"), "--head"),
        (("--bit-view", "half"), "--bit-view"),
        (("--bit-hardness", 2), "--bit-hardness is 2.0, but must be between 0 and 1"),
        (("--objective.bit-ce", 0.1), "add --head bits"),
        (("--objective.ce-eps", 0.7), "--objective.ce-eps is 0.7"),
        (("--method", "nfc-bitwise", "--density", "adc"), "choose --density mcmc"),
    ],
)
def test_options_that_make_no_sense_exit_with_2_and_leave_nothing(
    capture: Path, tmp_path: Path, words: tuple, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert nfc("train", capture, "--out", tmp_path / "run", *words, *SMALL) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_resume_goes_on_with_the_method_of_its_run(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert nfc("train", "--resume", run, "--method", "nfc") == 2
    assert "--method" in capsys.readouterr().err
    assert nfc("train", "--resume", run) == 0
    out = in_one_line(capsys.readouterr().out)
    assert "method nfc-te" in out and "baked to SH of degree 2" in out
