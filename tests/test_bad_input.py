"""What goes wrong outside the program: one sentence, exit code 2, no traceback, and nothing lost."""

from __future__ import annotations

import contextlib
import json
import math
import os
import shutil
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from command_line import HERE, Cli, only_sentence
from PIL import Image

import nfc_gs
from nfc_gs.cli import main

TINY = ("--steps", "3", "--max-gaussians", "60", "--backend", "cpu", "--device", "cpu", "--eval-every", "0")
"""Options of a training that takes no time."""

MODEL_FILES = ("cameras.bin", "images.bin", "points3D.bin", "rigs.bin", "frames.bin")


@pytest.fixture
def damaged(capture: Path, tmp_path: Path) -> Path:
    """A copy of the capture, to be damaged."""
    return Path(shutil.copytree(capture, tmp_path / "capture"))


# ---- the path ----


@pytest.mark.parametrize("command", ["train", "info", "eval", "render"])
def test_a_path_that_is_not_there_is_named(command: str, cli: Cli, tmp_path: Path) -> None:
    cli.error(command, tmp_path / "nowhere", naming="nowhere")


@pytest.mark.parametrize("path", ["a\0b", "n" * 300, "/".join(["d" * 200] * 30), "circle"], ids=range(4))
def test_a_path_that_no_system_takes_is_reported(path: str, cli: Cli, capture: Path, run: Path, tmp_path: Path) -> None:
    (tmp_path / "circle").symlink_to(tmp_path / "circle")
    odd = tmp_path / path
    for words in (("train", odd), ("train", "--resume", odd), ("demo", "--out", odd), ("train", capture, "--out", odd)):
        cli.error(*words, naming="path")
    for command in ("info", "eval", "export", "render", "view"):
        cli.error(command, odd, naming="path")
    for command in ("export", "render"):
        cli.error(command, run, "--out", odd, naming="path")
    with pytest.raises(nfc_gs.UserError, match="path"):
        nfc_gs.train(capture, out=odd)
    with pytest.raises(nfc_gs.UserError, match="path"):
        nfc_gs.load_model(odd)


def test_a_run_in_the_place_of_a_capture_is_named(cli: Cli, run: Path, tmp_path: Path) -> None:
    cli.error("train", run, "--out", tmp_path / "out", naming=("is a run, not a capture", f"--resume {run}"))
    with pytest.raises(nfc_gs.UserError, match="is a run, not a capture"):
        nfc_gs.train(run)


def test_brackets_in_a_path_are_printed_as_they_are(cli: Cli, tmp_path: Path) -> None:
    cli.error("train", tmp_path / "[bold]no[/where]", naming="[bold]no[/where]")


def test_an_empty_folder_is_called_empty(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "void").mkdir()
    cli.error("train", tmp_path / "void", "--out", tmp_path / "out", naming=("void", "empty"))


def test_a_folder_without_images_is_no_capture(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "papers").mkdir()
    (tmp_path / "papers" / "notes.txt").write_text("no image")
    cli.error("train", tmp_path / "papers", "--out", tmp_path / "out", naming=("papers", "no images"))


def test_images_without_poses_get_the_advice_to_run_colmap(cli: Cli, damaged: Path, tmp_path: Path) -> None:
    shutil.rmtree(damaged / "sparse")
    cli.error("train", damaged, "--out", tmp_path / "out", naming="COLMAP")


def test_nothing_to_train_on_is_said(cli: Cli) -> None:
    cli.error("train", naming="--resume")


# ---- the images ----


def test_a_model_without_its_images_stops(cli: Cli, damaged: Path, tmp_path: Path) -> None:
    shutil.rmtree(damaged / "images")
    cli.error("train", damaged, "--out", tmp_path / "out", naming=("8 of 8", "0001.png"))


def test_one_missing_image_is_reported_and_left_out(cli: Cli, damaged: Path, tmp_path: Path) -> None:
    (damaged / "images" / "0003.png").unlink()
    said = cli.warning("train", damaged, "--out", tmp_path / "out", *TINY)
    assert "1 of 8" in said and "0003.png" in said


def test_more_than_half_of_the_images_missing_stops(cli: Cli, damaged: Path, tmp_path: Path) -> None:
    for number in range(2, 7):
        (damaged / "images" / f"000{number}.png").unlink()
    cli.error("train", damaged, "--out", tmp_path / "out", naming="5 of 8")


def test_a_truncated_jpeg_is_named(cli: Cli, damaged: Path, tmp_path: Path) -> None:
    for png in (damaged / "images").glob("*.png"):  # all of them: a single one could be something else than the photo
        Image.open(png).convert("RGB").save(png.with_suffix(".jpg"))
        png.unlink()
    path = damaged / "images" / "0003.jpg"
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    cli.error("train", damaged, "--out", tmp_path / "out", *TINY, naming="0003.jpg")


def test_a_file_that_is_no_image_is_named(cli: Cli, damaged: Path, tmp_path: Path) -> None:
    (damaged / "images" / "0003.png").write_bytes(b"not a picture at all")
    cli.error("train", damaged, "--out", tmp_path / "out", *TINY, naming="0003.png")


def test_an_image_of_another_size_than_its_camera_is_named(cli: Cli, damaged: Path, tmp_path: Path) -> None:
    path = damaged / "images" / "0003.png"
    Image.open(path).resize((50, 48)).save(path)
    cli.error("train", damaged, "--out", tmp_path / "out", naming=("0003.png", "50 x 48", "64 x 48"))


# ---- the COLMAP model ----


@pytest.mark.parametrize("name", MODEL_FILES)
def test_a_truncated_model_file_is_named(name: str, cli: Cli, damaged: Path, tmp_path: Path) -> None:
    path = damaged / "sparse" / "0" / name
    if not path.exists():
        pytest.skip(f"this pycolmap writes no {name}")
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 2 // 3])
    cli.error("train", damaged, "--out", tmp_path / "out", naming=(name, "damaged"))


@pytest.mark.parametrize("name", MODEL_FILES)
@pytest.mark.parametrize("seed", range(3))
def test_random_bytes_in_a_model_file_are_called_damaged(
    name: str, seed: int, cli: Cli, damaged: Path, tmp_path: Path
) -> None:
    path = damaged / "sparse" / "0" / name
    if not path.exists():
        pytest.skip(f"this pycolmap writes no {name}")
    path.write_bytes(np.random.default_rng(seed).bytes(path.stat().st_size))
    cli.error("train", damaged, "--out", tmp_path / "out", naming=(name, "damaged"))


@pytest.mark.parametrize(("name", "offset"), [("images.bin", 8 + 4), ("frames.bin", 8 + 8)])
@pytest.mark.parametrize("component", [0, 4])  # of the rotation, of the translation
def test_a_pose_that_is_not_a_number_is_reported(
    name: str, offset: int, component: int, cli: Cli, damaged: Path, tmp_path: Path
) -> None:
    path = damaged / "sparse" / "0" / name
    if not path.exists():
        pytest.skip(f"this pycolmap writes no {name}")
    data = bytearray(path.read_bytes())
    struct.pack_into("<d", data, offset + 8 * component, math.nan)
    path.write_bytes(data)
    cli.error("train", damaged, "--out", tmp_path / "out", naming=(name, "not finite"))


def write_text_model(damaged: Path, names: list[str]) -> None:
    """Put a COLMAP model without points in the place of the one that is there."""
    shutil.rmtree(damaged / "sparse")
    (damaged / "sparse").mkdir()
    (damaged / "sparse" / "cameras.txt").write_text("1 PINHOLE 64 48 60 60 32 24\n")
    lines = [f"{i + 1} 1 0 0 0 {0.2 * i} 0 {3 + 0.1 * i} 1 {name}\n\n" for i, name in enumerate(names)]
    (damaged / "sparse" / "images.txt").write_text("".join(lines))
    (damaged / "sparse" / "points3D.txt").write_text("")


def test_a_model_without_points_starts_from_random_ones_and_says_so(cli: Cli, damaged: Path, tmp_path: Path) -> None:
    write_text_model(damaged, [f"000{i}.png" for i in range(1, 9)])
    said = cli.warning("train", damaged, "--out", tmp_path / "out", *TINY)
    assert "no points" in said and "random" in said


def test_a_single_view_is_too_few(cli: Cli, damaged: Path, tmp_path: Path) -> None:
    write_text_model(damaged, ["0001.png"])
    cli.error("train", damaged, "--out", tmp_path / "out", naming="1 usable view")


# ---- transforms.json ----


def write_transforms(damaged: Path) -> dict:
    """A transforms.json in the place of the COLMAP model; returns what it holds."""
    shutil.rmtree(damaged / "sparse")
    frames = []
    for i in range(8):
        matrix = np.eye(4)
        matrix[:3, 3] = [0.2 * i, 0.1 * i, 3.0]
        frames.append({"file_path": f"images/000{i + 1}.png", "transform_matrix": matrix.tolist()})
    content = {"fl_x": 60.0, "fl_y": 60.0, "cx": 32.0, "cy": 24.0, "w": 64, "h": 48, "frames": frames}
    (damaged / "transforms.json").write_text(json.dumps(content))
    return content


def test_transforms_without_frames_name_the_key(cli: Cli, damaged: Path, tmp_path: Path) -> None:
    content = write_transforms(damaged)
    del content["frames"]
    (damaged / "transforms.json").write_text(json.dumps(content))
    cli.error("train", damaged, "--out", tmp_path / "out", naming=("transforms.json", "frames"))


def test_a_frame_without_a_pose_names_the_key_and_the_frame(cli: Cli, damaged: Path, tmp_path: Path) -> None:
    content = write_transforms(damaged)
    del content["frames"][2]["transform_matrix"]
    (damaged / "transforms.json").write_text(json.dumps(content))
    sentence = cli.error("train", damaged, "--out", tmp_path / "out", naming="transform_matrix")
    assert "0003.png" in sentence or "frame 2" in sentence or "frames[2]" in sentence


def test_transforms_without_a_focal_length_say_so(cli: Cli, damaged: Path, tmp_path: Path) -> None:
    content = write_transforms(damaged)
    del content["fl_x"], content["fl_y"]
    (damaged / "transforms.json").write_text(json.dumps(content))
    cli.error("train", damaged, "--out", tmp_path / "out", naming=("transforms.json", "fl_x"))


def test_broken_json_is_reported_with_its_place(cli: Cli, damaged: Path, tmp_path: Path) -> None:
    write_transforms(damaged)
    path = damaged / "transforms.json"
    path.write_text(path.read_text()[:200])
    cli.error("train", damaged, "--out", tmp_path / "out", naming=("transforms.json", "JSON"))


# ---- PLY ----


@pytest.mark.parametrize("command", ["info", "export"])
@pytest.mark.parametrize("damage", ["random", "properties", "billion"])
def test_a_broken_ply_is_reported(command: str, damage: str, cli: Cli, run: Path, tmp_path: Path) -> None:
    path = tmp_path / "splat.ply"
    whole = (run / "splat.ply").read_bytes()
    damaged = {
        "random": np.random.default_rng(0).bytes(len(whole)),
        "properties": b"ply\nformat ascii 1.0\nelement vertex 1\nproperty float x\nproperty float y\n"
        b"property float z\nend_header\n0 0 0\n",
        "billion": whole.replace(b"element vertex 60\n", b"element vertex 1000000000\n"),
    }[damage]
    assert damaged != whole
    path.write_bytes(damaged)
    words = {"random": "not a PLY", "properties": "f_dc_0", "billion": "1,000,000,000"}
    out = ("--out", tmp_path / "again.ply") if command == "export" else ()
    cli.error(command, path, *out, naming=("splat.ply", words[damage]))


# ---- checkpoints ----


def damage_checkpoint(path: Path, damage: str) -> None:
    whole = path.read_bytes()
    if damage == "another version":
        path.write_bytes(whole.replace(b'\\"version\\": 2,', b'\\"version\\": 9,', 1))
    elif damage == "cut short":
        path.write_bytes(whole[: len(whole) // 2])
    else:
        path.write_bytes(np.random.default_rng(0).bytes(len(whole)))
    assert path.read_bytes() != whole


@pytest.mark.parametrize("damage", ["another version", "cut short", "not a checkpoint"])
@pytest.mark.parametrize("command", ["eval", "render", "export", "resume", "info"])
def test_a_checkpoint_that_cannot_be_used_is_reported(damage: str, command: str, cli: Cli, run: Path) -> None:
    damage_checkpoint(run / "checkpoint.safetensors", damage)
    words = ("train", "--resume", run) if command == "resume" else (command, run)
    kind = {"another version": "version 9", "cut short": "cut short", "not a checkpoint": "not an nfc-gs checkpoint"}
    cli.error(*words, naming=("checkpoint.safetensors", kind[damage]))


def test_a_folder_that_is_no_run_is_reported(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    for command in ("eval", "render", "export"):
        cli.error(command, tmp_path / "other", naming="not a run")
    cli.error("train", "--resume", tmp_path / "other", naming="not a run")


def test_a_capture_that_was_moved_is_reported(cli: Cli, damaged: Path, tmp_path: Path) -> None:
    cli.warning("train", damaged, "--out", tmp_path / "out", *TINY)
    damaged.rename(tmp_path / "elsewhere")
    for words in (("eval", tmp_path / "out"), ("train", "--resume", tmp_path / "out")):
        cli.error(*words, naming=(str(damaged), "--capture" if words[0] == "eval" else str(damaged)))
    assert main(["eval", str(tmp_path / "out"), "--capture", str(tmp_path / "elsewhere")]) == 0


# ---- the output ----


def test_a_file_in_the_place_of_the_run_folder_is_reported(cli: Cli, capture: Path, tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("mine")
    cli.error("train", capture, "--out", tmp_path / "taken", *TINY, naming="taken")
    cli.error("train", capture, "--out", tmp_path / "taken" / "run", *TINY, naming="taken")
    cli.error("demo", "--out", tmp_path / "taken", "--steps", "3", naming="taken")


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="the superuser may write anywhere")
def test_a_folder_without_permission_is_reported(cli: Cli, capture: Path, tmp_path: Path) -> None:
    (tmp_path / "locked").mkdir(mode=0o500)
    cli.error("train", capture, "--out", tmp_path / "locked" / "run", *TINY, naming="permission")


def test_a_run_is_never_overwritten(cli: Cli, capture: Path, run: Path) -> None:
    cli.error("train", capture, "--out", run, *TINY, naming="--resume")
    cli.error("demo", "--out", run, naming="--resume")


def test_an_export_that_cannot_be_written_is_reported(cli: Cli, run: Path, tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("mine")
    cli.error("export", run, "--out", tmp_path / "taken" / "a.ply", naming="taken")
    cli.error("export", run, "--out", run / "renders", naming=".ply")
    cli.error("render", run, "--out", tmp_path / "film.avi", naming=".mp4")


@contextlib.contextmanager
def largest_file(size: int) -> Iterator[None]:
    """No file may grow beyond `size` bytes, which looks to the program like a full disk."""
    resource = pytest.importorskip("resource", reason="the system has no limits on the size of files")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_full_disk_at_export_leaves_the_old_splat(cli: Cli, run: Path) -> None:
    with largest_file(2000):
        cli.error("export", run, naming="splat.ply")


def test_a_full_disk_at_evaluation_leaves_the_run_as_it_was(cli: Cli, run: Path) -> None:
    with largest_file(2000):
        cli.error("eval", run, naming=str(run))


def test_a_full_disk_at_the_beginning_of_a_training_is_reported(cli: Cli, capture: Path, tmp_path: Path) -> None:
    with largest_file(2000):
        cli.error("train", capture, "--out", tmp_path / "out", *TINY, naming="checkpoint.safetensors")


def test_a_disk_that_fills_up_while_training_leaves_the_last_checkpoint(
    cli: Cli, capture: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from nfc_gs.commands import train
    from nfc_gs.core.events import Event, TrainStarted

    class Filling(train.Progress):
        def __call__(self, event: Event) -> None:
            super().__call__(event)
            if isinstance(event, TrainStarted):
                saved["bytes"] = (event.run / "checkpoint.safetensors").read_bytes()
                limit.enter_context(largest_file(2000))

    saved: dict[str, bytes] = {}
    monkeypatch.setattr(train, "Progress", Filling)
    with contextlib.ExitStack() as limit:
        code = main(["train", str(capture), "--out", str(tmp_path / "out"), *TINY])
    sentence = only_sentence(*cli.capfd.readouterr())
    assert code == 2 and "checkpoint.safetensors" in sentence
    assert (tmp_path / "out" / "checkpoint.safetensors").read_bytes() == saved["bytes"]
    assert not list((tmp_path / "out").glob(".*partial*"))
    monkeypatch.undo()
    assert main(["train", "--resume", str(tmp_path / "out")]) == 0  # nothing is lost


# ---- what was asked for ----


def test_an_unknown_backend_is_refused_with_the_choices(cli: Cli, capture: Path) -> None:
    assert main(["train", str(capture), "--backend", "abacus"]) == 2
    out, err = cli.capfd.readouterr()
    assert "error: --backend: 'abacus' is none of auto, torch, cpu, gsplat, cuda; see nfc-gs train --help." in err
    assert "Traceback" not in out + err


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_cuda_without_a_gpu_is_reported(cli: Cli, capture: Path, run: Path, tmp_path: Path) -> None:
    cli.error("train", capture, "--out", tmp_path / "out", "--device", "cuda", naming="--device cuda")
    cli.error("demo", "--out", tmp_path / "demo", "--device", "cuda", naming="--device cuda")
    cli.error("eval", run, "--device", "cuda", naming="--device cuda")


@pytest.mark.parametrize(
    ("options", "naming"),
    [
        (("--steps", "0"), "--steps"),
        (("--time-budget", "soon"), "soon"),
        (("--steps", "5", "--time-budget", "5s"), "--time-budget"),
        (("--max-gaussians", "-1"), "--max-gaussians"),
        (("--test-every", "1"), "--test-every"),
        (("--downscale", "tiny"), "tiny"),
        (("--backend", "cpu", "--device", "cuda"), "cuda"),
    ],
)
def test_an_option_that_makes_no_sense_is_named(
    options: tuple[str, ...], naming: str, cli: Cli, capture: Path, tmp_path: Path
) -> None:
    cli.error("train", capture, "--out", tmp_path / "out", *options, naming=naming)


def test_a_process_with_a_thread_count_that_is_no_number_ends_with_code_2(capture: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "nfc_gs", "train", str(capture), "--out", str(tmp_path / "out"), *TINY]
    environment = {**os.environ, "NFC_GS_THREADS": "many"}
    done = subprocess.run(command, capture_output=True, text=True, cwd=HERE, env=environment)
    assert done.returncode == 2, done.stdout + done.stderr
    assert "NFC_GS_THREADS" in only_sentence(done.stdout, done.stderr)


# ---- while training ----


def test_a_loss_that_is_not_finite_names_step_and_view_and_leaves_a_checkpoint(
    cli: Cli, capture: Path, tmp_path: Path
) -> None:
    options = ("--max-gaussians", "60", "--steps", "50", "--backend", "cpu", "--device", "cpu", "--rates.sh0", "1e30")
    code = main(["train", str(capture), "--out", str(tmp_path / "out"), *options])
    sentence = only_sentence(*cli.capfd.readouterr())
    assert code == 2
    assert "step 2" in sentence and ".png" in sentence and "checkpoint.safetensors" in sentence
    assert main(["export", str(tmp_path / "out")]) == 0
    assert (tmp_path / "out" / "splat.ply").exists()
