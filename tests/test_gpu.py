"""The backend `cuda` on a GPU, where tests of small scenes do not reach: `pytest -m gpu`.

The same mark stands on the engine `gpu` in the tests of all backends, which hold it to the specification in float64.
Here it is held to the CPU core in pictures of many tiles, to gsplat, and to what training promises.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from statistics import mean
from typing import Any

import pytest
import torch
from splat_scenes import Engine, cast, gradients, make_camera, make_splats, naive_render, open_engine
from torch import Tensor

from nfc_gs.core.camera import Camera
from nfc_gs.core.errors import UserError
from nfc_gs.data.builtin.captures import write_capture
from nfc_gs.data.config import DataConfig
from nfc_gs.data.loading import load_scene
from nfc_gs.rendering.backend import RasterSettings, Splats
from nfc_gs.rendering.cuda_backend import MAX_NARROW_TILES
from nfc_gs.rendering.registry import get_backend
from nfc_gs.training.config import TrainConfig
from nfc_gs.training.trainer import Trainer

pytestmark = pytest.mark.gpu

ROOT = Path(__file__).resolve().parents[1]
SHARED, SCRIPT = ROOT.parent / "shared" / "data", ROOT / "tools" / "bench" / "gpu_sanitize.py"


@pytest.fixture(autouse=True)
def gpu() -> Engine:
    return open_engine("gpu-float32")


def many_splats(count: int = 20_000, **options: Any) -> Splats:
    """Splats of a few pixels and a few large ones."""
    splats = make_splats(count, **options)
    return replace(splats, scales=0.05 * splats.scales + 0.3 * (splats.scales > 0.329))


def pictures(engine: Engine, splats: Splats, camera: Camera, settings: RasterSettings) -> dict[str, Tensor]:
    with torch.no_grad():
        out = engine.render(splats, camera, settings)
    images = {"features": out.features, "alpha": out.alpha, "depth": out.depth}
    return {name: image.double() for name, image in images.items() if image is not None}


def assert_alike(actual: dict[str, Tensor], expected: dict[str, Tensor], limit: float) -> None:
    """The difference's norm is less than that part of the norm of what is expected."""
    assert actual.keys() == expected.keys()
    errors = {name: float((actual[name] - value).norm() / value.norm()) for name, value in expected.items()}
    assert all(error < limit for error in errors.values()), errors  # NaN is not less


SCENES = {
    "colors": ({}, RasterSettings(3, depth=True, absgrad=True)),
    "antialiased": ({}, RasterSettings(2, antialiased=True)),
    "shared bits": ({"bit_view": "shared"}, RasterSettings(3, depth=True)),
    "full bits, composited": ({"bit_view": "full", "channels": 5}, RasterSettings(3, depth=True, bits=True)),
}


@pytest.mark.parametrize("scene", SCENES)
def test_a_picture_of_many_tiles_and_its_gradients_are_those_of_the_cpu_core(gpu: Engine, scene: str):
    options, settings = SCENES[scene]
    splats, camera, core = many_splats(**options), make_camera(640, 480, fx=560.0, fy=570.0), open_engine("cpu-float32")
    assert_alike(pictures(gpu, splats, camera, settings), pictures(core, splats, camera, settings), 1e-4)
    expected = gradients(core.name, core.dtype, splats, camera, settings)
    assert_alike(gradients(gpu.name, gpu.dtype, splats, camera, settings), expected, 1e-3)


def test_a_picture_of_more_tiles_than_16_bits_count_is_that_of_the_cpu_core(gpu: Engine):
    splats, camera = many_splats(2000), make_camera(4096, 2304, fx=3000.0, fy=3000.0)
    assert MAX_NARROW_TILES < (4096 // 16) * (2304 // 16)
    expected = pictures(open_engine("cpu-float32"), splats, camera, RasterSettings())
    assert_alike(pictures(gpu, splats, camera, RasterSettings()), expected, 1e-4)


@pytest.mark.parametrize("channels", [*range(1, 10), 17, 25])
def test_any_number_of_channels_is_that_of_the_cpu_core(gpu: Engine, channels: int):
    splats, camera = make_splats(60, sh_degree=None, channels=channels), make_camera(64, 48)
    core, settings = open_engine("cpu-float32"), RasterSettings()
    assert_alike(pictures(gpu, splats, camera, settings), pictures(core, splats, camera, settings), 1e-4)
    expected = gradients(core.name, core.dtype, splats, camera, settings)
    assert_alike(gradients(gpu.name, gpu.dtype, splats, camera, settings), expected, 1e-3)


def test_two_runs_give_the_same_bits(gpu: Engine):
    splats, settings = many_splats(), RasterSettings(3, depth=True, absgrad=True)
    camera = make_camera(640, 480, fx=560.0, fy=570.0)
    first, second = (gradients(gpu.name, gpu.dtype, splats, camera, settings) for _ in range(2))
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_it_draws_on_the_current_stream(gpu: Engine):
    splats, camera = many_splats(), make_camera(640, 480, fx=560.0, fy=570.0)
    expected = pictures(gpu, splats, camera, RasterSettings())["features"]
    with torch.cuda.stream(torch.cuda.Stream()):
        assert torch.equal(pictures(gpu, splats, camera, RasterSettings())["features"], expected)


ALONE = """
import torch
from nfc_gs.model.radiance import RenderOutput
from nfc_gs.objective.objective import Objective
from nfc_gs.objective.terms import Comparison
from nfc_gs.ops.operations import operations_for

picture = torch.rand(64, 64, 3, device="cuda", requires_grad=True)
operations = operations_for(picture.device)
assert operations.name == "gpu"
kept = torch.empty_like(picture)  # and given back: what backward needs, torch has without a call of CUDA
del kept
black = torch.zeros_like(picture, dtype=torch.uint8)
output = RenderOutput(picture, alpha=picture[..., :1])
Objective(operations=operations)(Comparison(output, black)).total.backward()
print(bool(picture.grad.isfinite().all() and picture.grad.any()))
"""


def test_a_kernel_may_be_the_first_thing_that_a_thread_of_autograd_does():
    ended = subprocess.run([sys.executable, "-c", ALONE], capture_output=True, text=True)
    assert ended.stdout == "True\n", ended.stderr


def test_drawing_again_and_again_takes_no_more_memory(gpu: Engine):
    splats, camera = many_splats(), make_camera(640, 480, fx=560.0, fy=570.0)
    held = []
    for _ in range(4):
        pictures(gpu, splats, camera, RasterSettings())
        gradients(gpu.name, gpu.dtype, splats, camera, RasterSettings())
        held.append(torch.cuda.memory_allocated())
    assert held[-1] == held[0]


def test_splats_that_are_not_on_the_gpu_are_refused():
    splats = cast(make_splats(), torch.float32)
    with pytest.raises(UserError, match=r"Backend 'cuda' draws float32 tensors on 'cuda', not torch.float32 on 'cpu'"):
        get_backend("cuda").render(splats, make_camera().to(dtype=torch.float32), RasterSettings())


# ---- gsplat -------------------------------------------------------------------------------------------------------


def faint(splats: Splats) -> Splats:
    """No alpha passes 0.9: gsplat caps it at 0.999 and we at 0.99."""
    return replace(splats, opacities=splats.opacities.clamp(max=0.9))


@pytest.mark.parametrize("antialiased", [False, True])
def test_pictures_and_gradients_are_those_of_gsplat(gpu: Engine, antialiased: bool):
    peer, settings = open_engine("peer-float32"), RasterSettings(3, depth=True, antialiased=antialiased)
    splats, camera = faint(make_splats(100)), make_camera(64, 48)
    sure = torch.from_numpy(naive_render(splats, camera, settings).sure).double()
    expected = {name: sure[..., None] * image for name, image in pictures(peer, splats, camera, settings).items()}
    actual = {name: sure[..., None] * image for name, image in pictures(gpu, splats, camera, settings).items()}
    assert_alike(actual, expected, 1e-4)
    expected = gradients(peer.name, peer.dtype, splats, camera, settings, sure)
    # Even the CPU core is 3e-4 away from ours in the gradient of rotations, and gsplat computes with functions that are
    # fast instead of exact.
    assert_alike(gradients(gpu.name, gpu.dtype, splats, camera, settings, sure), expected, 5e-3)


def test_a_picture_of_many_tiles_is_that_of_gsplat(gpu: Engine):
    peer, splats, camera = open_engine("peer-float32"), faint(many_splats()), make_camera(640, 480, fx=560.0, fy=570.0)
    expected = pictures(peer, splats, camera, RasterSettings())
    assert_alike(pictures(gpu, splats, camera, RasterSettings()), expected, 1e-3)


def test_a_part_drawn_by_gsplat_is_that_part_of_the_whole_picture():
    peer, splats, camera = open_engine("peer-float32"), many_splats(), make_camera(640, 480, fx=560.0, fy=570.0)
    for antialiased in (False, True):
        settings = RasterSettings(depth=True, antialiased=antialiased)
        whole = pictures(peer, splats, camera, settings)
        part = pictures(peer, splats, camera.crop(321, 13, 205, 300), settings)
        assert_alike(part, {name: image[13:313, 321:526] for name, image in whole.items()}, 1e-3)


# ---- training -----------------------------------------------------------------------------------------------------


def train(capture: Path, run: Path, **settings: Any) -> Trainer:
    config = TrainConfig(preset="fast", eval_every=0.0, checkpoint_every=1e9, **settings)
    trainer = Trainer(load_scene(capture, DataConfig()), config, run, capture=capture)
    trainer.train()
    return trainer


@pytest.mark.parametrize("method", ["nfr", "nfc-te"])
def test_the_same_seed_trains_the_same_splat_bit_for_bit(tmp_path: Path, method: str):
    capture = write_capture(tmp_path / "capture", views=8, width=160, height=120)
    options = {"method": method, "steps": 150, "max_gaussians": 2000, "device": "cuda", "backend": "cuda"}
    first, second = (train(capture, tmp_path / name, **options).model.tensors() for name in ("first", "second"))
    assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize("settings", [{}, {"density": "adc", "background": "random"}], ids=["mcmc", "adc"])
def test_a_training_step_waits_for_the_gpu_once(tmp_path: Path, settings: dict[str, Any]):
    """For the number of entries; not for its picture, and for its loss only in every tenth step."""
    capture = write_capture(tmp_path / "capture", views=8, width=160, height=120)
    config = TrainConfig(preset="fast", device="cuda", backend="cuda", **settings)
    trainer = Trainer(load_scene(capture, DataConfig()), config, tmp_path / "run", capture=capture)
    for _ in range(25):  # compiles, and meets every view
        trainer.step()
    torch.cuda.set_sync_debug_mode("warn")
    try:
        with pytest.warns() as found:
            trainer.step()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    waits = [str(warning.message) for warning in found if "synchronizing CUDA operation" in str(warning.message)]
    assert len(waits) == 1, waits


def capture_of(name: str, folder: Path) -> Path:
    if name == "built-in":
        return write_capture(folder / "capture", views=24, width=160, height=120)
    if not (SHARED / name).is_dir():
        pytest.skip(f"the real capture '{name}' is not at hand")
    return SHARED / name


SIZES = {"built-in": {"steps": 800, "max_gaussians": 6000}, "fox": {"steps": 500, "max_gaussians": 10_000}}


@pytest.mark.slow
@pytest.mark.parametrize("method", ["nfr", "nfc-te"])
@pytest.mark.parametrize("name", SIZES)
def test_a_gpu_trains_as_well_as_the_cpu(tmp_path: Path, name: str, method: str):
    capture = capture_of(name, tmp_path)
    psnr: dict[str, list[float]] = {"cpu": [], "cuda": []}
    for seed in range(4):  # on the CPU, four seeds of `nfr` on the built-in capture lie between 30.17 and 30.36 dB
        for device, values in psnr.items():
            options = {"device": device, "backend": device, "seed": seed, **SIZES[name]}
            values.append(
                train(capture, tmp_path / f"{device}-{seed}", method=method, **options).evaluate().psnr or 0.0
            )
    assert mean(psnr["cuda"]) > mean(psnr["cpu"]) - 0.1, psnr


# ---- compute-sanitizer --------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("tool", ["memcheck", "racecheck", "synccheck"])
def test_compute_sanitizer_finds_nothing(tool: str):
    program = shutil.which("compute-sanitizer")
    if program is None or not SCRIPT.is_file():
        pytest.skip("there is no compute-sanitizer, or the tools are not beside the tests")
    command = [program, "--tool", tool, "--error-exitcode", "9", sys.executable, str(SCRIPT)]
    environment = os.environ | {"PYTORCH_NO_CUDA_MEMORY_CACHING": "1"}  # its pool hides what is beyond an array
    ended = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert ended.returncode == 0, ended.stdout + ended.stderr
