from __future__ import annotations

import json
import math
import struct
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from nfc_gs.core.camera import Camera
from nfc_gs.core.errors import UserError
from nfc_gs.data.scene import PointCloud, SceneData, TimeAxis, View
from nfc_gs.runs.checkpoint import Checkpoint, load_checkpoint, load_model, save_checkpoint


def make_checkpoint(n: int = 4) -> Checkpoint:
    g = torch.Generator().manual_seed(0)
    model = {
        "means": torch.randn(n, 3, generator=g),
        "log_scales": torch.randn(n, 3, generator=g),
        "quats": torch.randn(n, 4, generator=g),
        "opacity_logits": torch.randn(n, generator=g),
        "sh_coeffs": torch.randn(n, 4, 3, generator=g),
    }
    return Checkpoint(
        model=model,
        optimizer={f"{kind}.{name}": torch.randn_like(tensor) for kind in "mv" for name, tensor in model.items()},
        density={"count": torch.arange(n, dtype=torch.float32)},
        step=17,
        seconds=0.1 + 0.2,
        config={"steps": 30, "rates": {"means": 1.6e-4}},
        capture="/some/cäpture",
        data={"test_every": 8},
        transform=np.array([[2, 0, 0, 1 / 3], [0, 2, 0, 0.1], [0, 0, 2, 0], [0, 0, 0, 1]]),
        background=(0.1, 0.2, 0.3),
        state={"density": {"last_step": 10}, "views": ["a.png"]},
    )


def kept_scene() -> SceneData:
    """Two views of a moving scene, without photos."""
    views = tuple(
        View(f"{i}.png", Camera(torch.eye(4), 30.0, 31.0, 8.0, 6.0, 16, 12), None, float(i)) for i in range(2)
    )
    points = PointCloud(np.zeros((1, 3), np.float32), np.zeros((1, 3), np.uint8))
    return SceneData(
        Path("/garden"), views, (1,), (0,), points, np.eye(4), 1.0, time_axis=TimeAxis(0.0, 2.0, "seconds")
    )


def bits_checkpoint(shape: tuple[int, ...]) -> Checkpoint:
    """The same with bits, whose shifts have this shape."""
    plain, g = make_checkpoint(shape[0]), torch.Generator().manual_seed(1)
    model = {name: tensor for name, tensor in plain.model.items() if name != "sh_coeffs"}
    model |= {"bit_logits": torch.randn(shape[0], 24, generator=g), "bit_shifts": torch.randn(shape, generator=g)}
    moments = {f"{kind}.{name}": torch.randn_like(tensor) for kind in "mv" for name, tensor in model.items()}
    return replace(plain, model=model, optimizer=moments)


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    path = tmp_path / "checkpoint.safetensors"
    save_checkpoint(path, make_checkpoint())
    return path


def rewrite_header(path: Path, change: dict[str, object]) -> None:
    """Change fields of our JSON inside the file."""
    raw = path.read_bytes()
    (length,) = struct.unpack("<Q", raw[:8])
    table = json.loads(raw[8 : 8 + length])
    header = json.loads(table["__metadata__"]["nfc_gs"])
    header.update(change)
    table["__metadata__"]["nfc_gs"] = json.dumps(header)
    text = json.dumps(table).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + raw[8 + length :])


def test_everything_comes_back_bit_for_bit(saved: Path) -> None:
    original, loaded = make_checkpoint(), load_checkpoint(saved)
    for group in ("model", "density"):
        for name, tensor in getattr(original, group).items():
            assert torch.equal(tensor, getattr(loaded, group)[name]), name
    assert loaded.optimizer.keys() == original.optimizer.keys()
    assert np.array_equal(loaded.transform, original.transform)
    for name in ("step", "seconds", "config", "capture", "data", "background", "state"):
        assert getattr(loaded, name) == getattr(original, name), name


@pytest.mark.parametrize("shape", [(4, 0, 3), (4, 3, 3), (4, 8, 24)])
def test_a_model_of_bits_comes_back_bit_for_bit(tmp_path: Path, shape: tuple[int, ...]) -> None:
    original = bits_checkpoint(shape)
    save_checkpoint(tmp_path / "c", original)
    loaded, model = load_checkpoint(tmp_path / "c"), load_model(tmp_path / "c").model
    for group in ("model", "optimizer"):
        assert getattr(loaded, group).keys() == getattr(original, group).keys()
        for name, tensor in getattr(original, group).items():
            assert torch.equal(tensor, getattr(loaded, group)[name]), name
    assert model.head == "bits" and model.sh_degree == round((shape[1] + 1) ** 0.5) - 1
    assert model.tensors().keys() == original.model.keys()


@pytest.mark.parametrize(
    ("name", "shape", "message"),
    [
        ("bit_shifts", None, "holds no tensor 'bit_shifts'"),
        ("bit_shifts", (4, 3, 5), r"bit_shifts has shape \(4, 3, 5\)"),
        ("bit_shifts", (4,), "do not fit together"),
        ("bit_logits", (4, 8), r"bit_logits has shape \(4, 8\)"),
        ("bit_logits", (3, 24), r"bit_logits has shape \(3, 24\)"),
    ],
)
def test_bits_that_do_not_fit_are_named(tmp_path: Path, name: str, shape: tuple[int, ...] | None, message: str) -> None:
    checkpoint = bits_checkpoint((4, 3, 3))
    model = {key: tensor for key, tensor in checkpoint.model.items() if key != name}
    if shape is not None:
        model[name] = torch.zeros(shape)
    save_checkpoint(tmp_path / "c", replace(checkpoint, model=model, optimizer={}))
    with pytest.raises(UserError, match=message):
        load_checkpoint(tmp_path / "c")


def test_a_model_loads_from_its_run_folder_or_its_file(saved: Path) -> None:
    for path in (saved, saved.parent):
        loaded = load_model(path)
        assert len(loaded.model) == 4 and loaded.model.sh_degree == 1
        assert loaded.transform[0, 3] == 1 / 3
        assert loaded.background == (0.1, 0.2, 0.3)


def test_saving_replaces_the_old_one_and_leaves_nothing_else(saved: Path) -> None:
    save_checkpoint(saved, replace(make_checkpoint(), step=18))
    assert load_checkpoint(saved).step == 18
    assert [path.name for path in saved.parent.iterdir()] == [saved.name]


def test_a_path_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"There is no run or checkpoint .*nowhere"):
        load_checkpoint(tmp_path / "nowhere")


def test_a_folder_without_a_checkpoint_is_not_a_run(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is not a run"):
        load_model(tmp_path)


@pytest.mark.parametrize(
    "content",
    [b"", b"ply\nformat", b"\x89PNG\r\n\x1a\n" + bytes(100), bytes(1000), b"\xff" * 64, b"\x05\0\0\0\0\0\0\0hello"],
)
def test_a_file_of_another_kind_is_not_a_checkpoint(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "file.safetensors"
    path.write_bytes(content)
    with pytest.raises(UserError, match="is not an nfc-gs checkpoint"):
        load_checkpoint(path)


def test_a_safetensors_file_of_another_program_is_not_a_checkpoint(tmp_path: Path) -> None:
    path = tmp_path / "other.safetensors"
    save_file({"weight": torch.zeros(3)}, str(path), metadata={"format": "pt"})
    with pytest.raises(UserError, match="is not an nfc-gs checkpoint"):
        load_checkpoint(path)


def test_another_version_is_named(saved: Path) -> None:
    rewrite_header(saved, {"version": 99})
    with pytest.raises(UserError, match="has format version 99, but this nfc-gs reads version 1"):
        load_checkpoint(saved)


def test_a_file_cut_short_anywhere_says_so(saved: Path) -> None:
    raw = saved.read_bytes()
    for length in (40, 500, len(raw) // 2, len(raw) - 1):
        saved.write_bytes(raw[:length])
        with pytest.raises(UserError, match="is cut short"):
            load_checkpoint(saved)


def test_random_damage_never_shows_a_traceback_of_another_kind(saved: Path) -> None:
    raw = bytearray(saved.read_bytes())
    rng = np.random.default_rng(0)
    for _ in range(200):
        damaged = raw.copy()
        for position in rng.integers(0, 1500, 3):
            damaged[position] = rng.integers(256)
        saved.write_bytes(damaged)
        try:
            load_checkpoint(saved)  # damage to values alone goes unseen
        except UserError as error:
            assert str(saved) in str(error)


def test_a_missing_tensor_is_named(tmp_path: Path) -> None:
    checkpoint = make_checkpoint()
    model = {name: tensor for name, tensor in checkpoint.model.items() if name != "quats"}
    save_checkpoint(tmp_path / "c", replace(checkpoint, model=model))
    with pytest.raises(UserError, match="holds no tensor 'quats'"):
        load_checkpoint(tmp_path / "c")


@pytest.mark.parametrize(
    ("group", "name", "shape"),
    [
        ("model", "quats", (4, 3)),
        ("model", "sh_coeffs", (3, 4, 3)),
        ("optimizer", "m.means", (5, 3)),
        ("optimizer", "m.other", (4, 3)),
        ("density", "count", (3,)),
    ],
)
def test_tensors_that_do_not_fit_together_are_named(
    tmp_path: Path, group: str, name: str, shape: tuple[int, ...]
) -> None:
    checkpoint = make_checkpoint()
    tensors = {**getattr(checkpoint, group), name: torch.zeros(shape)}
    save_checkpoint(tmp_path / "c", replace(checkpoint, **{group: tensors}))  # type: ignore[arg-type]
    with pytest.raises(UserError, match=f"do not fit together.*{name}"):
        load_checkpoint(tmp_path / "c")


def test_a_header_with_missing_or_odd_fields_is_broken(saved: Path) -> None:
    rewrite_header(saved, {"transform": "identity"})
    with pytest.raises(UserError, match="broken header"):
        load_checkpoint(saved)
    rewrite_header(saved, {"transform": [[1.0]]})
    with pytest.raises(UserError, match="do not fit together"):
        load_checkpoint(saved)


@pytest.mark.parametrize(
    ("field", "value", "says"),
    [
        ("scene", [], "list indices"),
        ("scene", {}, "'names'"),
        ("scene", {"names": ["0.png", "a\0b"], "root": "/garden", "extent": 1.0}, "zero byte"),
        ("scene", {"names": ["0.png"], "root": "/garden", "extent": 1.0}, "2 different names"),
        ("time_axis", None, "not both"),
        ("time_axis", {"start": 2.0, "end": 1.0}, "the times run from 2.0 to 1.0"),
        ("time_axis", {"start": -1e308, "end": 1e308}, "the times run from"),
        ("time_axis", {"start": 0.0, "end": math.inf}, "the times run from"),
        ("time_axis", {"start": "soon", "end": 1.0}, "could not convert"),
        ("time_axis", [1], "list indices"),
        ("capture", "\0", "zero byte"),
    ],
)
def test_a_scene_that_no_capture_has_is_a_broken_header(tmp_path: Path, field: str, value: object, says: str) -> None:
    path, scene = tmp_path / "c", kept_scene()
    save_checkpoint(path, replace(make_checkpoint(), scene=scene, time_axis=scene.time_axis))
    loaded = load_checkpoint(path)
    assert loaded.scene is not None and loaded.scene.views[1].time == 1.0 and loaded.scene.time_axis == scene.time_axis
    rewrite_header(path, {field: value})
    with pytest.raises(UserError, match=f"broken header .*{says}"):
        load_checkpoint(path)


def test_a_scene_whose_tensors_are_gone_is_a_broken_header(saved: Path) -> None:
    assert load_checkpoint(saved).scene is None
    rewrite_header(saved, {"scene": {"names": ["0.png"], "root": "/garden", "extent": 1.0}})
    with pytest.raises(UserError, match=r"broken header .*viewmats"):
        load_checkpoint(saved)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("step", math.inf),
        ("step", math.nan),
        pytest.param("seconds", 10**400, id="seconds-huge"),
        ("transform", [10**400]),
        ("background", [10**400] * 3),
    ],
)
def test_numbers_that_fit_no_run_are_a_broken_header(saved: Path, field: str, value: object) -> None:
    rewrite_header(saved, {field: value})
    with pytest.raises(UserError, match="broken header"):
        load_checkpoint(saved)


@pytest.mark.parametrize(
    "offsets",
    ["[]", "[0]", '[0, "end"]', '"ab"', "[0, Infinity]", "[0, [1]]", "{}", pytest.param("[" * 200_000, id="deep")],
)
def test_a_safetensors_header_of_odd_values_is_not_a_checkpoint(tmp_path: Path, offsets: str) -> None:
    ours = json.dumps(json.dumps({"format": "nfc-gs checkpoint", "version": 1}))
    header = f'{{"__metadata__": {{"nfc_gs": {ours}}}, "model.means": {{"data_offsets": {offsets}}}}}'
    path = tmp_path / "odd.safetensors"
    path.write_bytes(struct.pack("<Q", len(header)) + header.encode() + bytes(100))
    with pytest.raises(UserError, match="is not an nfc-gs checkpoint"):
        load_checkpoint(path)


def test_a_folder_that_is_not_there_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="Cannot write"):
        save_checkpoint(tmp_path / "missing" / "c.safetensors", make_checkpoint())


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
def test_a_write_that_fails_leaves_the_old_checkpoint(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import errno

    from safetensors import SafetensorError
    from safetensors import torch as safetensors_torch

    def full(*args: object, **kwargs: object) -> None:
        raise SafetensorError(f"I/O error: No space left on device (os error {errno.ENOSPC})")

    monkeypatch.setattr(safetensors_torch, "save_file", full)
    with pytest.raises(UserError, match="the disk is full"):
        save_checkpoint(saved, replace(make_checkpoint(), step=99))
    assert load_checkpoint(saved).step == 17
