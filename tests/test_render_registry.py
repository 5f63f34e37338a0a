"""The table of backends: names, devices, error sentences, and what adding one takes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest
import torch
from splat_scenes import make_camera, make_splats
from torch import Tensor

from nfc_gs.core.camera import Camera
from nfc_gs.core.errors import UserError
from nfc_gs.ops import device as devices
from nfc_gs.rendering import registry
from nfc_gs.rendering.backend import RasterBackend, RasterOutput, RasterSettings, RawSplats, SplatInfo, Splats
from nfc_gs.rendering.gsplat_backend import GsplatBackend
from nfc_gs.rendering.registry import (
    BACKEND_HELP,
    BACKEND_NAMES,
    BACKENDS,
    backend_for,
    choose_device_and_backend,
    get_backend,
)
from nfc_gs.rendering.self_test import Verdict


def test_every_backend_has_its_name_a_summary_and_devices():
    assert ("auto", *BACKENDS) == BACKEND_NAMES and {"torch", "cpu", "gsplat", "cuda"} <= set(BACKENDS)
    for name, backend in BACKENDS.items():
        assert backend.name == name and backend.summary and name in BACKEND_HELP and backend.summary in BACKEND_HELP
        assert backend.devices and set(backend.devices) <= {"cpu", "cuda"}


@pytest.mark.parametrize(
    ("name", "device", "expected"),
    [
        ("auto", "cpu", "cpu"),
        ("torch", "cpu", "torch"),
        ("torch", "cuda", "torch"),
        ("cpu", "cpu", "cpu"),
        ("gsplat", "cuda", "gsplat"),
        ("cuda", "cuda", "cuda"),
        ("torch", "cuda:1", "torch"),
        ("cuda", "cuda:1", "cuda"),
    ],
)
def test_a_backend_is_chosen_for_a_device(name: str, device: str, expected: str):
    assert backend_for(name, device) == expected


@pytest.mark.parametrize(("name", "device"), [("cpu", "cuda"), ("cpu", "cuda:1"), ("gsplat", "cpu"), ("cuda", "cpu")])
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


# ---- auto on a GPU ------------------------------------------------------------------------------------------------


@dataclass
class Gpu:
    """A machine with two GPUs, as far as the table of backends can see.

    Attributes:
        problem: why torch cannot compute on them.
        failed: why our kernels fail their self-test.
        gsplat: why gsplat does not load.
        refused: where the references are used, and why.
    """

    problem: str = ""
    failed: str = ""
    gsplat: str = ""
    refused: dict[str, str] = field(default_factory=dict)
    tested: list[str] = field(default_factory=list)

    def self_test(self, device: torch.device) -> Verdict:
        self.tested.append(str(device))
        return Verdict(not self.failed, self.failed, "Tesla", "580", "hash")

    def load_gsplat(self) -> None:
        if self.gsplat:
            raise UserError(self.gsplat)


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[Gpu]:
    machine = Gpu()
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "Tesla")
    for module in (registry, devices):
        monkeypatch.setattr(module, "gpu_problem", lambda device: machine.problem)
    monkeypatch.setattr(registry, "self_test", machine.self_test)
    monkeypatch.setattr(registry, "use_references", lambda device, why: machine.refused.update({str(device): why}))
    monkeypatch.setattr(registry, "_instances", {})
    monkeypatch.setattr(GsplatBackend, "__init__", lambda self: machine.load_gsplat())
    caches = (registry._auto_on_gpu, registry._our_problem, devices._log_once)
    for cache in caches:
        cache.cache_clear()
    yield machine
    for cache in caches:
        cache.cache_clear()


AGAIN = "nfc-gs info --devices --retest tests ours again"


def said(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records]


def test_auto_takes_our_backend_if_its_self_test_passes_and_says_so_once(gpu: Gpu, caplog: pytest.LogCaptureFixture):
    caplog.set_level("INFO")
    for _ in range(2):
        assert choose_device_and_backend() == ("cuda", "cuda") and choose_device_and_backend("cuda:0")[1] == "cuda"
    assert gpu.tested == ["cuda:0"] and not gpu.refused
    assert said(caplog) == ["Backend 'cuda' on cuda:0: our own kernels, which passed their self-test on this Tesla."]
    assert choose_device_and_backend("cuda:1") == ("cuda:1", "cuda") and gpu.tested == ["cuda:0", "cuda:1"]


def test_auto_takes_gsplat_where_our_kernels_fail_which_then_nothing_uses(gpu: Gpu, caplog: pytest.LogCaptureFixture):
    gpu.failed = "its self-test failed: the image differs"
    assert choose_device_and_backend("cuda:1") == ("cuda:1", "gsplat")
    assert gpu.refused == {"cuda:1": gpu.failed} and gpu.tested == ["cuda:1"]
    assert said(caplog) == [f"Backend 'gsplat' on cuda:1, because of the others: 'cuda' ({gpu.failed}); {AGAIN}."]


def test_auto_takes_the_reference_where_neither_works(gpu: Gpu, caplog: pytest.LogCaptureFixture):
    gpu.failed, gpu.gsplat = "its self-test crashed (SIGSEGV)", "The backend 'gsplat' found no nvcc; install it."
    assert choose_device_and_backend() == ("cuda", "torch")
    assert said(caplog) == [
        "Backend 'torch' on cuda:0, because of the others: 'cuda' (its self-test crashed (SIGSEGV)); "
        f"'gsplat' (The backend 'gsplat' found no nvcc; install it); {AGAIN}."
    ]


def test_where_nothing_works_one_sentence_names_every_backend(gpu: Gpu, caplog: pytest.LogCaptureFixture):
    gpu.problem = "torch sees the GPU 0 but cannot compute on it (no kernel image)"
    with pytest.raises(UserError) as error:
        choose_device_and_backend("cuda")
    assert str(error.value) == (
        f"No backend works on the device 'cuda': 'cuda', 'gsplat' and 'torch' ({gpu.problem}); use --device cpu."
    )
    assert choose_device_and_backend("auto") == ("cpu", "cpu")
    assert said(caplog) == [f"Computing on the CPU, because {gpu.problem}."]
    assert get_backend("auto").name == "cpu" and not gpu.tested


@pytest.mark.parametrize("backend", ["cuda", "gsplat"])
def test_a_backend_that_needs_a_gpu_says_why_there_is_none(backend: str, gpu: Gpu, caplog: pytest.LogCaptureFixture):
    gpu.problem = "torch sees no GPU here"
    with pytest.raises(UserError) as error:
        choose_device_and_backend("auto", backend)
    assert str(error.value) == (
        f"The backend '{backend}' needs a GPU, and torch sees no GPU here; choose another backend, or install a torch "
        "build for a GPU."
    )
    assert not said(caplog)


def test_with_gsplat_by_name_our_kernels_are_tested_too_since_losses_use_them(gpu: Gpu):
    gpu.failed = "its self-test failed: Adam differs"
    assert choose_device_and_backend("cuda", "gsplat") == ("cuda", "gsplat")
    assert gpu.refused == {"cuda:0": gpu.failed} and gpu.tested == ["cuda:0"]
    gpu.refused.clear()
    assert choose_device_and_backend("cuda", "cuda") == ("cuda", "cuda") and not gpu.refused


def test_what_does_not_go_together_or_does_not_exist_is_refused_on_a_gpu_too(gpu: Gpu):
    for device, backend, words in (
        ("cuda:1", "cpu", "The backend 'cpu' does not work on the device 'cuda:1'; leave out one of the two."),
        ("cuda:2", "auto", "--device cuda:2: torch sees cuda:0 to cuda:1; choose one of these."),
        ("cuda:x", "auto", "There is no device 'cuda:x'; choose auto, cpu, cuda or cuda:N with the number of a GPU."),
    ):
        with pytest.raises(UserError) as error:
            choose_device_and_backend(device, backend)
        assert str(error.value) == words
    assert choose_device_and_backend("auto", "cpu") == ("cpu", "cpu")


# ---- a new backend ------------------------------------------------------------------------------------------------


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
