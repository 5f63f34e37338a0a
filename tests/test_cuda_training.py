"""The GPU kernels of a training step against the readable references in float64: run by the emulator, and by a GPU."""

from __future__ import annotations

import ctypes
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from emulator import CUDA, Emulator, compiled
from kernel_inputs import EVERYTHING, gaussians, pictures, planes_of, random
from losses import photometric, photometric_reference
from moving_scenes import moving_config, moving_scene, psnr
from splat_scenes import open_engine
from torch import Tensor

from nfc_gs.core.errors import UserError
from nfc_gs.model.hexplane import (
    HexPlaneConfig,
    add_plane_regulariser_gradient,
    add_plane_regulariser_gradient_reference,
    hexplane_features_reference,
)
from nfc_gs.objective.objective import ObjectiveConfig
from nfc_gs.ops import gpu, native
from nfc_gs.ops import kernel_args as cuda_args
from nfc_gs.ops import operations as operations_module
from nfc_gs.ops.arguments import AdamConstants, LossWeights
from nfc_gs.ops.nvrtc import CudaRuntime, Runtime
from nfc_gs.ops.operations import CPU, REFERENCE, Operations, gpu_operations, operations_for
from nfc_gs.rendering.cuda_backend import CudaBackend
from nfc_gs.rendering.registry import BACKENDS
from nfc_gs.training import density_ops
from nfc_gs.training.optimizers import DenseAdam, VisibleAdam, adam_step_reference
from nfc_gs.training.trainer import Trainer


@pytest.fixture(scope="module", params=["emulated", pytest.param("gpu", marks=pytest.mark.gpu)])
def runtime(request: pytest.FixtureRequest) -> Runtime:
    """The emulator, and a GPU where there is one."""
    try:
        return Emulator() if request.param == "emulated" else CudaRuntime(torch.device("cuda"))
    except UserError as error:
        pytest.skip(str(error))


@pytest.fixture
def operations(runtime: Runtime) -> Operations:
    """The operations of the same."""
    return gpu_operations(runtime)


@pytest.fixture
def taken(runtime: Runtime, operations: Operations, monkeypatch: pytest.MonkeyPatch) -> Runtime:
    """The same, whose operations are used by default: the emulator's for tensors on the CPU."""
    monkeypatch.setattr(operations_module, "_fastest", lambda device: operations)
    return runtime


def assert_close(actual: Tensor, expected: Tensor, limit: float = 1e-5) -> None:
    """Equal up to `limit` times the largest number."""
    scale = max(1e-30, float(expected.abs().max()))
    torch.testing.assert_close(actual.cpu().double(), expected.cpu().double(), rtol=0, atol=limit * scale)


STRUCTS = [  # header and struct; `SplatAdam` and `AdamArgs` are below
    ("render.h", cuda_args.SplatParameter),
    ("render.h", cuda_args.RenderArgs),
    ("train.h", cuda_args.LossArgs),
    ("train.h", cuda_args.BitLossArgs),
    ("train.h", cuda_args.AdamParameter),
    ("train.h", cuda_args.NoiseArgs),
    ("train.h", cuda_args.RelocateArgs),
    ("hexplane.cu", cuda_args.HexPlaneArgs),
    ("hexplane.cu", cuda_args.PlaneArgs),
]


def test_the_arguments_of_the_kernels_are_the_same_in_cpp_and_python(tmp_path: Path):
    source = tmp_path / "layouts.cu"
    headers = dict.fromkeys(header for header, _ in STRUCTS)
    lines = ["#include <cstddef>", *(f'#include "{CUDA}/gpu/{header}"' for header in headers)]
    expected = {}
    for _, struct in STRUCTS:
        names = [name for name, *_ in struct._fields_]
        offsets = ", ".join(f"offsetof(nfc::{struct.__name__}, {name})" for name in names)
        lines.append(f'extern "C" const size_t {struct.__name__}[] = {{{offsets}, sizeof(nfc::{struct.__name__})}};')
        expected[struct.__name__] = [getattr(struct, name).offset for name in names] + [ctypes.sizeof(struct)]
    adam = cuda_args.SplatAdam
    fields = (*cuda_args.SPLAT_PARAMETERS, "beta1", "bfloat16_moments", "opacity_weight")
    offsets = [getattr(adam, name).offset for name in fields]
    expected["SplatAdam"] = [*offsets, adam.scale_weight.offset, ctypes.sizeof(adam)]
    names = (*cuda_args.SPLAT_PARAMETERS, "constants", "bfloat16_moments", "opacity_weight", "scale_weight")
    offsets = ", ".join(f"offsetof(nfc::SplatAdam, {name})" for name in names)
    lines.append(f'extern "C" const size_t SplatAdam[] = {{{offsets}, sizeof(nfc::SplatAdam)}};')
    lines.append(  # its constants are a struct of their own there
        'extern "C" const size_t AdamArgs[] = {offsetof(nfc::AdamArgs, visible), offsetof(nfc::AdamArgs, count), '
        "offsetof(nfc::AdamArgs, constants), offsetof(nfc::AdamArgs, bfloat16_moments), sizeof(nfc::AdamArgs)};"
    )
    adam = cuda_args.AdamArgs
    offsets = [getattr(adam, name).offset for name in ("visible", "count", "beta1", "bfloat16_moments")]
    expected["AdamArgs"] = [*offsets, ctypes.sizeof(adam)]
    structs = {struct.__name__ for struct in cuda_args.KernelArgs.__subclasses__()}
    assert structs == set(expected), "a struct of kernel_args.py is not in STRUCTS; add it with its header"
    source.write_text("\n".join(lines) + "\n")
    library = compiled(source)
    for name, layout in expected.items():
        assert list((ctypes.c_size_t * len(layout)).in_dll(library, name)) == layout, name


def test_constants_in_the_order_of_the_kernels():
    names = [name for name, *_ in cuda_args.AdamArgs._fields_][-9:-1]
    text = (CUDA / "include" / "nfc_gs" / "adam.h").read_text().split("struct AdamConstants {")[1].split("};")[0]
    declared = [name for name in text.replace(",", " ").replace(";", " ").split() if name in names]
    assert list(dict.fromkeys(declared)) == names


def test_what_is_read_later_is_what_was_there_when_it_was_asked_for(runtime: Runtime):
    number = torch.tensor([7, 2**40], device=runtime.device)
    read = runtime.read_later(number)
    number += 1
    assert read().tolist() == read().tolist() == [7, 2**40] and read().device.type == "cpu"


# ---- the losses ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "config", [EVERYTHING, ObjectiveConfig(), ObjectiveConfig(ssim=0.0)], ids=["all", "3dgs", "l1"]
)
@pytest.mark.parametrize("masked", [False, True], ids=["", "masked"])
@pytest.mark.parametrize("size", [(37, 50), (16, 16), (5, 3)], ids=str)
def test_the_losses_and_their_gradients_are_those_of_the_reference(
    size: tuple[int, int], masked: bool, config: ObjectiveConfig, taken: Runtime
):
    rendered, target, mask, bits = pictures(*size, masked)
    found = {}
    for name, dtype, compare in (
        ("reference", torch.float64, photometric_reference),
        ("kernels", torch.float32, photometric),
    ):
        device = taken.device if name == "kernels" else "cpu"
        x, p = (tensor.detach().to(device, dtype, copy=True).requires_grad_() for tensor in (rendered, bits))
        photograph, counts = target.to(device), None if mask is None else mask.to(device)
        result = compare(x, photograph, counts, config, p if config.bit_ce else None)
        (3.0 * result.total).backward()
        found[name] = {"total": result.total.detach(), "gradient": x.grad, **result.values}
        if config.bit_ce:
            found[name]["gradient of bits"] = p.grad
    assert found["kernels"].keys() == found["reference"].keys()
    for name, expected in found["reference"].items():
        assert_close(found["kernels"][name], expected)


def test_a_picture_of_which_nothing_counts_costs_nothing(taken: Runtime):
    rendered, target, _, bits = pictures(20, 20, False)
    x, p = (tensor.to(taken.device, torch.float32).requires_grad_() for tensor in (rendered, bits))
    nothing = torch.zeros(20, 20, dtype=torch.uint8, device=taken.device)
    result = photometric(x, target.to(taken.device), nothing, EVERYTHING, p)
    result.total.backward()
    assert result.total == 0.0 and result.values["ssim"] == 1.0
    assert x.grad is not None and p.grad is not None and not x.grad.any() and not p.grad.any()


# ---- Adam, noise, relocation --------------------------------------------------------------------------------------


def test_adam_moves_what_the_reference_moves_and_nothing_else(runtime: Runtime):
    shapes = {"means": (700, 3), "sh": (700, 16, 3), "opacity_logits": (700,), "none": (700, 2)}
    params = {name: random(*shape, seed=k) for k, (name, shape) in enumerate(shapes.items())}
    grads = {name: random(*shape, seed=10 + k) - 0.5 for k, (name, shape) in enumerate(shapes.items())}
    m = {name: random(*shape, seed=20 + k) - 0.5 for k, (name, shape) in enumerate(shapes.items())}
    v = {name: random(*shape, seed=30 + k) for k, (name, shape) in enumerate(shapes.items())}
    visible = random(700, seed=40) < 0.6
    rates = {"means": 0.1, "sh": (0.1, 0.02, 3), "opacity_logits": 0.3, "none": 1.0}
    constants = AdamConstants(0.9, 0.999, 1e-15, 1.0 - 0.9**7, 1.0 - 0.999**7)
    results = []
    for device, dtype in (("cpu", torch.float64), (runtime.device, torch.float32)):
        copies = [
            {name: tensor.to(device, dtype, copy=True) for name, tensor in tensors.items()}
            for tensors in (params, grads, m, v)
        ]
        given = {**copies[1], "none": None}
        seen = visible.to(device)
        if dtype == torch.float64:
            adam_step_reference(copies[0], given, copies[2], copies[3], seen, rates, constants)
        else:
            gpu.adam_step(runtime, copies[0], given, copies[2], copies[3], seen, rates, constants)
        results.append([copies[0], copies[2], copies[3]])
    for expected, actual, before in zip(*results, (params, m, v), strict=True):
        for name in shapes:
            assert_close(actual[name], expected[name])
            assert torch.equal(actual[name].cpu()[~visible], before[name][~visible].float())
        assert torch.equal(actual["none"].cpu(), before["none"].float())


def test_adam_takes_any_number_of_tensors_of_any_shape(taken: Runtime):
    shapes = [(k % 5 + 1, 3 * k + 1) for k in range(cuda_args.MAX_PARAMETERS + 3)]
    results = []
    for device, dtype in ((taken.device, torch.float32), ("cpu", torch.float64)):
        params = {str(k): random(*shape, seed=k).to(device, dtype) for k, shape in enumerate(shapes)}
        optimizer = DenseAdam(params)  # in float64 the reference
        for step in range(3):
            slopes = [random(*shape, seed=100 * step + k) - 0.5 for k, shape in enumerate(shapes)]
            grads = {str(k): slope.to(device, dtype) for k, slope in enumerate(slopes)}
            optimizer.step(grads, {str(k): 0.01 * (k + 1) for k in range(len(shapes))})
        results.append(optimizer.params)
    for name, expected in results[1].items():
        assert_close(results[0][name], expected)


def test_the_optimizer_of_gaussians_uses_the_kernel(taken: Runtime):
    params = {"means": torch.zeros(4, 3, device=taken.device)}
    visible = torch.tensor([True, False, True, False], device=taken.device)
    VisibleAdam(params).step({"means": torch.ones_like(params["means"])}, visible, {"means": 0.5})
    assert_close(params["means"], torch.where(visible, -0.5, 0.0)[:, None].expand(4, 3))


@pytest.mark.skipif(not native.available(), reason="compares with the compiled core")
def test_the_noise_is_that_of_the_cpu_core(runtime: Runtime, operations: Operations):
    before = gaussians(500)
    moved = []
    for device, chosen in (("cpu", CPU), (runtime.device, operations)):
        tensors = {name: tensor.to(device, copy=True) for name, tensor in before.items()}
        density_ops.mcmc_noise_(**tensors, strength=0.3, seed=2**63 + 5, step=11, operations=chosen)
        moved.append(tensors["means"].cpu() - before["means"])
    assert 50 < int((moved[0] != 0).any(1).sum()) < 450 and not moved[0][-1].any()
    assert_close(moved[1], moved[0])


def test_copies_share_opacity_and_scale_as_the_reference_has_it(runtime: Runtime, operations: Operations):
    before = gaussians(300)
    generator = torch.Generator().manual_seed(6)
    sources = torch.cat([torch.randint(0, 300, (200,), generator=generator), torch.full((80,), 7)])
    results = []
    for device, chosen in (("cpu", REFERENCE), (runtime.device, operations)):
        tensors = {name: tensor.to(device, copy=True) for name, tensor in before.items()}
        density_ops.relocate_sources_(tensors, sources.to(device), 0.005, chosen)
        results.append(tensors)
    assert not torch.equal(results[0]["log_scales"], before["log_scales"])
    for name, expected in results[0].items():
        assert_close(results[1][name], expected)


# ---- deformation --------------------------------------------------------------------------------------------------


def small_planes(device: torch.device) -> list[Tensor]:
    planes = planes_of(HexPlaneConfig(features=16, resolution=3), 3)
    return [plane.to(device, torch.float32).requires_grad_() for plane in planes]


@pytest.mark.parametrize("at_once", [2**16, 64], ids=["all at once", "in parts"])
@pytest.mark.parametrize("features", [16, 32, 40])
@pytest.mark.parametrize("time", [0.3, -1.0, 1.0])
def test_the_look_up_and_its_gradients_are_those_of_the_reference(
    time: float, features: int, at_once: int, runtime: Runtime, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(gpu, "POINTS_AT_ONCE", at_once)
    planes = planes_of(HexPlaneConfig(features=features, resolution=5, levels=(1, 2)), 4)
    coords = 2.4 * random(150, 3, seed=50) - 1.2
    coords[:60] = 0.05 * coords[:60]  # crowds in one cell, and points beyond the box
    coords[60] = torch.tensor([-1.0, 1.0, 0.0])
    weights = random(150, 2 * features, seed=51) - 0.5
    results = []
    for device, dtype in (("cpu", torch.float64), (runtime.device, torch.float32)):
        inputs = [tensor.detach().to(device, dtype, copy=True).requires_grad_() for tensor in (coords, *planes)]
        if dtype == torch.float64:
            out = hexplane_features_reference(inputs[1:], inputs[0], time)
        else:
            out = gpu.hexplane_features(runtime, inputs[1:], inputs[0], time)
        (out * weights.to(device, dtype)).sum().backward()
        results.append([out.detach(), *(tensor.grad for tensor in inputs)])
    for expected, actual in zip(*results, strict=True):
        assert_close(actual, expected)


def test_no_points_get_no_features_and_give_no_gradient(runtime: Runtime):
    planes = small_planes(runtime.device)
    out = gpu.hexplane_features(runtime, planes, torch.zeros(0, 3, device=runtime.device), 0.0)
    out.sum().backward()
    assert out.shape == (0, 32) and all(plane.grad is not None and not plane.grad.any() for plane in planes)


def test_a_point_that_is_not_a_number_harms_no_other(runtime: Runtime):
    planes = small_planes(runtime.device)
    coords = (random(5, 3) - 0.5).to(runtime.device, torch.float32)
    whole = gpu.hexplane_features(runtime, planes, coords, 0.0)
    coords = coords.clone()
    coords[2, 1] = math.nan
    broken = gpu.hexplane_features(runtime, planes, coords, 0.0)
    broken.sum().backward()
    others = [0, 1, 3, 4]
    assert torch.equal(broken[others], whole[others])
    assert all(plane.grad is not None and plane.grad.isfinite().all() for plane in planes)


def test_more_levels_than_there_is_room_for_are_refused(runtime: Runtime):
    planes = [plane.float() for plane in planes_of(HexPlaneConfig(features=16, resolution=2, levels=(1,) * 9), 2)]
    with pytest.raises(ValueError, match="at most 8 levels on a GPU, not 9"):
        gpu.hexplane_features(runtime, planes, torch.zeros(1, 3), 0.0)


@pytest.mark.parametrize(
    "weights", [(0.3, 0.0, 0.0, 0.0), (0.0, 0.3, 0.0, 0.0), (0.0, 0.0, 0.3, 0.0), (0.1, 0.2, 0.3, 0.4)]
)
@pytest.mark.parametrize("shape", [(7, 9, 16), (2, 2, 5)], ids=str)
def test_regularisers_of_planes_are_those_of_the_reference(
    shape: tuple[int, int, int], weights: tuple[float, float, float, float], runtime: Runtime, operations: Operations
):
    plane, before = random(*shape) + 0.5, random(*shape, seed=1)
    plane[0, 0, 0] = 1.0  # where the distance from 1 has no slope
    expected, actual = before.clone(), before.to(runtime.device, torch.float32)
    add_plane_regulariser_gradient_reference(plane, expected, *weights)
    add_plane_regulariser_gradient(plane.to(actual), actual, *weights, operations)
    assert_close(actual, expected)


# ---- a whole training ---------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.skipif(not native.available(), reason="compares with the compiled core")
@pytest.mark.usefixtures("small_images_may_be_smaller_still")
def test_a_training_by_gpu_kernels_alone_goes_as_on_the_cpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Rendering, motion, losses, Adam, noise and relocation; rounding makes the runs part slowly."""
    open_engine("emulated-float32")
    emulator = Emulator()
    monkeypatch.setitem(BACKENDS, "emulated", type("Emulated", (CudaBackend,), {"devices": ("cpu",)}))
    psnrs = {}
    for backend, operations in (("cpu", CPU), ("emulated", gpu_operations(emulator))):
        monkeypatch.setattr(operations_module, "_fastest", lambda device, operations=operations: operations)
        wanted = moving_config(method="nfc-bitwise", steps=24, motion="hexplane", backend=backend)
        trainer = Trainer(moving_scene(), wanted, tmp_path / backend, capture="tiny")
        before = psnr(trainer)
        trainer.train()
        psnrs[backend] = psnr(trainer)
        assert psnrs[backend] > before + 0.5
    # The multiplications and additions that NVRTC fuses round once instead of twice, which parts the runs sooner.
    limit = 0.15 if emulator.architecture else 0.1
    assert psnrs["emulated"] == pytest.approx(psnrs["cpu"], abs=limit)


# ---- which operations are used --------------------------------------------------------------------------------------


def test_what_is_not_float32_is_left_to_the_references(taken: Runtime):
    rendered, target, _, _ = pictures(8, 8, False)
    result = photometric(rendered, target, None, replace(EVERYTHING, bit_ce=0.0))
    assert result.total.dtype == torch.float64
    assert operations_for(taken.device, torch.float64) is REFERENCE
    assert operations_for(taken.device).name == "gpu"


# ---- what kernels refuse ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"mask": torch.zeros(5, 6, dtype=torch.uint8)}, r"mask has shape \(5, 6\), expected \[H, W\]"),
        ({"mask": torch.zeros(5, 7)}, r"mask has dtype torch.float32, expected torch.uint8"),
        ({"target": torch.zeros(5, 7, 4, dtype=torch.uint8)}, r"target has shape \(5, 7, 4\)"),
        ({"target": torch.zeros(5, 7, 3)}, r"target has dtype torch.float32, expected torch.uint8"),
        ({"rendered": torch.tensor(1.0)}, r"rendered has shape \(\)"),
        ({"rendered": torch.zeros(5, 7, 3, dtype=torch.float64)}, r"rendered has dtype torch.float64"),
    ],
)
def test_losses_refuse_images_and_masks_that_do_not_fit(runtime: Runtime, changes: dict[str, Tensor], sentence: str):
    images = {
        "rendered": torch.zeros(5, 7, 3),
        "target": torch.zeros(5, 7, 3, dtype=torch.uint8),
        "mask": torch.zeros(5, 7, dtype=torch.uint8),
    }
    given = {name: tensor.to(runtime.device) for name, tensor in {**images, **changes}.items()}
    weights = LossWeights(1.0, 1.0, 1.0, 1.0, 0.1)
    with pytest.raises(ValueError, match=sentence):
        gpu.photometric_loss(runtime, given["rendered"], given["target"], given["mask"], weights)


def test_adam_refuses_gradients_moments_and_rows_that_do_not_fit(runtime: Runtime):
    def step(**changes: Tensor) -> None:
        given = {name: torch.ones(4, 3) for name in ("value", "gradient", "m", "v")}
        given = {**given, "visible": torch.ones(4, dtype=torch.bool), **changes}
        there = {name: tensor.to(runtime.device) for name, tensor in given.items()}
        by_name = ({"means": there[name]} for name in ("value", "gradient", "m", "v"))
        constants = AdamConstants(0.9, 0.99, 1e-8, 0.1, 0.01)
        gpu.adam_step(runtime, *by_name, there["visible"], {"means": 0.1}, constants)

    step()
    for name in ("gradient", "m", "v"):
        with pytest.raises(ValueError, match=rf"{name} of means has shape \(4, 2\), expected \[4, 3\]"):
            step(**{name: torch.ones(4, 2)})
    with pytest.raises(ValueError, match=r"visible has shape \(3,\), expected \[4\]"):
        step(visible=torch.ones(3, dtype=torch.bool))
    with pytest.raises(ValueError, match=r"visible has dtype torch.uint8, expected torch.bool"):
        step(visible=torch.ones(4, dtype=torch.uint8))


def test_planes_that_make_no_whole_level_are_refused(runtime: Runtime):
    planes = [torch.ones(2, 2, 16, device=runtime.device) for _ in range(7)]
    coords = torch.zeros(3, 3, device=runtime.device)
    with pytest.raises(ValueError, match="six planes per level, not 7 in all"):
        gpu.hexplane_features(runtime, planes, coords, 0.0)
    with pytest.raises(ValueError, match=r"plane 1 has shape \(2, 2, 32\).*F is 32 here but 16 in plane 0"):
        gpu.hexplane_features(runtime, [planes[0], torch.ones(2, 2, 32, device=runtime.device)], coords, 0.0)
    with pytest.raises(ValueError, match=r"gradient has shape \(2, 3, 16\)"):
        gpu.add_plane_regulariser_gradient(
            runtime, planes[0], torch.zeros(2, 3, 16, device=runtime.device), 1.0, 0.0, 0.0, 0.0
        )


def test_the_fields_of_a_kernel_refuse_what_does_not_fit_them():
    args = cuda_args.BitLossArgs()
    with pytest.raises(ValueError, match="count is 2147483648, which is more than the kernels count to"):
        args.set(count=2**31)
    with pytest.raises(ValueError, match="target is not contiguous"):
        args.set(target=torch.zeros(4, 4)[:, ::2])
    args.set(count=2**31 - 1)
    assert args.count == 2**31 - 1
