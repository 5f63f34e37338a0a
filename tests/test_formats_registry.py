"""The table of splat file formats: reading and writing by suffix, and what a new format has to bring."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from random_models import random_model, similarity

import nfc_gs
from nfc_gs.core.errors import UserError
from nfc_gs.formats.notes import Notes
from nfc_gs.formats.ply import read_ply, write_ply
from nfc_gs.formats.registry import FORMATS, format_of, read_splats, splat_suffixes, write_splats
from nfc_gs.formats.splat_format import Holds, SplatFormat
from nfc_gs.model.gaussians import GaussianModel


def test_the_suffix_chooses_the_format_whatever_its_case(tmp_path: Path) -> None:
    write_splats(tmp_path / "a.PLY", random_model(5), similarity())
    write_ply(tmp_path / "b.ply", random_model(5), similarity())
    assert (tmp_path / "a.PLY").read_bytes() == (tmp_path / "b.ply").read_bytes()
    assert torch.equal(read_splats(tmp_path / "a.PLY").means, read_ply(tmp_path / "b.ply").means)
    assert nfc_gs.read_splats is read_splats and nfc_gs.write_splats is write_splats


def test_a_folder_or_another_file_has_no_splat_format(tmp_path: Path) -> None:
    (tmp_path / "folder.ply").mkdir()
    assert format_of(tmp_path / "folder.ply") is None and format_of("checkpoint.safetensors") is None
    assert format_of("a.ply") is FORMATS[".ply"] and format_of("a.splat") is FORMATS[".splat"]


def test_other_suffixes_are_refused_with_those_that_work(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"a\.obj is no splat file .* \.ply or \.splat"):
        read_splats(tmp_path / "a.obj")
    with pytest.raises(UserError, match=r"not written to .*a\.splat; give a name that ends in \.ply"):
        write_splats(tmp_path / "a.splat", random_model(2))


@pytest.fixture
def means_only(monkeypatch: pytest.MonkeyPatch) -> SplatFormat:
    """A format of one's own, which holds centres and plain colors."""

    def read(path: Path) -> GaussianModel:
        table = torch.from_numpy(np.load(path, allow_pickle=False))
        return GaussianModel({**random_model(len(table), degree=0).tensors(), "means": table[:, :3]})

    def write(path: Path, tensors: Mapping[str, torch.Tensor], notes: Notes) -> None:
        with open(path, "wb") as file:
            np.save(file, torch.cat([tensors["means"], tensors["sh_coeffs"].flatten(1)], dim=1).float().numpy())

    added = SplatFormat("means file", ".means", read, write, Holds(sh_degree=0))
    monkeypatch.setitem(FORMATS, ".means", added)
    return added


def test_a_format_that_is_added_to_the_table_is_read_written_and_named(tmp_path: Path, means_only: SplatFormat) -> None:
    model = random_model(4, degree=3)
    write_splats(tmp_path / "a.means", model)
    assert np.load(tmp_path / "a.means").shape == (4, 6)  # the degree is lowered to what the format holds
    assert torch.equal(read_splats(tmp_path / "a.means").means, model.means)
    assert splat_suffixes().endswith(" or .means") and splat_suffixes(written=True).endswith(" or .means")
    with pytest.raises(UserError, match="cannot hold SH of degree 2; a means file holds 0 to 0"):
        write_splats(tmp_path / "b.means", model, sh_degree=2)
