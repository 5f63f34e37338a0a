"""Checkpoints: everything comes back, and what is broken gets its sentence."""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from tiny_scenes import tiny_config, tiny_scene

from nfc_gs.core.camera import Camera
from nfc_gs.core.errors import UserError
from nfc_gs.data.scene import PointCloud, SceneData, TimeAxis, View
from nfc_gs.model.gaussians import GaussianModel
from nfc_gs.model.radiance import Part
from nfc_gs.runs.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from nfc_gs.runs.opening import load_model
from nfc_gs.training.trainer import Trainer

TRANSFORM = np.array([[2, 0, 0, 1 / 3], [0, 2, 0, 0.1], [0, 0, 2, 0], [0, 0, 0, 1]])


def stored_scene(*, moves: bool = False) -> SceneData:
    """Two views, without images."""
    views = tuple(
        View(f"{i}.png", Camera(torch.eye(4), 30.0, 31.0, 8.0, 6.0, 16, 12), None, float(i) if moves else None)
        for i in range(2)
    )
    points = PointCloud(np.zeros((1, 3), np.float32), np.zeros((1, 3), np.uint8))
    axis = TimeAxis(0.0, 2.0, "seconds") if moves else None
    return SceneData(Path("/garden"), views, (1,), (0,), points, TRANSFORM, 1.0, time_axis=axis)


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
        family="gaussians",
        model_parts=("model",),
        parts={
            "model": Part(model),
            "optimizer": Part(moments_of(model), {"steps": 17}),
            "density": Part({"count": torch.arange(n, dtype=torch.float32)}, {"last_step": 10}),
            "run": Part(values={"evaluations": 2, "timings": {"view": 0.1 + 0.2}}),
        },
        step=17,
        seconds=0.1 + 0.2,
        config={"steps": 30, "rates": {"means": 1.6e-4}},
        capture="/some/cäpture",
        data={"test_every": 8},
        scene=stored_scene(),
        background=(0.1, 0.2, 0.3),
    )


def moments_of(model: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    g = torch.Generator().manual_seed(2)
    return {f"{kind}.{name}": torch.randn(t.shape, generator=g) for kind in "mv" for name, t in model.items()}


def with_tensors(checkpoint: Checkpoint, part: str, tensors: Mapping[str, torch.Tensor]) -> Checkpoint:
    """The checkpoint with other tensors in one of its parts."""
    return replace(checkpoint, parts={**checkpoint.parts, part: replace(checkpoint.parts[part], tensors=tensors)})


def bits_checkpoint(shape: tuple[int, ...]) -> Checkpoint:
    """The same with bits, whose shifts have this shape."""
    plain, g = make_checkpoint(shape[0]), torch.Generator().manual_seed(1)
    model = {name: tensor for name, tensor in plain.parts["model"].tensors.items() if name != "sh_coeffs"}
    model |= {"bit_logits": torch.randn(shape[0], 24, generator=g), "bit_shifts": torch.randn(shape, generator=g)}
    return with_tensors(with_tensors(plain, "model", model), "optimizer", moments_of(model))


def assert_same_parts(a: Mapping[str, Part], b: Mapping[str, Part]) -> None:
    assert a.keys() == b.keys()
    for part in a:
        assert a[part].values == b[part].values, part
        assert a[part].tensors.keys() == b[part].tensors.keys(), part
        for name, tensor in a[part].tensors.items():
            assert torch.equal(tensor, b[part].tensors[name]), f"{part}/{name}"


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    path = tmp_path / "checkpoint.safetensors"
    save_checkpoint(path, make_checkpoint())
    return path


def read_header(path: Path) -> dict[str, Any]:
    """The JSON in the first bytes of the file, read as any program may read it."""
    with open(path, "rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        table = json.loads(file.read(length))
    return json.loads(table["__metadata__"]["nfc_gs"])


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
    assert_same_parts(loaded.parts, original.parts)
    assert np.array_equal(loaded.transform, TRANSFORM)
    for name in ("family", "model_parts", "step", "seconds", "config", "capture", "data", "background"):
        assert getattr(loaded, name) == getattr(original, name), name


@pytest.mark.parametrize("moves", [False, True])
def test_the_scene_comes_back_without_its_images(tmp_path: Path, moves: bool) -> None:
    scene = stored_scene(moves=moves)
    save_checkpoint(tmp_path / "c", replace(make_checkpoint(), scene=scene))
    loaded = load_checkpoint(tmp_path / "c")
    assert loaded.time_axis == loaded.scene.time_axis == scene.time_axis
    assert (loaded.scene.root, loaded.scene.train, loaded.scene.test) == (scene.root, scene.train, scene.test)
    for view, original in zip(loaded.scene.views, scene.views, strict=True):
        assert (view.name, view.time, view.source) == (original.name, original.time, None)
        assert torch.equal(view.camera.viewmat, original.camera.viewmat)
        assert replace(view.camera, viewmat=original.camera.viewmat) == original.camera


def test_the_step_is_readable_in_the_header_of_the_file(saved: Path) -> None:
    assert read_header(saved)["step"] == 17
    save_checkpoint(saved, replace(make_checkpoint(), step=18))
    assert read_header(saved)["step"] == 18


def test_tensors_are_saved_under_the_names_of_their_parts(saved: Path) -> None:
    with safe_open(str(saved), "pt") as file:
        names = set(file.keys())
    assert names >= {"model/means", "optimizer/m.means", "optimizer/v.sh_coeffs", "density/count", "scene/viewmats"}


@pytest.mark.parametrize("shape", [(4, 0, 3), (4, 3, 3), (4, 8, 24)])
def test_a_model_of_bits_comes_back_bit_for_bit(tmp_path: Path, shape: tuple[int, ...]) -> None:
    original = bits_checkpoint(shape)
    save_checkpoint(tmp_path / "c.safetensors", original)
    loaded, model = load_checkpoint(tmp_path / "c.safetensors"), load_model(tmp_path / "c.safetensors").model
    assert_same_parts(loaded.parts, original.parts)
    assert isinstance(model, GaussianModel)
    assert model.head == "bits" and model.sh_degree == round((shape[1] + 1) ** 0.5) - 1
    assert model.tensors().keys() == original.parts["model"].tensors.keys()


@pytest.mark.parametrize(
    ("name", "shape", "message"),
    [
        ("bit_shifts", None, "there is no tensor 'bit_shifts'"),
        ("bit_shifts", (4, 3, 5), r"bit_shifts has shape \(4, 3, 5\)"),
        ("bit_shifts", (4,), r"bit_shifts has shape \(4,\), expected three dimensions"),
        ("bit_logits", (4, 8), r"bit_logits has shape \(4, 8\)"),
        ("bit_logits", (3, 24), r"bit_logits has shape \(3, 24\)"),
    ],
)
def test_bits_that_do_not_fit_are_named(tmp_path: Path, name: str, shape: tuple[int, ...] | None, message: str) -> None:
    checkpoint = bits_checkpoint((4, 3, 3))
    model = {key: tensor for key, tensor in checkpoint.parts["model"].tensors.items() if key != name}
    if shape is not None:
        model[name] = torch.zeros(shape)
    save_checkpoint(tmp_path / "c", with_tensors(checkpoint, "model", model))
    with pytest.raises(UserError, match=f"do not fit together.*{message}"):
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
    with pytest.raises(UserError, match="has format version 99, but this nfc-gs reads version 2"):
        load_checkpoint(saved)


def test_a_file_of_a_development_version_is_too_old(saved: Path) -> None:
    rewrite_header(saved, {"version": 1})
    with pytest.raises(UserError, match=r"development version of nfc-gs and is too old; train again\.") as error:
        load_checkpoint(saved)
    assert str(saved) in str(error.value) and "\n" not in str(error.value)


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
    model = {name: tensor for name, tensor in checkpoint.parts["model"].tensors.items() if name != "quats"}
    save_checkpoint(tmp_path / "c", with_tensors(checkpoint, "model", model))
    with pytest.raises(UserError, match="there is no tensor 'quats'"):
        load_checkpoint(tmp_path / "c")


@pytest.mark.parametrize(("name", "shape"), [("quats", (4, 3)), ("sh_coeffs", (3, 4, 3))])
def test_tensors_that_do_not_fit_together_are_named(tmp_path: Path, name: str, shape: tuple[int, ...]) -> None:
    checkpoint = make_checkpoint()
    tensors = {**checkpoint.parts["model"].tensors, name: torch.zeros(shape)}
    save_checkpoint(tmp_path / "c", with_tensors(checkpoint, "model", tensors))
    with pytest.raises(UserError, match=f"do not fit together.*{name}"):
        load_checkpoint(tmp_path / "c")


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.int64])
def test_a_tensor_of_another_dtype_than_its_model_is_refused(tmp_path: Path, dtype: torch.dtype) -> None:
    checkpoint = make_checkpoint()
    tensors = dict(checkpoint.parts["model"].tensors)
    tensors["quats"] = tensors["quats"].to(dtype)
    save_checkpoint(tmp_path / "c", with_tensors(checkpoint, "model", tensors))
    with pytest.raises(UserError, match=f"do not fit together: quats has dtype {dtype}"):
        load_checkpoint(tmp_path / "c")


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.int64])
def test_a_model_of_a_dtype_that_nothing_renders_is_refused(tmp_path: Path, dtype: torch.dtype) -> None:
    checkpoint = make_checkpoint()
    tensors = {name: tensor.to(dtype) for name, tensor in checkpoint.parts["model"].tensors.items()}
    save_checkpoint(tmp_path / "c", with_tensors(checkpoint, "model", tensors))
    with pytest.raises(UserError, match=f"has dtype {dtype}, expected float32 or float64"):
        load_checkpoint(tmp_path / "c")


@pytest.mark.parametrize("field", ["model_parts", "correction_parts"])
def test_a_part_that_is_not_there_is_named(saved: Path, field: str) -> None:
    rewrite_header(saved, {field: ["model", "poses of nobody"]})
    with pytest.raises(UserError, match="do not fit together: there is no part 'poses of nobody'"):
        load_checkpoint(saved)


Tensors = dict[str, torch.Tensor]


@pytest.mark.parametrize(
    ("part", "change", "says"),
    [
        ("optimizer", lambda t: t | {"m.means": torch.zeros(5, 3)}, r"m\.means has shape \(5, 3\), expected \(30, 3\)"),
        ("optimizer", lambda t: t | {"m.other": torch.zeros(30, 3)}, r"there is an unexpected tensor 'm\.other'"),
        ("optimizer", lambda t: {n: x for n, x in t.items() if n != "v.quats"}, r"there is no tensor 'v\.quats'"),
        ("density", lambda t: t | {"count": torch.zeros(3)}, r"count has shape \(3,\), expected \(30,\)"),
        ("density", lambda t: t | {"other": torch.zeros(30)}, "there is an unexpected tensor 'other'"),
        ("density", lambda t: {"count": t["count"]}, "there is no tensor 'grad2d'"),
    ],
)
def test_a_state_of_training_that_does_not_fit_is_not_gone_on_with(
    tmp_path: Path, part: str, change: Callable[[Tensors], Tensors], says: str
) -> None:
    run = tmp_path / "run"
    trainer = Trainer(tiny_scene(), tiny_config(density="adc"), run, capture="tiny")
    whole = load_checkpoint(run)
    Trainer.resume(run, scene=tiny_scene())
    save_checkpoint(run / "checkpoint.safetensors", with_tensors(whole, part, change(dict(whole.parts[part].tensors))))
    load_model(run)  # it can be rendered
    with pytest.raises(UserError, match=f"{says}.*cannot be resumed"):
        Trainer.resume(run, scene=tiny_scene())
    assert len(trainer.model) == 30


@pytest.mark.parametrize(
    ("part", "values", "says"),
    [
        ("optimizer", {}, "lacks 'steps'"),
        ("optimizer", {"steps": math.inf}, "infinity"),
        ("optimizer", {"steps": "many"}, "many"),
        ("density", {"initial": 30}, "lacks 'last_step'"),
        ("run", {"timings": {}}, "lacks 'evaluations'"),
    ],
)
def test_a_run_whose_plain_values_are_missing_or_odd_is_not_gone_on_with(
    tmp_path: Path, part: str, values: dict[str, object], says: str
) -> None:
    run = tmp_path / "run"
    Trainer(tiny_scene(), tiny_config(), run, capture="tiny")
    whole = load_checkpoint(run)
    parts = {**whole.parts, part: replace(whole.parts[part], values=values)}
    save_checkpoint(run / "checkpoint.safetensors", replace(whole, parts=parts))
    with pytest.raises(UserError, match=f"{says}.*cannot be resumed"):
        Trainer.resume(run, scene=tiny_scene())


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"family": "fog"}, r"holds a model of the family 'fog', which this nfc-gs does not have \(gaussians"),
        ({"model_parts": []}, "do not fit together: there is no model"),
        ({"model_parts": ["other"]}, "do not fit together: there is no part 'other'"),
        ({"model_parts": 3}, "broken header"),
        ({"parts": {}}, "do not fit together: there is no part 'model'"),
        ({"parts": []}, "broken header"),
        ({"parts": {"model": 3}}, "broken header"),
    ],
)
def test_a_model_that_is_none_is_told(saved: Path, change: dict[str, object], says: str) -> None:
    rewrite_header(saved, change)
    with pytest.raises(UserError, match=says):
        load_checkpoint(saved)


@pytest.mark.parametrize(
    "transform",
    [
        np.diag([-1.0, 1.0, 1.0, 1.0]),
        np.diag([1.0, 2.0, 1.0, 1.0]),
        np.diag([0.0, 0.0, 0.0, 1.0]),
        np.diag([1e200, 1e200, 1e200, 1.0]),
        np.diag([1.0, 1.0, 1.0, 2.0]),
        np.eye(4)[[0, 1, 3, 2]],
    ],
    ids=["mirrors", "stretches", "collapses", "overflows", "projects", "permutes"],
)
def test_a_transform_that_is_no_similarity_is_refused(saved: Path, transform: np.ndarray) -> None:
    rewrite_header(saved, {"transform": transform.tolist()})
    with pytest.raises(UserError, match="the transform from the capture is no similarity"):
        load_checkpoint(saved)


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
        ("time_axis", {"start": 0.0, "end": math.inf}, "time_axis/end is inf, not a finite number"),
        ("time_axis", {"start": "soon", "end": 1.0}, "time_axis/start is 'soon', not a finite number"),
        ("time_axis", [1], "list indices"),
        ("capture", "\0", "zero byte"),
    ],
)
def test_a_scene_that_no_capture_has_is_a_broken_header(tmp_path: Path, field: str, value: object, says: str) -> None:
    path, scene = tmp_path / "c", stored_scene(moves=True)
    save_checkpoint(path, replace(make_checkpoint(), scene=scene))
    loaded = load_checkpoint(path)
    assert loaded.scene.views[1].time == 1.0 and loaded.scene.time_axis == scene.time_axis
    rewrite_header(path, {field: value})
    with pytest.raises(UserError, match=f"broken header .*{says}"):
        load_checkpoint(path)


def test_a_scene_whose_tensors_are_gone_is_a_broken_header(saved: Path) -> None:
    with safe_open(str(saved), "pt") as file:
        metadata = file.metadata()
    tensors = {name: tensor for name, tensor in load_file(str(saved)).items() if name != "scene/viewmats"}
    save_file(tensors, str(saved), metadata=metadata)
    with pytest.raises(UserError, match=r"broken header .*viewmats"):
        load_checkpoint(saved)


def test_a_header_without_a_scene_is_broken(saved: Path) -> None:
    rewrite_header(saved, {"scene": None})
    with pytest.raises(UserError, match="broken header"):
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
    ("field", "value", "says"),
    [
        ("step", True, "step is True, not a whole number"),
        ("step", "17", "step is '17', not a whole number"),
        ("step", 1.5, "step is 1.5, not a whole number"),
        ("step", -1, "step is -1, not a whole number from 0"),
        pytest.param("step", 10**400, "step is a huge number, not a whole number", id="step-huge"),
        ("seconds", math.inf, "seconds is inf, not a finite number"),
        ("seconds", 1e300, r"seconds is 1e\+300, not a finite number from 0 to 1e\+12"),
        ("seconds", "0", "seconds is '0'"),
        ("background", [0.1, math.nan, 0.3], "background is nan"),
        ("background", [0.1, 0.2, 2.0], "background is 2.0, not a finite number from 0 to 1"),
        ("background", "abc", "background is 'abc', not a list"),
        ("transform", [[math.inf] * 4] * 4, "the transform is not finite"),
        ("model_parts", [["model"]], "model_parts is"),
        ("correction_parts", [None], "correction_parts is None, not text"),
        ("family", ["gaussians"], "family is"),
        ("capture", "\ud800", "surrogates not allowed"),
        ("data", {"background": True}, "data/background is True, not a list"),
        ("data", {"background": [1.0]}, "data/background is no color"),
        ("data", {"frame_rate": math.inf}, "data/frame_rate is inf"),
        ("data", {"downscale": {}}, "data/downscale is {}"),
        ("config", {"objective": {"l1": "much"}}, "config/objective/l1 is 'much'"),
        ("config", {"objective": {"extra": {"mine": math.nan}}}, "config/objective/mine is nan"),
        ("config", {"objective": []}, r"config/objective is \[\], not an object"),
        ("config", {"antialiased": "yes"}, "config/antialiased is neither true nor false"),
        ("config", {"backend": 3}, "config/backend is 3, not text"),
        ("config", {"steps": "many"}, "config/steps is 'many'"),
        ("config", {"budget_seconds": math.inf}, "config/budget_seconds is inf"),
        ("config", {"seed": 10**400}, "config/seed is a huge number"),
        ("parts", {"model": {}, "run": {"timings": 3}}, "run/timings is 3, not an object"),
        ("parts", {"model": {}, "run": {"timings": {"view": math.inf}}}, "run/timings/view is inf"),
        ("parts", {"model": {}, "run": {"evaluations": True}}, "run/evaluations is True"),
        ("parts", {"model": {}, "run": {"view_psnr": {"a": "high"}}}, "run/view_psnr/a is 'high'"),
        ("parts", {"model": {}, "given": {"terms": {"a": None}}}, "given/terms/a is None"),
        ("parts", {"model": {}, "given": {"companions": 3}}, "given/companions is 3, not a list"),
    ],
)
def test_a_value_of_another_type_or_range_is_named(saved: Path, field: str, value: object, says: str) -> None:
    rewrite_header(saved, {field: value})
    with pytest.raises(UserError, match=f"broken header .*{says}") as error:
        load_checkpoint(saved)
    assert len(str(error.value)) < 600 and "\n" not in str(error.value)


@pytest.mark.parametrize("depth", [40, 900, 100_000])
def test_a_header_nested_too_deep_is_not_a_checkpoint(saved: Path, depth: int) -> None:
    text = '{"format": "nfc-gs checkpoint", "version": 2, "config": ' + "[" * depth + "]" * depth + "}"
    raw = saved.read_bytes()
    (length,) = struct.unpack("<Q", raw[:8])
    table = json.loads(raw[8 : 8 + length])
    table["__metadata__"]["nfc_gs"] = text
    header = json.dumps(table).encode()
    saved.write_bytes(struct.pack("<Q", len(header)) + header + raw[8 + length :])
    with pytest.raises(UserError, match="is not an nfc-gs checkpoint"):
        load_checkpoint(saved)


@pytest.mark.parametrize(
    "offsets",
    ["[]", "[0]", '[0, "end"]', '"ab"', "[0, Infinity]", "[0, [1]]", "{}", pytest.param("[" * 200_000, id="deep")],
)
def test_a_safetensors_header_of_odd_values_is_not_a_checkpoint(tmp_path: Path, offsets: str) -> None:
    ours = json.dumps(json.dumps({"format": "nfc-gs checkpoint", "version": 2}))
    header = f'{{"__metadata__": {{"nfc_gs": {ours}}}, "model/means": {{"data_offsets": {offsets}}}}}'
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
