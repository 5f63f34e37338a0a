"""Renderings of the backend `cuda` whose memory is sized by earlier ones: complete, incomplete, repeated; run by the
emulator."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from emulator import Emulator
from moving_scenes import moving_config, moving_scene
from random_models import SPLAT_RATES, splats_to_train
from splat_scenes import make_camera
from tiny_scenes import all_tensors, assert_same_bits, tiny_config, tiny_scene
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from nfc_gs.core.errors import UserError
from nfc_gs.model.gaussians import GaussianModel
from nfc_gs.model.radiance import RenderOutput
from nfc_gs.ops import operations as operations_module
from nfc_gs.ops.operations import gpu_operations
from nfc_gs.rendering import cuda_backend, entry_memory, registry
from nfc_gs.rendering.cuda_backend import BUCKET_SIZES, CudaBackend, bucket_size, most_buckets
from nfc_gs.rendering.entry_memory import EntryMemory
from nfc_gs.rendering.pipeline import render
from nfc_gs.rendering.registry import BACKENDS
from nfc_gs.training.companion import Companion
from nfc_gs.training.gaussians import GaussianTraining
from nfc_gs.training.optimizers import AdamConsumer, VisibleAdam
from nfc_gs.training.samples import Sample
from nfc_gs.training.trainer import Trainer

COUNT, SIZE, TILES = 150, (40, 34), 9


class Watched(Emulator):
    """Notes what is launched, which numbers are read, and for how many entries there was room."""

    def __init__(self) -> None:
        super().__init__()
        self.events: list[str] = []
        self.rooms: list[int] = []

    def launch(self, source: str, kernel: str, args: Any, *rest: Any) -> None:
        self.events.append(kernel)
        super().launch(source, kernel, args, *rest)
        if kernel == "write_entries":
            self.rooms.append(args.entries)
        elif kernel == "find_tiles":
            self._check(args)

    def read_later(self, tensor: Tensor) -> Callable[[], Tensor]:
        self.events.append("copy")
        copy = tensor.clone()

        def read() -> Tensor:
            self.events.append("read")
            return copy

        return read

    def _check(self, args: Any) -> None:
        """What the lists lead to is there, or the kernels that follow read and write beyond their arrays."""
        tiles = args.tiles_x * args.tiles_y
        begin = (ctypes.c_int * (tiles + 1)).from_address(args.tile_begin)[:]
        assert begin == sorted(begin) and begin[0] == 0 and begin[-1] <= args.entries
        if args.entries:
            splats = (ctypes.c_int * args.entries).from_address(args.slot_splat)
            assert all(0 <= splat < args.count for splat in splats)
        if args.keep:
            size = ctypes.c_int.from_address(args.bucket_splats).value
            assert size == bucket_size(begin[-1]) and begin[-1] // size <= most_buckets(args.entries)


@pytest.fixture
def runtime() -> Watched:
    try:
        return Watched()
    except UserError as error:
        pytest.skip(str(error))


def consumer_for(model: GaussianModel) -> tuple[VisibleAdam, AdamConsumer]:
    optimizer = VisibleAdam(model.tensors(), gpu_operations(Emulator()))
    return optimizer, optimizer.consumer(SPLAT_RATES, 1e-2, 1e-2)


def rendered(backend: CudaBackend, head: str, guess: bool, *, consume: bool, **options: Any) -> dict[str, Tensor]:
    """A picture of the splats, and all that its backward pass computes."""
    model, camera = splats_to_train(head, COUNT), make_camera(*SIZE).to(dtype=torch.float32)
    optimizer, consumer = consumer_for(model)
    out = render(
        model, camera, backend=backend, may_be_incomplete=guess, consumer=consumer if consume else None, **options
    )
    images = {name: image.detach().clone() for name, image in vars(out).items() if isinstance(image, Tensor)}
    weights = torch.randn(out.rgb.shape, generator=torch.Generator().manual_seed(5))
    (out.rgb * weights).sum().backward()
    assert out.complete()
    grads = {f"v_{name}": each.grad for name, each in model.named_parameters() if each.grad is not None}
    points = {"v_means2d": out.info.means2d_grad, "abs": out.info.means2d_absgrad, "radii": out.info.radii}
    found = {**images, **grads, **model.tensors(), **optimizer.state(), **points}
    return {name: tensor for name, tensor in found.items() if tensor is not None}


EVERYTHING = {"antialiased": True, "absgrad": True}


@pytest.mark.parametrize("wide", [False, True], ids=["16 bits", "32 bits"])
@pytest.mark.parametrize(
    ("head", "options", "consume", "warps"),
    [
        ("sh", {}, False, 2**13),
        ("sh", {}, True, 3),  # as few as that: large buckets
        ("sh", EVERYTHING, False, 3),
        ("sh", EVERYTHING, True, 2**13),
        ("shared", {"outputs": ("rgb", "depth")}, True, 3),
        ("full", {**EVERYTHING, "outputs": ("rgb", "depth")}, True, 3),
        ("full", {"outputs": ("rgb", "bits")}, False, 3),
    ],
)
def test_a_rendering_in_more_memory_than_it_needs_is_the_same_bit_for_bit(
    runtime: Watched,
    monkeypatch: pytest.MonkeyPatch,
    head: str,
    options: dict[str, Any],
    consume: bool,
    warps: int,
    wide: bool,
) -> None:
    monkeypatch.setattr(cuda_backend, "BACKWARD_WARPS", warps)
    monkeypatch.setattr(cuda_backend, "MAX_NARROW_TILES", TILES - wide)
    backend = CudaBackend(runtime)
    waited = rendered(backend, head, guess=True, consume=consume, **options)
    guessed = rendered(backend, head, guess=True, consume=consume, **options)
    assert runtime.rooms[0] < runtime.rooms[1]
    assert_same_bits(waited, guessed)


def test_as_many_tiles_as_16_bits_count_leave_one_number_for_memory_that_is_not_used() -> None:
    assert torch.iinfo(torch.int16).max == cuda_backend.MAX_NARROW_TILES  # the tiles are 0 to one less


@pytest.mark.parametrize("warps", [1, 7, 2**13])
def test_there_is_room_for_the_buckets_of_any_number_of_entries_that_fits(
    warps: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cuda_backend, "BACKWARD_WARPS", warps)
    counts = [f * warps * size + d for size in BUCKET_SIZES for f in (1, 2, 3) for d in (-1, 0, 1)]
    for room in counts:
        assert all(n // bucket_size(n) <= most_buckets(room) for n in counts if n <= room)


def no_smallest_size(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the small scenes of tests outgrow their memory."""
    monkeypatch.setattr(entry_memory, "LEAST_STEP", 1)


def larger(model: GaussianModel, factor: float) -> GaussianModel:
    tensors = model.tensors()
    return GaussianModel({**tensors, "log_scales": tensors["log_scales"] + factor})


def test_a_rendering_that_lacks_memory_changes_nothing_and_the_next_has_enough(
    runtime: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    no_smallest_size(monkeypatch)
    backend, camera = CudaBackend(runtime), make_camera(*SIZE).to(dtype=torch.float32)
    assert render(splats_to_train("sh", COUNT), camera, backend=backend, may_be_incomplete=True).complete()
    model = larger(splats_to_train("sh", COUNT), 1.0)
    exact = render(model, camera, backend=backend)
    before = {name: tensor.clone() for name, tensor in model.tensors().items()}
    optimizer, consumer = consumer_for(model)
    options = {"backend": backend, "may_be_incomplete": True}
    for given in (None, consumer):
        backend._entry_memory._most = dict.fromkeys(backend._entry_memory._most, 1.0)
        out = render(model, camera, consumer=given, **options)
        with pytest.raises(RuntimeError, match=r"the rendering is incomplete: ask RasterOutput\.complete"):
            out.rgb.sum().backward()
        assert not out.complete() and not torch.equal(out.rgb, exact.rgb)
    assert not consumer.taken and optimizer.steps == 0 and all(each.grad is None for each in model.parameters())
    assert_same_bits(model.tensors(), before)
    again = render(model, camera, consumer=consumer, **options)
    assert again.complete() and torch.equal(again.rgb, exact.rgb)
    again.rgb.sum().backward()
    assert consumer.taken and runtime.rooms[-2] < runtime.rooms[1] < runtime.rooms[-1]


def test_renderings_whose_gradient_nobody_wants_have_the_memory_they_need(runtime: Watched) -> None:
    backend, model = CudaBackend(runtime), splats_to_train("sh", COUNT)
    camera = make_camera(*SIZE).to(dtype=torch.float32)
    for _ in range(2):
        assert render(model, camera, backend=backend, may_be_incomplete=True).complete()
    with torch.no_grad():
        render(model, camera, backend=backend, may_be_incomplete=True)
    render(model, camera, backend=backend)
    assert runtime.rooms[0] == runtime.rooms[2] == runtime.rooms[3] < runtime.rooms[1]


def test_each_size_of_image_has_its_own_expectation_which_grows_with_the_gaussians(
    runtime: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    no_smallest_size(monkeypatch)
    backend, model = CudaBackend(runtime), splats_to_train("sh", COUNT)
    cameras = [make_camera(*size).to(dtype=torch.float32) for size in (SIZE, (20, 50), SIZE, (20, 50))]
    exact = [render(model, camera, backend=backend).rgb for camera in cameras]
    sizes = runtime.rooms.copy()
    for camera, expected in zip(cameras, exact, strict=True):
        out = render(model, camera, backend=backend, may_be_incomplete=True)
        assert out.complete() and torch.equal(out.rgb, expected)
    rooms = runtime.rooms[4:]
    assert rooms[:2] == sizes[:2] and all(n < room < 1.5 * n for n, room in zip(sizes[2:], rooms[2:], strict=True))
    grown = GaussianModel({name: torch.cat([each, each]) for name, each in model.tensors().items()})
    assert render(grown, cameras[0], backend=backend, may_be_incomplete=True).complete()
    assert runtime.rooms[-1] > 2 * sizes[0]


def test_without_splats_there_is_nothing_to_wait_for(runtime: Watched) -> None:
    backend, camera = CudaBackend(runtime), make_camera(*SIZE).to(dtype=torch.float32)
    model = GaussianModel({name: tensor[:0] for name, tensor in splats_to_train("sh", COUNT).tensors().items()})
    for _ in range(2):
        out = render(model, camera, backend=backend, may_be_incomplete=True)
        out.rgb.sum().backward()
        assert out.complete() and not out.rgb.any()
    assert "read" not in runtime.events


def test_more_entries_than_there_may_be_are_refused_when_their_number_is_known(
    runtime: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    backend, model = CudaBackend(runtime), splats_to_train("sh", COUNT)
    camera = make_camera(*SIZE).to(dtype=torch.float32)
    render(model, camera, backend=backend, may_be_incomplete=True)
    (most,) = runtime.rooms
    monkeypatch.setattr(entry_memory, "MAX_ENTRIES", most)
    assert render(model, camera, backend=backend, may_be_incomplete=True).complete()
    monkeypatch.setattr(entry_memory, "MAX_ENTRIES", most - 1)
    out = render(model, camera, backend=backend, may_be_incomplete=True)
    assert runtime.rooms == [most, most, most - 1]
    for ask in (out.complete, out.complete, out.rgb.sum().backward):
        with pytest.raises(UserError, match=rf"cover {most} tiles .* can draw {most - 1}; draw a smaller image"):
            ask()


def test_the_most_entries_are_forgotten_slowly(monkeypatch: pytest.MonkeyPatch) -> None:
    no_smallest_size(monkeypatch)
    memory = EntryMemory()

    class Ready:
        device = torch.device("cpu")

        def read_later(self, tensor: Tensor) -> Callable[[], Tensor]:
            return lambda: tensor

    def capacity(entries: int) -> int:
        room = memory.room(Ready(), torch.tensor([0, entries]), (1, 1), guess=True)  # type: ignore[arg-type]
        assert room.entries() == entries
        return room.capacity

    assert capacity(1000) == 1000 and 1200 < capacity(100) < 1400
    later = [capacity(100) for _ in range(4000)]
    assert later == sorted(later, reverse=True) and later[200] > 1000 and 120 < later[-1] < 140


# ---- training -----------------------------------------------------------------------------------------------------


def emulated_training(runtime: Emulator, monkeypatch: pytest.MonkeyPatch) -> str:
    """The name of a backend that trains on a runtime, with its operations."""
    made = type("Emulated", (CudaBackend,), {"devices": ("cpu",)})
    monkeypatch.setitem(BACKENDS, "emulated", made)
    monkeypatch.setitem(registry._instances, "emulated", made(runtime))
    monkeypatch.setattr(operations_module, "_fastest", lambda device: gpu_operations(runtime))
    return "emulated"


class Blind(EntryMemory):
    """Always waits for the number."""

    def room(self, *args: Any, guess: bool) -> Any:
        return super().room(*args, guess=False)


class TooLittle(EntryMemory):
    """Has room for a few entries alone at every third rendering that may be incomplete."""

    turn = 0

    def room(self, *args: Any, guess: bool) -> Any:
        room = super().room(*args, guess=guess)
        if guess:
            self.turn += 1
            if self.turn % 3 == 0:
                room.capacity = 10
        return room


class Exposure(Companion):
    """Learns one factor for all pictures, and reads the gradients of the model."""

    name = "exposure"

    def __init__(self) -> None:
        self.factor = torch.ones(1, requires_grad=True)
        self.read = 0

    def output(self, output: RenderOutput, sample: Sample) -> RenderOutput:
        return replace(output, rgb=output.rgb * self.factor)

    def parameters(self) -> dict[str, Tensor]:
        return {"factor": self.factor}

    def gradients(self, gradients: dict[str, Tensor]) -> None:
        self.read += 1

    def step(self, step: int, progress: float) -> None:
        assert self.factor.grad is not None
        with torch.no_grad():
            self.factor -= 0.01 * self.factor.grad


@pytest.fixture
def two_samples(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Steps of two views."""
    one = GaussianTraining.samples

    def two(self: GaussianTraining, step: int, progress: float, window: Any) -> list[Sample]:
        return [*one(self, 2 * step, progress, window), *one(self, 2 * step + 1, progress, window)]

    with monkeypatch.context() as patch:
        patch.setattr(GaussianTraining, "samples", two)
        yield


def trained(
    memory: type[EntryMemory],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    *,
    moving: bool = False,
    companions: Sequence[Companion] = (),
    **options: Any,
) -> tuple[dict[str, Tensor], list[int]]:
    """What a training ends with, and for how many entries there was room, rendering by rendering."""
    runtime = Watched()
    backend = emulated_training(runtime, monkeypatch)
    registry._instances[backend]._entry_memory = memory()
    scene = moving_scene() if moving else tiny_scene()
    config = (moving_config if moving else tiny_config)(steps=6, backend=backend, **options)
    trainer = Trainer(scene, config, tmp_path / memory.__name__, capture="tiny", companions=companions)
    for _ in range(6):
        trainer.step()
    return all_tensors(trainer), runtime.rooms


@pytest.mark.parametrize("way", ["mcmc", "adc", "companion", "moving"])
def test_a_training_in_which_memory_is_short_again_and_again_ends_as_one_that_waits(
    way: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options: dict[str, Any] = {"density": "adc"} if way == "adc" else {"moving": way == "moving"}
    ends = {}
    for memory in (Blind, EntryMemory, TooLittle):
        companions = [Exposure()] if way == "companion" else []
        ends[memory] = trained(memory, tmp_path, monkeypatch, companions=companions, **options)
    exact, rooms = ends[Blind]
    assert rooms != ends[EntryMemory][1] and len(ends[EntryMemory][1]) == len(rooms)
    assert len(ends[TooLittle][1]) > len(rooms)
    for memory in (EntryMemory, TooLittle):
        assert_same_bits(exact, ends[memory][0])


@pytest.mark.usefixtures("two_samples")
def test_each_of_several_samples_of_a_step_is_repeated_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    exact, rooms = trained(Blind, tmp_path, monkeypatch)
    short, more = trained(TooLittle, tmp_path, monkeypatch)
    assert len(rooms) == 12 < len(more) < 24
    assert_same_bits(exact, short)


WAITS = (
    "_local_scalar_dense",
    "nonzero",
    "unique",
    "masked_select",
    "equal",
    "bincount",
    "repeat_interleave",
    "lift_fresh",
)
"""Operations of torch that wait for a GPU, since they need values, or have sizes that depend on them, or (the last one,
of `torch.tensor`) copy values of Python to it."""


class Waiting(TorchDispatchMode):
    """Notes the operations among `WAITS`."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        masks = name.startswith("index") and any(
            isinstance(each, Tensor) and each.dtype == torch.bool
            for each in (args[1] if len(args) > 1 and isinstance(args[1], list | tuple) else ())
        )
        if masks or any(name.lstrip("_").startswith(wait.lstrip("_")) for wait in WAITS):
            self.found.append(name)
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("moving", [False, True], ids=["still", "moving"])
def test_a_step_waits_for_one_number_which_is_long_there(
    moving: bool, runtime: Watched, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    backend = emulated_training(runtime, monkeypatch)
    config = (moving_config if moving else tiny_config)(steps=1000, backend=backend, full_resolution_at=0.0)
    trainer = Trainer(moving_scene() if moving else tiny_scene(), config, tmp_path / "run", capture="tiny")
    monkeypatch.setattr(trainer, "_reads_loss", lambda step: False)  # a GPU's losses are read at times
    trainer.step()
    runtime.events.clear()
    with Waiting() as waiting:
        trainer.step()
    # The photo is wrapped on the CPU, whence `on_device` copies it, and the number is taken from its copy there.
    assert waiting.found == ["lift_fresh", "_local_scalar_dense"]
    events = [event for event in runtime.events if event in {"copy", "raster", "loss", "loss_values", "read"}]
    assert events == ["copy", "raster", "loss", "loss_values", "read"]
    assert runtime.events.index("read") < runtime.events.index("loss_gradient")


def test_what_waits_for_a_gpu_is_noticed() -> None:
    values = torch.tensor([1.0, 0.0])
    with Waiting() as waiting:
        values.sum().item()
        values.nonzero()
        values[values > 0]
        values.index_select(0, values.long())
        torch.tensor([0])
    assert len(waiting.found) == 4
