"""The table of backends: names, devices, error sentences, and what adding one takes."""

from __future__ import annotations

import pytest
import torch
from splat_scenes import make_camera, make_splats
from torch import Tensor

from nfc_gs.core.camera import Camera
from nfc_gs.core.errors import UserError
from nfc_gs.rendering import registry
from nfc_gs.rendering.backend import RasterBackend, RasterOutput, RasterSettings, RawSplats, SplatInfo, Splats
from nfc_gs.rendering.registry import BACKEND_HELP, BACKEND_NAMES, BACKENDS, backend_for, get_backend


def test_every_backend_has_its_name_a_summary_and_devices():
    assert ("auto", *BACKENDS) == BACKEND_NAMES and {"torch", "cpu", "gsplat", "cuda"} <= set(BACKENDS)
    for name, backend in BACKENDS.items():
        assert backend.name == name and backend.summary and name in BACKEND_HELP and backend.summary in BACKEND_HELP
        assert backend.devices and set(backend.devices) <= {"cpu", "cuda"}


@pytest.mark.parametrize(
    ("name", "device", "expected"),
    [
        ("auto", "cpu", "cpu"),
        ("auto", "cuda", "gsplat"),
        ("torch", "cpu", "torch"),
        ("torch", "cuda", "torch"),
        ("cpu", "cpu", "cpu"),
        ("gsplat", "cuda", "gsplat"),
        ("cuda", "cuda", "cuda"),
    ],
)
def test_a_backend_is_chosen_for_a_device(name: str, device: str, expected: str):
    assert backend_for(name, device) == expected


@pytest.mark.parametrize(("name", "device"), [("cpu", "cuda"), ("gsplat", "cpu"), ("cuda", "cpu")])
def test_a_backend_that_does_not_work_on_a_device_is_refused(name: str, device: str):
    sentence = f"The backend '{name}' does not work on the device '{device}'; leave out one of the two."
    with pytest.raises(UserError) as error:
        backend_for(name, device)
    assert str(error.value) == sentence


def test_an_unknown_backend_is_refused_with_all_names():
    for choose in (get_backend, lambda name: backend_for(name, "cpu")):
        with pytest.raises(UserError) as error:
            choose("abacus")
        assert str(error.value) == (f"There is no backend 'abacus'; choose one of {', '.join(BACKEND_NAMES)}.")


def test_a_backend_is_made_once():
    assert get_backend("torch") is get_backend("torch")


class Grey(RasterBackend):
    """Renders grey, whatever there is."""

    name = "grey"
    summary = "grey"
    devices = ("cpu",)

    def _render(
        self, splats: Splats, camera: Camera, settings: RasterSettings, background: Tensor | None
    ) -> RasterOutput:
        self.splats = splats
        size, count = (camera.height, camera.width), len(splats.means)
        info = SplatInfo(torch.ones(count, 2, dtype=torch.int32), torch.zeros(count, 2))
        return RasterOutput(torch.full((*size, 3), 0.5), torch.ones(*size, 1), None, info)


def test_a_new_backend_is_one_class_and_one_line(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(registry.BACKENDS, "grey", Grey)
    assert backend_for("grey", "cpu") == "grey"
    backend = get_backend("grey")
    monkeypatch.delitem(registry._instances, "grey")
    assert isinstance(backend, Grey)
    splats = make_splats()
    raw = RawSplats(
        splats.means, splats.quats, splats.scales.log(), splats.opacities.logit(), sh_coeffs=splats.sh_coeffs
    )
    assert (backend.render(raw, make_camera(), RasterSettings()).features == 0.5).all()
    torch.testing.assert_close(backend.splats.scales, splats.scales)  # activated
    torch.testing.assert_close(backend.splats.opacities, splats.opacities)
    with pytest.raises(ValueError, match="background has 4 channels but the splats have 3"):
        backend.render(splats, make_camera(), RasterSettings(), torch.zeros(4, dtype=torch.float64))  # checked
