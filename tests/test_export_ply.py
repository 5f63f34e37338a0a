"""Splats as PLY files: the standard form, in and out, and files that are broken."""

from __future__ import annotations

import logging
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from capture_files import SHARED
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from plyfile import PlyData, PlyElement
from random_models import random_model, similarity

from nfc_gs.core.camera import Camera, look_at_viewmat
from nfc_gs.core.errors import UserError
from nfc_gs.formats.ply import read_ply, write_ply
from nfc_gs.model.gaussians import GaussianModel


def ascii_ply(names: list[str], rows: list[list[float]], count: int | None = None) -> str:
    head = ["ply", "format ascii 1.0", f"element vertex {len(rows) if count is None else count}"]
    head += [f"property float {name}" for name in names] + ["end_header"]
    return "\n".join(head + [" ".join(str(v) for v in row) for row in rows]) + "\n"


NAMES = ["x", "y", "z", "f_dc_0", "f_dc_1", "f_dc_2", "opacity", "scale_0", "scale_1", "scale_2"]
NAMES += ["rot_0", "rot_1", "rot_2", "rot_3"]
ROW = [1, 2, 3, 0.1, 0.2, 0.3, 0.5, -1, -2, -3, 1, 0, 0, 0]


def test_the_file_has_the_standard_properties_in_the_standard_order(tmp_path: Path) -> None:
    write_ply(tmp_path / "a.ply", random_model())
    names = ["x", "y", "z", "nx", "ny", "nz", "f_dc_0", "f_dc_1", "f_dc_2", *(f"f_rest_{i}" for i in range(45))]
    names += ["opacity", "scale_0", "scale_1", "scale_2", "rot_0", "rot_1", "rot_2", "rot_3"]
    head = (tmp_path / "a.ply").read_bytes().split(b"end_header")[0].decode()
    assert head.startswith("ply\nformat binary_little_endian 1.0\nelement vertex 20\n")
    assert [line.split()[1:] for line in head.splitlines() if line.startswith("property")] == [
        ["float", name] for name in names
    ]


def test_plyfile_reads_the_numbers_that_were_written(tmp_path: Path) -> None:
    model = random_model(7)
    write_ply(tmp_path / "a.ply", model)
    vertex = PlyData.read(str(tmp_path / "a.ply"))["vertex"]
    sh = model.sh_coeffs.detach().numpy()
    np.testing.assert_array_equal(vertex["y"], model.means.detach().numpy()[:, 1])
    np.testing.assert_array_equal(vertex["nx"], np.zeros(7))
    np.testing.assert_array_equal(vertex["f_dc_2"], sh[:, 0, 2])
    np.testing.assert_array_equal(vertex["f_rest_0"], sh[:, 1, 0])  # red's first
    np.testing.assert_array_equal(vertex["f_rest_15"], sh[:, 1, 1])  # green's first
    np.testing.assert_array_equal(vertex["f_rest_44"], sh[:, 15, 2])  # blue's last
    np.testing.assert_array_equal(vertex["opacity"], model.opacity_logits.detach().numpy())
    np.testing.assert_array_equal(vertex["scale_1"], model.log_scales.detach().numpy()[:, 1])
    quats = np.stack([vertex[f"rot_{i}"] for i in range(4)], axis=1)
    np.testing.assert_allclose(np.linalg.norm(quats, axis=1), 1, atol=1e-6)


@pytest.mark.parametrize("degree", [0, 1, 2, 3])
def test_a_model_written_and_read_again_is_the_same_model(tmp_path: Path, degree: int) -> None:
    model = random_model(11, degree)
    write_ply(tmp_path / "a.ply", model)
    again = read_ply(tmp_path / "a.ply")
    for name in model.parameter_names:
        expected = getattr(model, name).detach()
        if name == "quats":
            expected = torch.nn.functional.normalize(expected, dim=1)
        got = getattr(again, name).detach()
        assert got.dtype == torch.float32
        torch.testing.assert_close(got, expected, rtol=0, atol=2e-7 if name == "quats" else 0)


def test_the_export_undoes_the_scene_transform(tmp_path: Path) -> None:
    model, transform = random_model(), similarity()
    write_ply(tmp_path / "a.ply", model, transform)
    world = read_ply(tmp_path / "a.ply")
    back = world.means.detach().double().numpy() @ transform[:3, :3].T + transform[:3, 3]
    np.testing.assert_allclose(back, model.means.detach().numpy(), atol=1e-5)
    torch.testing.assert_close(world.scales, model.scales / 0.37, rtol=1e-5, atol=0)
    assert torch.equal(world.opacity_logits, model.opacity_logits)


def test_the_exported_model_looks_the_same_from_the_camera_in_the_world(tmp_path: Path) -> None:
    from nfc_gs import render

    model, transform = random_model(12, dtype=torch.float64), similarity()
    write_ply(tmp_path / "a.ply", model, transform)
    world = GaussianModel({k: v.double() for k, v in read_ply(tmp_path / "a.ply").tensors().items()})
    zero = torch.zeros(3, dtype=torch.float64)
    viewmat = look_at_viewmat(zero + 4, zero, torch.tensor([0.1, -1.0, 0.3], dtype=torch.float64))
    camera = Camera(viewmat, 40.0, 42.0, 16.0, 12.0, 32, 24)
    # p_camera = V T p_world, but scaled: dividing its first three rows by the scale makes it rigid again
    moved = viewmat @ torch.from_numpy(transform)
    moved[:3] /= 0.37
    picture = render(model, camera, backend="torch").rgb
    again = render(world, Camera(moved, 40.0, 42.0, 16.0, 12.0, 32, 24), backend="torch").rgb
    assert picture.max() > 0.3
    torch.testing.assert_close(again, picture, rtol=0, atol=2e-5)  # the file holds float32


def test_a_splat_trained_by_inrias_program_is_read() -> None:
    path = SHARED / "splats" / "inria_kacytran_iter7000.ply"
    if not path.exists():
        pytest.skip("the shared captures are not here")
    model = read_ply(path)
    vertex = PlyData.read(str(path))["vertex"]
    assert len(model) == 9080 and model.sh_degree == 3
    np.testing.assert_array_equal(model.means[:, 2].detach(), vertex["z"])
    np.testing.assert_array_equal(model.sh_coeffs[:, 3, 1].detach(), vertex["f_rest_17"])  # green's third
    np.testing.assert_array_equal(model.quats[:, 0].detach(), vertex["rot_0"])


def test_ascii_doubles_missing_normals_and_extra_properties_are_read(tmp_path: Path) -> None:
    path = tmp_path / "a.ply"
    path.write_text("\n".join(ascii_ply(["label", *NAMES], [[7, *ROW], [8, *ROW]]).splitlines()))
    model = read_ply(path)
    assert len(model) == 2 and model.sh_degree == 0
    torch.testing.assert_close(model.means[1].detach(), torch.tensor([1.0, 2.0, 3.0]), rtol=0, atol=0)
    kinds = [("label", "u1"), *((name, "f8") for name in NAMES)]
    for order in "<>":
        table = np.array([(7, *ROW), (8, *ROW), (9, *ROW)], dtype=kinds)
        PlyData([PlyElement.describe(table, "vertex")], byte_order=order).write(str(path))
        torch.testing.assert_close(read_ply(path).sh_coeffs[2, 0].detach(), torch.tensor([0.1, 0.2, 0.3]))


def test_vertices_behind_another_element_are_found(tmp_path: Path) -> None:
    first = PlyElement.describe(np.array([(1, 2.0)] * 5, dtype=[("a", "u1"), ("b", "f4")]), "other")
    second = PlyElement.describe(np.array([tuple(ROW)] * 2, dtype=[(name, "f4") for name in NAMES]), "vertex")
    for text in (False, True):
        PlyData([first, second], text=text).write(str(tmp_path / "a.ply"))
        assert read_ply(tmp_path / "a.ply").log_scales[1].tolist() == [-1, -2, -3]


def test_splats_that_are_not_finite_are_left_out_with_a_warning(tmp_path: Path, caplog) -> None:
    bad = [*ROW[:3], math.nan, *ROW[4:]]
    (tmp_path / "a.ply").write_text(ascii_ply(NAMES, [ROW, bad, ROW]))
    with caplog.at_level(logging.WARNING, "nfc_gs"):
        assert len(read_ply(tmp_path / "a.ply")) == 2
    assert "1 of 3 splats" in caplog.text
    (tmp_path / "a.ply").write_text(ascii_ply(NAMES, [bad]))
    with pytest.raises(UserError, match="every one of its 1 splats"):
        read_ply(tmp_path / "a.ply")


def test_an_opaque_or_flat_splat_with_infinite_logarithms_is_kept(tmp_path: Path) -> None:
    row = [*ROW[:6], math.inf, -math.inf, *ROW[8:]]
    (tmp_path / "a.ply").write_text(ascii_ply(NAMES, [row]))
    model = read_ply(tmp_path / "a.ply")
    assert model.opacities.item() > 0.999 and model.opacity_logits.isfinite().all()
    assert model.scales[0, 0] < 1e-8 and model.log_scales.isfinite().all()


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"", "does not begin with the word 'ply'"),
        (b"solid cube\n", "does not begin with the word 'ply'"),
        (b"ply\nformat ascii 1.0\n", "header of .* has no end"),
        (b"ply\nformat ascii 1.0\nelement vertex many\nend_header\n", "'element vertex many'"),
        (b"ply\nelement vertex 1\nend_header\n", "does not say its format"),
        (b"ply\nformat ascii 1.0\nelement face 1\nend_header\n", "no element 'vertex'"),
        (b"ply\nformat ascii 1.0\nelement vertex 1\nproperty float x\nend_header\n1\n", "lack y, z, f_dc_0"),
        (ascii_ply([n for n in NAMES if n != "scale_2"], [ROW[1:]]).encode(), "lack scale_2[.]"),
        (ascii_ply([*NAMES, "f_rest_0"], [[*ROW, 1]]).encode(), "1 properties f_rest_"),
        (ascii_ply([*NAMES, "x"], [[*ROW, 1]]).encode(), "names a property twice"),
        (ascii_ply(NAMES, []).encode(), "holds no splats"),
        (ascii_ply(NAMES, [ROW], count=10**9).encode(), "claims 1,000,000,000 splats"),
        (ascii_ply(NAMES, [ROW, ROW[:-1]]).encode(), "not every one of 2 lines has 14 numbers"),
        (ascii_ply(NAMES, [["one", *ROW[1:]]]).encode(), "could not convert"),  # type: ignore[list-item]
    ],
)
def test_a_broken_file_gets_one_sentence_that_names_it(tmp_path: Path, content: bytes, sentence: str) -> None:
    path = tmp_path / "broken.ply"
    path.write_bytes(content)
    with pytest.raises(UserError, match=sentence) as caught:
        read_ply(path)
    assert "broken.ply" in str(caught.value) and "\n" not in str(caught.value)


def test_a_file_that_claims_a_billion_splats_is_refused_before_memory_is_taken(tmp_path: Path) -> None:
    write_ply(tmp_path / "a.ply", random_model(5))
    data = (tmp_path / "a.ply").read_bytes()
    (tmp_path / "a.ply").write_bytes(data.replace(b"vertex 5\n", b"vertex 1000000000\n"))
    with pytest.raises(UserError, match="claims 1,000,000,000 splats, the file has room for 5"):
        read_ply(tmp_path / "a.ply")


def test_a_compressed_ply_says_that_it_is_one(tmp_path: Path) -> None:
    header = "ply\nformat binary_little_endian 1.0\nelement chunk 1\nproperty float min_x\nelement vertex 1\n"
    header += "property uint packed_position\nproperty uint packed_rotation\nend_header\n"
    (tmp_path / "a.ply").write_bytes(header.encode() + bytes(12))
    with pytest.raises(UserError, match=r"compressed PLY .* plain PLY"):
        read_ply(tmp_path / "a.ply")


def test_a_missing_file_or_a_folder_is_said(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"There is no file .*none.ply"):
        read_ply(tmp_path / "none.ply")
    with pytest.raises(UserError, match="is a folder"):
        read_ply(tmp_path)


def test_a_failed_export_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="Cannot write"):
        write_ply(tmp_path / "no folder" / "a.ply", random_model(2))
    assert list(tmp_path.iterdir()) == []


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_damaged_file_gives_a_sentence_or_a_model(tmp_path: Path, data: st.DataObject) -> None:
    path = tmp_path / "fuzz.ply"
    if data.draw(st.booleans(), "ascii"):
        content = bytearray(ascii_ply(NAMES, [ROW] * 3).encode())
    else:
        write_ply(path, random_model(3, degree=1))
        content = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(0, 6), "flips")):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(content[: data.draw(st.integers(0, len(content)), "length") or None])
    try:
        model = read_ply(path)
    except UserError as error:
        assert "\n" not in str(error)
    else:
        assert all(value.isfinite().all() for value in model.tensors().values())
