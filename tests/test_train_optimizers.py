from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from emulator import Emulator
from random_models import SPLAT_RATES, splats_to_train
from splat_scenes import make_camera, open_engine

from nfc_gs.ops import native
from nfc_gs.ops.operations import CPU, REFERENCE, Operations, gpu_operations
from nfc_gs.rendering.pipeline import render
from nfc_gs.training.density_ops import add_regulariser_gradients_
from nfc_gs.training.optimizers import DenseAdam, VisibleAdam, random_bits, stochastic_bfloat16

needs_core = pytest.mark.skipif(not native.available(), reason="the compiled core is not built")
either = pytest.mark.parametrize("operations", [REFERENCE, pytest.param(CPU, marks=needs_core)], ids=["torch", "cpu"])


def make_params(n: int = 7) -> dict[str, torch.Tensor]:
    g = torch.Generator().manual_seed(0)
    return {
        "means": torch.randn(n, 3, generator=g),
        "opacity_logits": torch.randn(n, generator=g),
        "sh_coeffs": torch.randn(n, 4, 3, generator=g),
    }


def make_grads(params: dict[str, torch.Tensor], seed: int) -> dict[str, torch.Tensor]:
    g = torch.Generator().manual_seed(seed)
    return {name: torch.randn(tensor.shape, generator=g) for name, tensor in params.items()}


RATES = {"means": 1e-2, "opacity_logits": 5e-2, "sh_coeffs": (2e-2, 1e-3, 3)}


def test_with_all_rows_visible_it_is_torchs_adam() -> None:
    ours = make_params()
    theirs = {name: tensor.clone().requires_grad_() for name, tensor in ours.items()}
    base = theirs["sh_coeffs"].detach()[:, :1].clone().requires_grad_()
    rest = theirs["sh_coeffs"].detach()[:, 1:].clone().requires_grad_()
    reference = torch.optim.Adam(
        [
            {"params": [theirs["means"]], "lr": 1e-2},
            {"params": [theirs["opacity_logits"]], "lr": 5e-2},
            {"params": [base], "lr": 2e-2},
            {"params": [rest], "lr": 1e-3},
        ],
        eps=1e-15,
    )
    adam = VisibleAdam(ours)
    for step in range(5):
        grads = make_grads(ours, step)
        adam.step(grads, torch.ones(7, dtype=torch.bool), RATES)
        theirs["means"].grad, theirs["opacity_logits"].grad = grads["means"], grads["opacity_logits"]
        base.grad, rest.grad = grads["sh_coeffs"][:, :1], grads["sh_coeffs"][:, 1:]
        reference.step()
    torch.testing.assert_close(ours["means"], theirs["means"].detach(), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(ours["opacity_logits"], theirs["opacity_logits"].detach(), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(ours["sh_coeffs"], torch.cat([base, rest], 1).detach(), rtol=1e-5, atol=1e-6)


def test_rows_out_of_sight_keep_value_and_moments() -> None:
    params = make_params()
    adam = VisibleAdam(params)
    adam.step(make_grads(params, 0), torch.ones(7, dtype=torch.bool), RATES)
    before = {name: tensor.clone() for name, tensor in {**params, **adam.state()}.items()}
    visible = torch.tensor([True, False, True, False, False, True, False])
    adam.step(make_grads(params, 1), visible, RATES)
    for name, tensor in {**params, **adam.state()}.items():
        assert torch.equal(tensor[~visible], before[name][~visible]), name
        assert not torch.equal(tensor[visible], before[name][visible]), name


def test_the_bias_correction_counts_all_steps() -> None:
    params = {"means": torch.zeros(2, 3)}
    adam = VisibleAdam(params)
    ones = {"means": torch.ones(2, 3)}
    for _ in range(9):
        adam.step(ones, torch.tensor([True, False]), {"means": 1.0})
    adam.step(ones, torch.tensor([False, True]), {"means": 1.0})
    first = (0.1 / (1 - 0.9**10)) / (0.001 / (1 - 0.999**10)) ** 0.5
    torch.testing.assert_close(params["means"][1], torch.full((3,), -first), rtol=1e-5, atol=0)


def test_a_parameter_without_gradient_is_left_alone() -> None:
    params = make_params()
    adam = VisibleAdam(params)
    before = params["means"].clone()
    adam.step({**make_grads(params, 0), "means": None}, torch.ones(7, dtype=torch.bool), RATES)
    assert torch.equal(params["means"], before)


def test_nothing_visible_changes_nothing() -> None:
    params = make_params()
    before = {name: tensor.clone() for name, tensor in params.items()}
    VisibleAdam(params).step(make_grads(params, 0), torch.zeros(7, dtype=torch.bool), RATES)
    assert all(torch.equal(params[name], before[name]) for name in params)


@either
def test_a_parameter_of_no_size_is_no_trouble(operations: Operations) -> None:
    params = {**make_params(), "bit_shifts": torch.zeros(7, 0, 3)}
    adam = VisibleAdam(params, operations)
    grads = {**make_grads(make_params(), 0), "bit_shifts": torch.zeros(7, 0, 3)}
    before = params["means"].clone()
    adam.step(grads, torch.ones(7, dtype=torch.bool), {**RATES, "bit_shifts": 1e-3})
    adam.select(torch.tensor([3, 1]))
    adam.append(2)
    adam.reset_rows(torch.tensor([0]))
    assert adam.m["bit_shifts"].shape == adam.state()["v.bit_shifts"].shape == (4, 0, 3)
    assert not torch.equal(params["means"], before)


@pytest.mark.parametrize("halves", [False, True], ids=["float32", "bfloat16"])
def test_moments_follow_selected_appended_and_reset_rows(halves: bool) -> None:
    params = make_params(4)
    adam = VisibleAdam(params, bfloat16_moments=halves)
    adam.step(make_grads(params, 0), torch.ones(4, dtype=torch.bool), RATES)
    before = adam.m["sh_coeffs"].clone()
    adam.select(torch.tensor([3, 1]))
    adam.append(2)
    assert torch.equal(adam.m["sh_coeffs"], torch.cat([before[[3, 1]], torch.zeros(2, 4, 3, dtype=before.dtype)]))
    adam.bind({name: torch.cat([tensor[[3, 1]], tensor[:2]]) for name, tensor in params.items()})
    adam.reset_rows(torch.tensor([0]), ("sh_coeffs",))
    assert not adam.m["sh_coeffs"][0].any() and not adam.v["sh_coeffs"][0].any()
    assert adam.m["means"][0].any()
    adam.reset_rows(torch.tensor([0, 1]))
    assert not any(tensor.any() for tensor in adam.state().values())


@pytest.mark.parametrize("halves", [False, True], ids=["float32", "bfloat16"])
def test_a_state_taken_up_again_goes_on_with_the_same_bits(halves: bool) -> None:
    params = make_params()
    adam = VisibleAdam(params, bfloat16_moments=halves)
    visible = torch.ones(7, dtype=torch.bool)
    adam.step(make_grads(params, 0), visible, RATES)
    copy = {name: tensor.clone() for name, tensor in params.items()}
    other = VisibleAdam(copy, bfloat16_moments=halves)
    other.load_state({name: tensor.clone() for name, tensor in adam.state().items()}, adam.steps)
    for optimizer, tensors in ((adam, params), (other, copy)):
        for step in range(1, 4):
            optimizer.step(make_grads(tensors, step), visible, RATES)
    assert all(torch.equal(params[name], copy[name]) for name in params)
    assert all(torch.equal(tensor, other.state()[name]) for name, tensor in adam.state().items())


def test_moments_of_another_type_are_refused() -> None:
    state = VisibleAdam(make_params()).state()
    with pytest.raises(ValueError, match=r"m\.means is of torch\.float32, expected torch\.bfloat16"):
        VisibleAdam(make_params(), bfloat16_moments=True).load_state(state, 1)


@either
def test_moments_of_two_bytes_follow_those_of_four_and_never_stand_still(operations: Operations) -> None:
    n = 2000
    averages = {}
    for halves in (False, True):
        params = {"means": torch.zeros(n, 3)}
        adam = VisibleAdam(params, operations, bfloat16_moments=halves)
        adam.v["means"].fill_(1.0)
        for step in range(400):  # each takes 0.1 % of the second moment, less than a bfloat16 shows
            grads = {"means": torch.full((n, 3), 0.01 if step % 2 else -0.005)}
            adam.step(grads, torch.ones(n, dtype=torch.bool), {"means": 1e-3})
        averages[halves] = [tensor.float().mean() for tensor in (params["means"], adam.m["means"], adam.v["means"])]
        assert adam.v["means"].dtype == (torch.bfloat16 if halves else torch.float32)
    assert 0.66 < float(averages[False][2]) < 0.68
    for expected, found in zip(averages[False], averages[True], strict=True):
        torch.testing.assert_close(found, expected, rtol=2e-3, atol=0)


def test_rounding_at_random_takes_either_neighbour_and_the_mean_is_the_value() -> None:
    values = torch.tensor([1.0, -1.0 - 3 / 1024, 3e-20, 1e-40, 0.0, torch.inf])[:, None].repeat(1, 40_000)
    for step in (1, 2, 12345):
        random = random_bits(step, torch.arange(40_000).repeat(6, 1))
        for part in (random & 0xFFFF, random >> 16):
            found = stochastic_bfloat16(values, part)
            assert torch.equal(found[[0, 4, 5]].float(), values[[0, 4, 5]])  # what a bfloat16 holds stays
            for row in (1, 2, 3):
                low, high = found[row].double().unique()
                assert abs(found[row].double().mean() - values[row, 0]) < 0.01 * (high - low)


def test_a_negative_zero_and_what_is_not_finite_stay_what_they_are() -> None:
    values = torch.tensor([-0.0, -torch.inf, torch.nan])
    found = stochastic_bfloat16(values, torch.tensor([0xFFFF, 0xFFFF, 0xFFFF])).float()
    assert torch.signbit(found[0]) and found[0] == 0.0 and found[1] == -torch.inf and found[2].isnan()


@needs_core
@pytest.mark.parametrize("n", [1, 7, 1000])
def test_the_compiled_step_computes_what_the_reference_computes(n: int) -> None:
    params = make_params(n)
    copy = {name: tensor.clone() for name, tensor in params.items()}
    ours, reference = VisibleAdam(params), VisibleAdam(copy, REFERENCE)
    for step in range(3):
        grads = make_grads(params, step)
        visible = torch.rand(n, generator=torch.Generator().manual_seed(step)) < 0.6
        ours.step(grads, visible, RATES)
        reference.step(grads, visible, RATES)
    for name in params:
        torch.testing.assert_close(params[name], copy[name], rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(ours.v[name], reference.v[name], rtol=1e-5, atol=1e-12)


def moments_after_a_step(operations: Operations) -> dict[str, torch.Tensor]:
    """Moments in bfloat16 of the gradients alone, whatever the order of the arithmetic; columns of many numbers."""
    g = torch.Generator().manual_seed(1)
    params = {str(columns): torch.randn(301, columns, generator=g) for columns in (1, 3, 4, 7, 16, 24, 45, 48)}
    adam = VisibleAdam(params, operations, betas=(0.0, 0.0), bfloat16_moments=True)
    for _ in range(2):
        grads = {name: torch.randn(tensor.shape, generator=g) for name, tensor in params.items()}
        adam.step(grads, torch.rand(301, generator=g) < 0.7, dict.fromkeys(params, 0.1))
    return adam.state()


@needs_core
@pytest.mark.usefixtures("same_core_afterwards")
def test_the_compiled_step_rounds_to_the_bits_of_the_reference() -> None:
    expected = moments_after_a_step(REFERENCE)
    for name in ("baseline", "avx2", "avx512"):
        if native.core().use_instruction_set(name):
            found = moments_after_a_step(CPU)
            assert all(torch.equal(tensor, found[key]) for key, tensor in expected.items()), name


def test_gpu_kernels_round_to_the_bits_of_the_reference() -> None:
    expected, found = moments_after_a_step(REFERENCE), moments_after_a_step(gpu_operations(Emulator()))
    assert all(torch.equal(tensor, found[key]) for key, tensor in expected.items())


@either
def test_dense_adam_is_torchs_adam_for_tensors_of_any_shape(operations: Operations) -> None:
    g = torch.Generator().manual_seed(0)
    shapes, rates = {"plane": (5, 7, 16), "bias": (3,), "weight": (4, 6)}, {"plane": 0.1, "bias": 0.02, "weight": 0.003}
    start = {name: torch.randn(shape, generator=g) for name, shape in shapes.items()}
    ours = {name: tensor.clone() for name, tensor in start.items()}
    theirs = {name: torch.nn.Parameter(tensor.clone()) for name, tensor in start.items()}
    adam = DenseAdam(ours, operations)
    reference = torch.optim.Adam([{"params": [p], "lr": rates[n]} for n, p in theirs.items()], eps=1e-15)
    for _ in range(5):
        grads = {name: torch.randn(shape, generator=g) for name, shape in shapes.items()}
        adam.step(grads, rates)
        for name, parameter in theirs.items():
            parameter.grad = grads[name].clone()
        reference.step()
    for name in shapes:
        assert torch.allclose(ours[name], theirs[name], atol=1e-6), name


def train_splats(
    head: str,
    fused: bool,
    weights: tuple[float, float] = (0.0, 0.0),
    steps: int = 4,
    backend: str = "cpu",
    operations: Operations | None = None,
    halves: bool = False,
    **settings: bool,
) -> dict[str, torch.Tensor]:
    """Parameters and moments after some steps on pictures of noise; all that depends on how they were moved."""
    model, camera = splats_to_train(head), make_camera(60, 50).to(dtype=torch.float32)
    adam = VisibleAdam(model.tensors(), operations, bfloat16_moments=halves)
    g = torch.Generator().manual_seed(5)
    for step in range(steps):
        for parameter in model.parameters():
            parameter.grad = None
        consumer = adam.consumer(SPLAT_RATES, *weights) if fused else None
        degree = min(step, model.sh_degree)
        out = render(model, camera, backend=backend, sh_degree=degree, consumer=consumer, **settings)
        (out.rgb * torch.randn(out.rgb.shape, generator=g)).sum().backward()
        if consumer is None:
            grads = {name: getattr(model, name).grad for name in model.parameter_names}
            add_regulariser_gradients_(model.tensors(), grads, *weights)
            adam.step(grads, out.info.visible, SPLAT_RATES)
        else:
            assert consumer.taken and all(parameter.grad is None for parameter in model.parameters())
    assert adam.steps == steps and 0 < int(out.info.visible.sum()) < len(model)
    return {**model.tensors(), **adam.state()}


@needs_core
@pytest.mark.parametrize("halves", [False, True], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("head", ["sh", "sh0", "shared", "full", "bits0"])
def test_the_step_taken_in_the_backward_pass_gives_the_bits_of_a_step_after_it(head: str, halves: bool) -> None:
    apart = train_splats(head, fused=False, halves=halves)
    together = train_splats(head, fused=True, halves=halves)
    for name, tensor in apart.items():
        assert torch.equal(tensor, together[name]), name


@pytest.mark.parametrize(
    "settings", [{}, {"antialiased": True, "absgrad": True}, {"halves": True}], ids=["", "antialiased", "bfloat16"]
)
@pytest.mark.parametrize("head", ["sh", "sh0", "shared", "full", "bits0"])
def test_gpu_kernels_take_the_same_step_in_the_backward_pass_and_after_it(head: str, settings: dict[str, bool]) -> None:
    open_engine("emulated-float32")
    emulator = Emulator()
    given = {"backend": "emulated", "operations": gpu_operations(emulator), **settings}
    apart, together = train_splats(head, fused=False, **given), train_splats(head, fused=True, **given)
    for name, tensor in apart.items():
        if emulator.architecture:  # NVRTC fuses multiplications and additions of the separate step alone
            torch.testing.assert_close(together[name], tensor, rtol=1e-3, atol=2e-4)
        else:
            assert torch.equal(tensor, together[name]), name


def test_the_step_in_the_backward_pass_of_gpu_kernels_minimises_the_regularisers_too() -> None:
    open_engine("emulated-float32")
    given = {"weights": (1e-2, 3e-2), "backend": "emulated", "operations": gpu_operations(Emulator())}
    apart, together = train_splats("sh", fused=False, **given), train_splats("sh", fused=True, **given)
    for name, tensor in apart.items():
        torch.testing.assert_close(together[name], tensor, rtol=1e-4, atol=1e-5)


@needs_core
def test_the_step_in_the_backward_pass_minimises_the_regularisers_too() -> None:
    weights = (1e-2, 3e-2)
    apart, together = train_splats("sh", False, weights), train_splats("sh", True, weights)
    without = train_splats("sh", True)
    for name, tensor in apart.items():
        torch.testing.assert_close(together[name], tensor, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(without["log_scales"], apart["log_scales"], rtol=1e-4, atol=1e-5)


@needs_core
@pytest.mark.usefixtures("same_core_afterwards")
@pytest.mark.parametrize(
    "settings",
    [{}, {"antialiased": True}, {"absgrad": True}, {"halves": True}],
    ids=["plain", "antialiased", "abs", "bfloat16"],
)
def test_the_step_in_the_backward_pass_is_the_same_bits_for_any_number_of_threads(settings: dict[str, bool]) -> None:
    results = []
    for threads in (1, 2, 3):
        native.set_threads(threads)
        results.append(train_splats("sh", fused=True, weights=(1e-2, 1e-2), **settings))
    for other in results[1:]:
        assert all(torch.equal(tensor, other[name]) for name, tensor in results[0].items())


@needs_core
@pytest.mark.usefixtures("same_core_afterwards")
@pytest.mark.parametrize("name", ["baseline", "avx2", "avx512"])
@pytest.mark.parametrize("head", ["sh", "full"])
def test_every_instruction_set_takes_the_same_step_together_and_apart(name: str, head: str) -> None:
    if not native.core().use_instruction_set(name):
        pytest.skip(f"this machine has no {name}")
    apart, together = train_splats(head, fused=False), train_splats(head, fused=True)
    for key, tensor in apart.items():
        torch.testing.assert_close(together[key], tensor, rtol=1e-5, atol=1e-7)


@needs_core
def test_gradients_of_pose_and_background_are_the_same_beside_a_step() -> None:
    found = []
    for fused in (False, True):
        model, camera = splats_to_train("sh"), make_camera(60, 50).to(dtype=torch.float32)
        viewmat, background = camera.viewmat.clone().requires_grad_(), torch.rand(3).fill_(0.3).requires_grad_()
        consumer = VisibleAdam(model.tensors()).consumer(SPLAT_RATES) if fused else None
        posed = replace(camera, viewmat=viewmat)
        out = render(model, posed, backend="cpu", background=background, consumer=consumer)
        out.rgb.square().sum().backward()
        found.append((viewmat.grad, background.grad))
    for one, other in zip(*found, strict=True):
        assert one is not None and torch.equal(one, other)


@needs_core
def test_a_consumer_takes_the_gradients_of_one_backward_pass() -> None:
    model, camera = splats_to_train("sh"), make_camera(60, 50).to(dtype=torch.float32)
    consumer = VisibleAdam(model.tensors()).consumer(SPLAT_RATES)
    out = render(model, camera, backend="cpu", consumer=consumer)
    out.rgb.sum().backward(retain_graph=True)
    with pytest.raises(AssertionError, match="one backward pass"):
        out.rgb.sum().backward()


def test_a_backend_without_the_step_refuses_a_consumer() -> None:
    model, camera = splats_to_train("sh"), make_camera(60, 50).to(dtype=torch.float32)
    consumer = VisibleAdam(model.tensors()).consumer(SPLAT_RATES)
    with pytest.raises(ValueError, match="backend 'torch' cannot feed a consumer"):
        render(model, camera, backend="torch", consumer=consumer)


@pytest.mark.parametrize("halves", [False, True], ids=["float32", "bfloat16"])
def test_reordered_rows_take_their_moments_with_them_and_stay_in_their_memory(halves: bool) -> None:
    params = make_params(5)
    adam = VisibleAdam(params, bfloat16_moments=halves)
    adam.step(make_grads(params, 0), torch.ones(5, dtype=torch.bool), RATES)
    before = {name: tensor.clone() for name, tensor in {**params, **adam.state()}.items()}
    order = torch.tensor([3, 0, 4, 1, 2])
    adam.reorder(order)
    for name, tensor in {**params, **adam.state()}.items():
        assert torch.equal(tensor, before[name][order]), name
