"""The compiled core alone: threads, instruction sets, reuse of memory, noise, and its environment variable."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from command_line import HERE
from losses import photometric, photometric_reference

from nfc_gs.core.camera import Camera, look_at_viewmat
from nfc_gs.core.errors import UserError
from nfc_gs.objective.objective import ObjectiveConfig
from nfc_gs.ops import native
from nfc_gs.ops.operations import operations_for
from nfc_gs.rendering.backend import RasterSettings, SplatInfo, Splats, color_channels
from nfc_gs.rendering.registry import get_backend
from nfc_gs.training.density_ops import mcmc_noise_

pytestmark = [
    pytest.mark.skipif(not native.available(), reason="the compiled core is not built"),
    pytest.mark.usefixtures("same_core_afterwards"),
]

INSTRUCTION_SETS = ("baseline", "avx2", "avx512")

KERNELS = Path(__file__).resolve().parents[1] / "cuda" / "cpu" / "kernels"


COLORS = {"sh": (None, False), "shared": ("shared", False), "full": ("full", False), "bit planes": ("shared", True)}
"""View dependence of the bits (None: SH instead), and whether they are composited as they are."""


def some_splats(count: int = 3000, seed: int = 0, bit_view: str | None = None) -> Splats:
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator)

    return Splats(
        means=normal(count, 3).mul_(0.9).requires_grad_(),
        quats=normal(count, 4).requires_grad_(),
        scales=(normal(count, 3) * 0.5 - 3.0).exp().requires_grad_(),
        opacities=normal(count).mul_(2.0).sigmoid().requires_grad_(),
        sh_coeffs=None if bit_view else normal(count, 16, 3).mul_(0.3).requires_grad_(),
        features=normal(count, 3).requires_grad_(),
        bit_logits=normal(count, 24).requires_grad_() if bit_view else None,
        bit_shifts=normal(count, 15, 3 if bit_view == "shared" else 24).requires_grad_() if bit_view else None,
    )


def some_camera(width: int = 150, height: int = 97) -> Camera:
    eye, target, up = (torch.tensor(v) for v in ([0.2, -0.1, -3.0], [0.0, 0.0, 0.0], [0.0, -1.0, 0.0]))
    return Camera(look_at_viewmat(eye, target, up).requires_grad_(), 130.0, 125.0, 70.0, 50.0, width, height)


def draw_and_differentiate(splats: Splats, camera: Camera, bits: bool = False) -> list[torch.Tensor]:
    """Picture, alpha, depth, radii and every gradient."""
    settings = RasterSettings(3, depth=True, bits=bits)
    channels = color_channels(splats, settings) + 3
    background = torch.rand(channels, generator=torch.Generator().manual_seed(9)).requires_grad_()
    given = [tensor for tensor in vars(splats).values() if tensor is not None]
    inputs = [*given, camera.viewmat, background]
    out = get_backend("cpu").render(splats, camera, settings, background)
    assert out.depth is not None
    weights = torch.rand(out.features.shape, generator=torch.Generator().manual_seed(1))
    loss = (out.features * weights).sum() + out.alpha.square().sum() + out.depth.mean()
    grads = torch.autograd.grad(loss, inputs)
    assert out.info.means2d_grad is not None
    return [out.features, out.alpha, out.depth, out.info.radii, out.info.means2d_grad, *grads]


@pytest.mark.parametrize("color", COLORS)
def test_pictures_and_gradients_are_the_same_bits_for_any_number_of_threads(color: str) -> None:
    bit_view, bits = COLORS[color]
    splats, camera = some_splats(bit_view=bit_view), some_camera()
    results = []
    for threads in (1, 2, 3, 7):
        native.set_threads(threads)
        results.append(draw_and_differentiate(splats, camera, bits))
    for other in results[1:]:
        for first, second in zip(results[0], other, strict=True):
            assert torch.equal(first, second)


EVERY_TERM = ObjectiveConfig(l1=0.8, mse=0.3, ssim=0.2, ce=0.1, bit_ce=0.4)


def loss_and_gradients(height: int, width: int, dtype: torch.dtype, masked: bool = True) -> list[torch.Tensor]:
    """The sum of all terms, each value and both gradients; some colors and bits are clipped."""
    generator = torch.Generator().manual_seed(0)
    target = torch.randint(0, 256, (height, width, 3), generator=generator, dtype=torch.uint8)
    mask = torch.randint(0, 2, (height, width), generator=generator, dtype=torch.uint8) * 255
    mask[0, 0] = 255
    rendered = (1.2 * torch.rand(height, width, 3, generator=generator) - 0.1).to(dtype).requires_grad_()
    bits = (1.02 * torch.rand(height, width, 24, generator=generator) - 0.01).to(dtype).requires_grad_()
    measure = photometric if dtype == torch.float32 else photometric_reference
    loss = measure(rendered, target, mask if masked else None, EVERY_TERM, bits)
    return [loss.total.detach(), *loss.values.values(), *torch.autograd.grad(loss.total, [rendered, bits])]


def test_the_loss_and_its_gradient_are_the_same_bits_for_any_number_of_threads() -> None:
    results = []
    for threads in (1, 2, 3):
        native.set_threads(threads)
        results.append(loss_and_gradients(131, 97, torch.float32))
    for other in results[1:]:
        for first, second in zip(results[0], other, strict=True):
            assert torch.equal(first, second)


@pytest.mark.parametrize("color", COLORS)
@pytest.mark.parametrize("name", INSTRUCTION_SETS)
def test_every_instruction_set_draws_what_the_best_one_draws(name: str, color: str) -> None:
    bit_view, bits = COLORS[color]
    splats, camera = some_splats(bit_view=bit_view), some_camera()
    best = draw_and_differentiate(splats, camera, bits)
    if not native.core().use_instruction_set(name):
        pytest.skip(f"this machine has no {name}")
    assert native.core().instruction_set() == name
    other = draw_and_differentiate(splats, camera, bits)
    for picture, twin in zip(best[:3], other[:3], strict=True):
        # A pixel on the edge of a splat may fall on either side of alpha = 1/255, worth 0.004 of a feature of about 4.
        assert (picture - twin).abs().max() < 2e-2
        assert (picture - twin).abs().mean() < 1e-5
    for gradient, twin in zip(best[4:], other[4:], strict=True):
        assert (gradient - twin).abs().max() <= 1e-3 * gradient.abs().max()


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("size", [(1, 1), (3, 7), (29, 33), (5, 300), (2, 513)])  # chunks are 256 and 32 pixels wide
@pytest.mark.parametrize("name", INSTRUCTION_SETS)
def test_every_instruction_set_measures_every_term_as_the_reference_does(
    name: str, size: tuple[int, int], masked: bool
) -> None:
    if not native.core().use_instruction_set(name):
        pytest.skip(f"this machine has no {name}")
    expected = loss_and_gradients(*size, torch.float64, masked)
    actual = loss_and_gradients(*size, torch.float32, masked)
    assert len(expected) == len(actual) == 8
    for twin, value in zip(actual, expected, strict=True):
        # Rounded once, a color near a clip lies up to 6e-8 / 1e-3 of 1 / c aside.
        limit = 2e-4 * float(value.abs().max())
        torch.testing.assert_close(twin.double(), value.double(), rtol=0, atol=limit)


@pytest.mark.parametrize("name", INSTRUCTION_SETS)
def test_every_instruction_set_measures_the_loss_alike(name: str) -> None:
    rendered = torch.rand(45, 51, 3, generator=torch.Generator().manual_seed(0), requires_grad=True)
    target = torch.full((45, 51, 3), 99, dtype=torch.uint8)
    best = photometric(rendered, target, None, ObjectiveConfig())
    (best_gradient,) = torch.autograd.grad(best.total, rendered)
    if not native.core().use_instruction_set(name):
        pytest.skip(f"this machine has no {name}")
    other = photometric(rendered, target, None, ObjectiveConfig())
    (gradient,) = torch.autograd.grad(other.total, rendered)
    torch.testing.assert_close(other.total, best.total, rtol=1e-6, atol=0)
    torch.testing.assert_close(gradient, best_gradient, rtol=1e-3, atol=1e-4 * float(best_gradient.abs().max()))


def test_an_unknown_instruction_set_is_refused() -> None:
    assert not native.core().use_instruction_set("sse9")


def test_renderings_whose_backward_passes_come_late_keep_their_own_memory() -> None:
    splats, camera = some_splats(400), some_camera(60, 50)
    other = some_splats(700, seed=3)
    backend = get_backend("cpu")

    def gradient(of: Splats, between: bool) -> torch.Tensor:
        out = backend.render(of, camera, RasterSettings(2))
        if between:  # other renderings before the backward pass
            draw_and_differentiate(other, camera)
            with torch.no_grad():
                backend.render(other, camera, RasterSettings(1))
        (grad,) = torch.autograd.grad(out.features.sum(), of.means)
        return grad

    assert torch.equal(gradient(splats, False), gradient(splats, True))


def test_a_second_backward_pass_through_one_rendering_gives_the_same_gradients() -> None:
    splats, camera = some_splats(300), some_camera(40, 30)
    out = get_backend("cpu").render(splats, camera, RasterSettings(3))
    (first,) = torch.autograd.grad(out.features.sum(), splats.means, retain_graph=True)
    draw_and_differentiate(some_splats(500, seed=8), camera)
    (second,) = torch.autograd.grad(out.features.sum(), splats.means)
    assert torch.equal(first, second)


def test_changing_a_parameter_between_forward_and_backward_is_an_error() -> None:
    splats = some_splats(50)
    out = get_backend("cpu").render(splats, some_camera(40, 30), RasterSettings(3))
    with torch.no_grad():
        splats.means.add_(1.0)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        out.features.sum().backward()


def test_two_python_threads_can_draw_at_once() -> None:
    splats, camera = some_splats(2000), some_camera()
    expected = draw_and_differentiate(splats, camera)
    failures: list[int] = []

    def work() -> None:
        for _ in range(5):
            result = draw_and_differentiate(splats, camera)
            failures.extend(i for i, pair in enumerate(zip(result, expected, strict=True)) if not torch.equal(*pair))

    workers = [threading.Thread(target=work) for _ in range(3)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert not failures


def test_visible_counts_the_splats_that_were_drawn() -> None:
    splats, camera = some_splats(500), some_camera()
    info = get_backend("cpu").render(splats, camera, RasterSettings(0)).info
    assert isinstance(info, SplatInfo)
    assert 0 < int(info.visible.sum()) < 500
    assert torch.equal(info.visible, info.radii[:, 1] > 0)


def noise_of(count: int, logit: float, seed: int = 0, step: int = 1, strength: float = 1.0) -> torch.Tensor:
    means = torch.zeros(count, 3)
    quats = torch.tensor([0.8, 0.1, -0.5, 0.3]).repeat(count, 1)
    log_scales = torch.tensor([0.5, 1.0, 2.0]).log().repeat(count, 1)
    geometry = (means, quats, log_scales, torch.full((count,), logit))
    mcmc_noise_(*geometry, strength, seed, step, operations_for("cpu"))
    return means


def test_noise_has_the_covariance_of_the_squared_gaussian() -> None:
    count = 200_000
    noise = noise_of(count, logit=-20.0).double()  # opacity 0: the gate is sigmoid(0.5)
    w, x, y, z = (torch.tensor([0.8, 0.1, -0.5, 0.3]).double() / np.sqrt(0.99)).tolist()
    rotation = torch.tensor(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
            [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
            [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
        ]
    ).double()
    covariance = rotation @ torch.diag(torch.tensor([0.25, 1.0, 4.0]).double()) @ rotation.T
    gate = torch.sigmoid(torch.tensor(0.5)).double()
    expected = gate**2 * covariance @ covariance
    measured = noise.T @ noise / count
    # 200 000 samples leave a relative error of about 0.3 % (sqrt(2 / n)); five of these
    assert (measured - expected).abs().max() < 0.016 * expected.abs().max()
    assert noise.mean(0).abs().max() < 5 * float(expected.max()) ** 0.5 / count**0.5


def test_noise_leaves_solid_gaussians_alone_and_depends_on_seed_step_and_row_only() -> None:
    assert noise_of(10, logit=0.0).abs().max() == 0.0
    one = noise_of(50, logit=-8.0)
    assert torch.equal(one, noise_of(50, logit=-8.0))
    assert torch.equal(one[:20], noise_of(20, logit=-8.0))
    assert not torch.equal(one, noise_of(50, logit=-8.0, seed=1))
    assert not torch.equal(one, noise_of(50, logit=-8.0, step=2))
    assert len({tuple(row) for row in one.tolist()}) == 50


def test_noise_is_the_same_bits_for_any_number_of_threads() -> None:
    results = []
    for threads in (1, 2, 3):
        native.set_threads(threads)
        results.append(noise_of(5000, logit=-6.0))
    assert torch.equal(results[0], results[1]) and torch.equal(results[0], results[2])


@pytest.fixture
def core_is_loaded_anew() -> Iterator[None]:
    """The next use of the core reads the environment, as the first one of a process does."""
    native.core.cache_clear()
    yield
    native.core.cache_clear()


def test_the_environment_variable_sets_the_number_of_threads(
    core_is_loaded_anew: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NFC_GS_THREADS", "3")
    assert native.threads() == 3


def test_a_thread_count_that_is_no_number_gives_one_sentence(
    core_is_loaded_anew: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NFC_GS_THREADS", "many")
    expected = "NFC_GS_THREADS is 'many'; set it to a number of threads from 1 to 1024, or unset it."
    with pytest.raises(UserError, match=f"^{re.escape(expected)}$"):
        native.core()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_the_core_works_in_a_forked_process() -> None:
    code = """
import os, sys, torch
sys.path.insert(0, os.getcwd())
from nfc_gs.ops import native
from nfc_gs.rendering.backend import RasterSettings
from nfc_gs.rendering.registry import get_backend
from splat_scenes import cast, make_camera, make_splats
native.set_threads(3)
splats, camera = cast(make_splats(300), torch.float32), make_camera(40, 30).to(dtype=torch.float32)
with torch.no_grad():
    first = get_backend("cpu").render(splats, camera, RasterSettings(3)).features
child = os.fork()
if child == 0:
    with torch.no_grad():
        again = get_backend("cpu").render(splats, camera, RasterSettings(3)).features
    os._exit(0 if torch.equal(first, again) else 1)
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=HERE, check=False)
    assert result.stdout.strip() == "0", result.stderr


def test_arrays_that_are_written_to_are_never_converted_to_a_copy() -> None:
    core = native.core()
    rendered, target = np.zeros((4, 5, 3), np.float32), np.zeros((4, 5, 3), np.uint8)
    turned = np.zeros((3, 5, 4), np.float32).T
    weights = core.LossWeights(0.8, 0.1, 0.2, 0.3, 1e-3)
    core.photometric_loss(rendered, target, None, weights, np.zeros((4, 5, 3), np.float32))
    with pytest.raises(TypeError):
        core.photometric_loss(rendered, target, None, weights, turned)
    bits = np.zeros((4, 5, 24), np.float32)
    core.bit_loss(bits, target, None, 1e-3, np.zeros((4, 5, 24), np.float32))
    with pytest.raises(TypeError):
        core.bit_loss(bits, target, None, 1e-3, np.zeros((24, 5, 4), np.float32).T)
    with pytest.raises(TypeError):
        core.adam(np.zeros((4, 3)), *(np.zeros((4, 3), np.float32) for _ in range(3)), None, [1.0] * 3, *[0.9] * 5)


def test_the_loss_of_a_picture_that_is_not_contiguous_has_its_gradient() -> None:
    target = torch.randint(0, 256, (20, 30, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    plain = torch.rand(20, 30, 3, generator=torch.Generator().manual_seed(2))
    turned = plain.permute(2, 1, 0).contiguous().permute(2, 1, 0).requires_grad_()
    plain.requires_grad_()
    gradients = [
        torch.autograd.grad(photometric(x, target, None, ObjectiveConfig()).total, x)[0] for x in (plain, turned)
    ]
    assert not turned.is_contiguous()
    assert torch.equal(*gradients)


@pytest.mark.parametrize("name", INSTRUCTION_SETS)
def test_losses_do_not_depend_on_what_the_stack_held_before(name: str) -> None:
    """Rows that fill no whole vector once read beyond their end, where an earlier call may have left NaN."""
    if not native.core().use_instruction_set(name):
        pytest.skip(f"this machine has no {name}")
    native.set_threads(1)
    config = ObjectiveConfig(mse=1.0, ce=1.0, bit_ce=1.0)
    nothing, black = torch.full((4, 300, 24), torch.nan), torch.zeros(4, 300, 3, dtype=torch.uint8)
    for width in range(1, 40):
        assert photometric(nothing[..., :3], black, None, config, nothing).total.isnan()
        grey, target = torch.full((4, width, 24), 0.5), black[:, :width].contiguous()
        fast = photometric(grey[..., :3], target, None, config, grey)
        exact = photometric_reference(grey[..., :3].double(), target, None, config, grey.double())
        assert fast.total.item() == pytest.approx(exact.total.item(), rel=1e-5)


@pytest.mark.parametrize("name", INSTRUCTION_SETS)
def test_a_bit_that_is_not_a_number_makes_the_bit_loss_one_too(name: str) -> None:
    if not native.core().use_instruction_set(name):
        pytest.skip(f"this machine has no {name}")
    bits = torch.full((3, 5, 24), 0.5)
    bits[1, 2, 3] = torch.nan
    values = photometric(
        bits[..., :3], torch.zeros(3, 5, 3, dtype=torch.uint8), None, ObjectiveConfig(bit_ce=1.0), bits
    )
    assert values.values["bit_ce"].isnan()


@pytest.mark.parametrize("name", INSTRUCTION_SETS)
@pytest.mark.parametrize("size", [(20000, 3), (3, 20000)])
def test_rows_and_columns_of_20000_pixels_are_those_of_a_small_picture(name: str, size: tuple[int, int]) -> None:
    """A splat at one end, whose exponent is far out of range at the other."""
    if not native.core().use_instruction_set(name):
        pytest.skip(f"this machine does not have {name}")
    splats = some_splats(count=40)
    width, height = size
    center = torch.eye(4)
    center[2, 3] = 3.0

    def draw(width: int, height: int) -> torch.Tensor:
        camera = Camera(center, 4.0, 4.0, 1.5, 1.5, width, height)
        return get_backend("cpu").render(splats, camera, RasterSettings(3)).features

    wide, small = draw(width, height), draw(min(width, 64), min(height, 64))
    assert torch.equal(wide[:64, :64], small)
    assert small.count_nonzero() > 20 and not wide[64:].any() and not wide[:, 64:].any()


OUT_OF_RANGE = """
#define NFC_ISA baseline
#include "simd.h"
#include <cstdio>
#include <initializer_list>
int main() {
  float sum = 0.0f;
  for (float t : {0.0f, 1.0f, -130.0f, -1e4f, -1e9f, -3e38f, 130.0f, 1e9f, 3e38f})
    sum += nfc::exp_2(nfc::broadcast(t))[0] * 0.0f + nfc::sigmoid(nfc::broadcast(t))[0];
  for (float a : {1e-38f, 1.0f, -1.0f, -3e38f, 0.0f, 3e38f}) sum += nfc::log_2(nfc::broadcast(a))[0] * 0.0f;
  std::printf("%f", double(sum));
}
"""


@pytest.mark.skipif(
    not KERNELS.is_dir(), reason="the sources of the compiled backends (cuda/) are not beside the tests"
)
def test_the_bits_of_floats_do_not_overflow_where_exponents_are_out_of_range(tmp_path: Path) -> None:
    compiler = os.environ.get("CXX", "c++")
    sanitized = [compiler, "-std=gnu++17", "-fsanitize=undefined", "-fno-sanitize-recover=undefined", f"-I{KERNELS}"]
    (tmp_path / "nothing.cpp").write_text("int main() {}")
    (tmp_path / "simd.cpp").write_text(OUT_OF_RANGE)
    program = str(tmp_path / "program")
    try:
        subprocess.run([*sanitized, str(tmp_path / "nothing.cpp"), "-o", program], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("there is no C++ compiler with UndefinedBehaviorSanitizer")
    subprocess.run([*sanitized, str(tmp_path / "simd.cpp"), "-o", program], check=True)
    result = subprocess.run([program], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr


@pytest.mark.slow
@pytest.mark.parametrize("path", sorted(KERNELS.glob("*.*")), ids=lambda path: path.name)
def test_every_file_of_kernels_compiles_alone(path: Path) -> None:
    """So that editors understand it."""
    compiler = os.environ.get("CXX", "c++")
    if sys.platform == "win32" or shutil.which(compiler) is None:
        pytest.skip("there is no C++ compiler of the kind of g++")
    command = [compiler, "-std=gnu++17", "-fsyntax-only", "-x", "c++", str(path)]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr


def test_the_sources_of_the_kernels_are_found_where_they_are_beside_the_tests() -> None:
    if not KERNELS.parents[1].is_dir():
        pytest.skip("the sources of the compiled backends (cuda/) are not beside the tests")
    assert len(list(KERNELS.glob("*.inl"))) == 13
