"""tools/bench/bench.py gpu without a GPU: scenes, counts, tables, the record."""

from __future__ import annotations

import ctypes
import inspect
import io
import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from emulator import CUDA, Emulator, compiled, run
from rich.console import Console
from splat_scenes import open_engine
from tool_modules import load

from nfc_gs.core.errors import UserError
from nfc_gs.data.builtin.captures import write_capture
from nfc_gs.data.config import DataConfig
from nfc_gs.data.loading import load_scene
from nfc_gs.data.scene import PointCloud
from nfc_gs.model.gaussians import GaussianModel
from nfc_gs.ops.kernel_args import RenderArgs
from nfc_gs.rendering import registry
from nfc_gs.rendering.cuda_backend import CudaBackend
from nfc_gs.rendering.pipeline import render
from nfc_gs.rendering.registry import get_backend

ARRAYS = {name for name, kind, *_ in RenderArgs._fields_ if kind is ctypes.c_void_p}

measuring, scenes, bounds = load("bench/measuring"), load("bench/gpu_scenes"), load("bench/gpu_bounds")
variants, kernels = load("bench/gpu_variants"), load("bench/gpu_kernels")
gpu, sanitize = load("bench/gpu"), load("bench/gpu_sanitize")
pairs = load("bench/pairs")


class FakeTimer:
    """A second passes between two events, and every call takes a hundred bytes more than the one before."""

    def __init__(self) -> None:
        self.events, self.peaks = 0, 0

    def event(self) -> int:
        self.events += 1
        return self.events

    def seconds(self, start: int, end: int) -> float:
        return float(end - start)

    def peak_bytes(self, function: Any) -> int:
        function()
        self.peaks += 1
        return 100 * self.peaks


@pytest.fixture(scope="module")
def emulator() -> Emulator:
    open_engine("emulated-float32")  # skips where it does not work
    return Emulator()


def small_scene(count: int = 60, width: int = 40, height: int = 24) -> Any:
    return sanitize.small_scene(count, width, height)


def view_of(scene: Any) -> Any:
    return variants.BenchView.of(scene.cameras[0], torch.device("cpu"))


def text_of(table: Any) -> str:
    console = Console(width=200, file=io.StringIO())
    console.print(table)
    return console.file.getvalue()


# ---- scenes ---------------------------------------------------------------------------------------------------------


def test_cells_come_ring_by_ring_and_none_twice():
    cells = scenes.ring_of_cells(30)
    assert len({tuple(cell) for cell in cells.tolist()}) == 30
    rings = np.abs(cells).max(axis=1)
    assert rings.tolist() == [0] * 1 + [1] * 8 + [2] * 16 + [3] * 5


def cloud_of(count: int) -> PointCloud:
    """Points of which about a third lie in the cube, each of its own color."""
    generator = np.random.default_rng(3)
    xyz = generator.uniform(-2.9, 2.9, (count, 3)).astype(np.float32)
    rgb = np.stack([np.arange(count) % 256, np.arange(count) // 256, np.zeros(count)], axis=1).astype(np.uint8)
    return PointCloud(xyz, rgb)


@pytest.mark.parametrize("copies", [0.4, 1.0, 9.0, 11.7])
def test_a_tiled_cloud_has_the_wanted_number_of_points_and_nothing_but_shifted_copies(copies: float):
    points = cloud_of(500)
    inside = (np.abs(points.xyz) <= 2).all(axis=1)
    count = int(copies * inside.sum())
    cloud = scenes.tiled(points, count)
    assert len(cloud.xyz) == len(cloud.rgb) == count
    home = {tuple(color): place for color, place in zip(points.rgb.tolist(), points.xyz, strict=True)}
    places = np.stack([home[tuple(color)] for color in cloud.rgb.tolist()])
    shifts = (cloud.xyz - places) / 4
    np.testing.assert_allclose(shifts, shifts.round(), rtol=0, atol=1e-5)
    assert (np.abs(places) <= 2).all() and (shifts[:, 2].round() == 0).all()
    cells, numbers = np.unique(shifts.round().astype(int), axis=0, return_counts=True)
    assert len(cells) == int(np.ceil(copies)) and sorted(numbers)[1:] == [inside.sum()] * (len(cells) - 1)


def test_a_cloud_with_nothing_in_the_cube_is_refused():
    far = PointCloud(np.full((3, 3), 7, np.float32), np.zeros((3, 3), np.uint8))
    with pytest.raises(UserError, match="No point of the scene lies between -2 and 2 along all axes"):
        scenes.tiled(far, 10)


def test_the_test_scene_of_gsplat_is_read_and_another_file_refused(tmp_path: Path):
    path, points = tmp_path / "garden.npz", cloud_of(20)
    viewmats, Ks = np.eye(4)[None].repeat(2, 0), np.array([[[50.0, 0, 30], [0, 40, 20], [0, 0, 1]]] * 2)
    np.savez(path, means3d=points.xyz, colors=points.rgb, viewmats=viewmats, Ks=Ks, width=60, height=42)
    read, cameras = scenes.read_garden(path)
    assert (read.xyz == points.xyz).all() and (read.rgb == points.rgb).all() and len(cameras) == 2
    assert (cameras[0].fx, cameras[0].fy, cameras[0].cx, cameras[0].cy) == (50, 40, 30, 20)
    assert (cameras[0].width, cameras[0].height) == (60, 42)
    np.savez(path, means3d=points.xyz)
    (tmp_path / "text.npz").write_text("no numbers")
    for wrong in (path, tmp_path / "text.npz", tmp_path / "missing.npz"):
        with pytest.raises(UserError, match=r"is not gsplat's test scene .*; give its file assets/test_garden.npz"):
            scenes.read_garden(wrong)


def test_a_picture_of_another_aspect_ratio_is_stretched_or_cropped():
    scene = small_scene(width=40, height=20)
    (stretched,) = scene.resized_cameras(80, 80, 3)
    assert (stretched.width, stretched.height, stretched.fx, stretched.fy) == (80, 80, 80, 160)
    (cut,) = replace(scene, crops=True).resized_cameras(80, 80, 3)
    assert (cut.width, cut.height, cut.fx, cut.fy) == (80, 80, 160, 160)


def test_the_synthetic_scene_fills_the_cube_and_is_the_same_every_time():
    first, second = scenes.synthetic_points(2000), scenes.synthetic_points(2000)
    assert (first.xyz == second.xyz).all() and (first.rgb == second.rgb).all() and first.xyz.shape == (2000, 3)
    assert (np.abs(first.xyz) <= 2).all() and first.rgb.std() > 30
    scene = scenes.tiled_scene("synthetic", first, scenes.synthetic_cameras(), 5000)
    assert scene.name == "synthetic, 5 k Gaussians" and len(scene.model) == 5000
    for camera in scene.resized_cameras(64, 36, 3):
        out = render(scene.model, camera, backend="cpu")
        assert out.alpha.mean() > 0.1 and out.info.visible.float().mean() > 0.1


def test_bits_begin_at_the_colors_of_the_scene():
    scene = small_scene()
    for view, columns in (("shared", 3), ("full", 24)):
        bits = scene.bits(view)
        assert bits.head == "bits" and bits.bit_shifts.shape == (60, 15, columns) and len(bits) == 60
        plain = GaussianModel(bits.tensors() | {"bit_shifts": torch.zeros_like(bits.bit_shifts)}).baked(0)
        torch.testing.assert_close(plain.sh_coeffs, scene.model.sh_coeffs[:, :1], rtol=0, atol=0.01)  # half a step


# ---- counting -------------------------------------------------------------------------------------------------------


class CountingEmulator(Emulator):
    """Counts how often the rasterizer computes an exponent."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.pairs: dict[str, int] = {}
        text = (CUDA / "gpu" / "raster.cu").read_text("utf-8")
        text = text.replace('#include "', f'#include "{CUDA}/gpu/')
        text = text.replace("namespace nfc {", 'extern "C" long long pairs = 0;\nnamespace nfc {', 1)
        assert text.count("  Offset o;\n") == 1
        self.source = folder / "raster.cu"
        self.source.write_text(text.replace("  Offset o;\n", "  Offset o;\n  ++pairs;\n"), "utf-8")

    def launch(self, source: str, kernel: str, args: Any, blocks: int, threads: int, channels: int = 0) -> None:
        if source != "raster":
            super().launch(source, kernel, args, blocks, threads, channels)
            return
        library = compiled(self.source, channels)
        counter = ctypes.c_longlong.in_dll(library, "pairs")
        counter.value = 0
        run(library, kernel, args, blocks, threads)
        self.pairs[kernel] = counter.value


@pytest.fixture(scope="module")
def counting(emulator: Emulator, tmp_path_factory: pytest.TempPathFactory) -> CountingEmulator:
    return CountingEmulator(tmp_path_factory.mktemp("counting"))


def work_of(model: GaussianModel, scene: Any, runtime: Any) -> Any:
    """What a rendering and its backward pass had to compute."""
    with bounds.array_sizes() as sizes:
        picture = render(model, scene.cameras[0], backend=CudaBackend(runtime)).rgb
        work = bounds.count_workload(picture, sizes)
        picture.sum().backward()
    return work


@pytest.mark.parametrize("opaque", [False, True], ids=["faint", "opaque"])
def test_pairs_are_those_that_the_kernels_compute(counting: CountingEmulator, opaque: bool):
    scene = small_scene(300)
    with torch.no_grad():
        scene.model.opacity_logits.fill_(4.0 if opaque else -4.0)
        scene.model.log_scales += 1.0 if opaque else 0.0
    work = work_of(scene.model, scene, counting)
    assert work.forward_pairs == counting.pairs["raster"] > 1000
    assert work.backward_pairs >= counting.pairs["raster_backward"] > 1000
    if opaque:
        assert work.started < work.buckets and work.drawn < work.visible and work.reached < work.entries
    else:  # nothing becomes opaque: every entry is read by every pixel of its tile
        assert work.backward_pairs == counting.pairs["raster_backward"] == lanes_at_work(work, scene)
        assert work.reached == work.entries and work.drawn <= work.visible


@pytest.mark.parametrize("opaque", [False, True], ids=["faint", "opaque"])
def test_events_counted_on_the_cpu_are_those_of_the_kernels(counting: CountingEmulator, opaque: bool):
    scene = small_scene(300)
    with torch.no_grad():
        scene.model.opacity_logits.fill_(4.0 if opaque else -4.0)
        scene.model.log_scales += 1.0 if opaque else 0.0
    work = work_of(scene.model, scene, counting)
    model, camera = scene.model, scene.cameras[0]
    splats = pairs.Splats(model.means, model.quats, model.log_scales.exp(), model.opacity_logits.sigmoid())
    events = pairs.count(pairs.tiling(splats, camera), camera)
    assert (events.visible, events.entries, events.reached) == (work.visible, work.entries, work.reached)
    rel = 0.01 if opaque else 0.0  # two layers of alpha 0.99 leave what rounding makes of the threshold
    assert 32 * events.evaluated == pytest.approx(counting.pairs["raster"], rel=rel)
    assert 32 * events.steps == pytest.approx(counting.pairs["raster_backward"], rel=rel)
    assert 0 < events.blended <= events.evaluated and 0 < events.blended_steps <= events.steps - events.idle_steps


def lanes_at_work(work: Any, scene: Any) -> int:
    """For each 32 entries of a tile: 32 lanes, as long as its pixels inside the picture go through them."""
    camera = scene.cameras[0]
    picture = render(scene.model, camera, backend="emulated").rgb
    entries = picture.grad_fn.call.buffers["tile_begin"].diff().view(-(-camera.height // 16), -1)
    inside = torch.ones(camera.height, camera.width)
    full = torch.nn.functional.pad(inside, (0, -camera.width % 16, 0, -camera.height % 16))
    pixels = full.unfold(0, 16, 16).unfold(1, 16, 16).sum((-1, -2))
    assert int(entries.sum()) == work.entries
    return int((-(-entries // 32) * 32 * (pixels + 31)).sum())


def test_bytes_are_those_of_the_arrays(emulator: Emulator):
    scene = small_scene(80)
    with torch.no_grad():
        scene.model.means[:20, 2] -= 100.0  # behind the camera
    work = work_of(scene.model, scene, emulator)
    assert (work.gaussians, work.visible) == (80, 60)
    pixels, tiles, entries, buckets = 40 * 24, 3 * 2, work.entries, work.buckets
    assert 80 < entries < 80 * tiles and buckets == entries // 32 + tiles
    expected = {
        "means": 12 * 80, "quats": 16 * 80, "log_scales": 12 * 80, "opacity_logits": 4 * 80, "sh_coeffs": 192 * 80,
        "viewmat": 64, "records": 64 * 80, "colors": 12 * 80, "depths": 4 * 80, "touched": 4 * 80, "radii": 8 * 80,
        "means2d": 8 * 80,
        "order": 8 * 80, "entry_end": 8 * 80, "entry_begin": 8 * 80, "entry_splat": 4 * entries,
        "entry_tile": 2 * entries, "slot_tile": 2 * entries, "slot_entry": 8 * entries, "slot_splat": 4 * entries,
        "tile_begin": 4 * (tiles + 1), "bucket_splats": 4, "tile_reached": 4 * tiles, "bucket_tile": 4 * buckets,
        "bucket_transmittance": 1024 * buckets,
        "bucket_sum": 3 * 1024 * buckets, "out": 12 * pixels, "out_alpha": 4 * pixels, "v_out": 12 * pixels,
        "v_pixel": 3 * 1024 * tiles, "behind": 1024 * tiles, "partial": 4 * (8 + 3) * entries,
        "v_means": 12 * 80, "v_quats": 16 * 80, "v_log_scales": 12 * 80, "v_opacity_logits": 4 * 80,
        "v_sh_coeffs": 192 * 80, "v_means2d": 8 * 80,
    }  # fmt: skip
    assert work.arrays == expected
    project = 64 + 44 * 80 + 192 * 60 + 64 * 60 + (8 + 8 + 4 + 4) * 80 + 12 * 60
    assert work.bytes_of("project_splats") == project
    project_backward = 64 + (8 + 236 + 8) * 80 + (44 + 192 + 4 + 8 + 12) * 60 + 44 * entries
    assert work.bytes_of("project_splats_backward") == project_backward
    stored = 8 * 80 + 236 * 80  # of means2d and of all parameters, of which Adam moves those of visible Gaussians
    fused = project_backward - stored + 5 * 236 * 60
    assert work.bytes_of("project_splats_backward_adam") == fused
    assert work.bytes_of("pixel_gradients") == (12 + 4 + 12) * pixels + 4 * 1024 * tiles
    assert work.reached == entries and work.pairs_of("project_splats") == 0
    raster = 4 * 7 + 4 + 4 * 6 + 4 * entries + 76 * work.drawn + 4 * buckets + 4096 * work.started + 16 * pixels
    assert work.bytes_of("raster") == pytest.approx(raster)
    by_bytes, by_pairs = bounds.Rates(bandwidth=1e9, instructions=1e10).lower_bounds(work, "raster")
    assert by_bytes == pytest.approx(1e-9 * raster) and by_pairs == pytest.approx(8e-10 * work.forward_pairs)


def test_the_arrays_of_the_kernels_are_those_of_their_sources():
    sources = {
        "project.cu": ("project.cu", "color.h", "gradients.h", "render.h"),
        "binning.cu": ("binning.cu",),
        "raster.cu": ("raster.cu",),
    }
    for source, files in sources.items():
        text = "".join((CUDA / "gpu" / file).read_text("utf-8") for file in files)
        used = set(re.findall(r"\bargs\.(\w+)", text)) & ARRAYS
        kernels = re.findall(r"NFC_KERNEL\((\w+)", (CUDA / "gpu" / source).read_text("utf-8"))
        listed = {
            name
            for kernel in map(bounds.kernel_of, kernels)
            for names in bounds.KERNEL_ARRAYS[kernel]
            for name in names.split()
        }
        assert listed == used, source


# ---- measuring ------------------------------------------------------------------------------------------------------


def test_variants_are_measured_in_turn_and_shown(tmp_path: Path):
    scene = small_scene(30)
    views, timer = [view_of(scene), view_of(scene)], FakeTimer()
    order = []

    def variant(name: str, backend: str) -> Any:
        made = variants.our_variant(name, scene.model, get_backend(backend))
        rasterize = made.rasterize
        return replace(made, rasterize=lambda *args: (order.append(name), rasterize(*args))[1])

    found = variants.compare([variant("ours", "cpu"), variant("peer", "torch")], views, timer, rounds=2)
    assert found.samples["peer"].values == {piece: [1.0, 1.0] for piece in variants.STAGES}
    assert found.ratios("peer", "step") == [1.0, 1.0]
    assert found.peaks == {"ours": {"rendering": 100, "step": 200}, "peer": {"rendering": 300, "step": 400}}
    assert found.differences["ours"] == 0 and found.differences["peer"] < 1e-6
    rounds = [name for name in ("peer", "ours", "ours", "peer", "peer", "ours") for _ in range(6)]  # three, two counted
    assert order[-36:] == rounds
    record = gpu.Record(tmp_path / "new" / "gpu.json", {"device": "none"})
    record.add("compare", scene, (40, 24), found.record())
    kept = json.loads((tmp_path / "new" / "gpu.json").read_text("utf-8"))
    assert kept["device"] == "none" and kept["measured"][0]["gaussians"] == 30
    assert kept["measured"][0]["found"]["peer"]["seconds"]["step"] == [1.0, 1.0]
    shown = text_of(gpu.comparison_table("Title", found))
    assert re.search(r"step, ms +│ +1000.000 │ +1000.000 │ 1.000 \(1.000 - 1.000\)", shown)
    assert re.search(r"memory of a step, MB +│ +0 │ +0 │ +2.00", shown)


def test_aims_are_shown_as_met_or_missed():
    scene, timer = small_scene(20), FakeTimer()
    found = variants.compare(gpu.bit_variants(scene, get_backend("cpu")), [view_of(scene)], timer, rounds=1)
    assert list(found.samples) == ["nfr (SH)", "nfc-te, shared view", "nfc-te, full view"]
    step, rendering = gpu.aims_of("bits", scene, (40, 24), found)
    assert (step.wanted, step.found, step.met) == (1.02, 1.0, True)
    found.samples["nfc-te, shared view"].values["rendering"] = [1.25]
    step, rendering = gpu.aims_of("bits", scene, (40, 24), found)
    assert (rendering.wanted, rendering.found, rendering.met) == (1.0, 1.25, False)
    shown = text_of(gpu.aim_table([step, rendering]))
    assert re.search(r"step, nfc-te, shared view / SH +│ +1.02 │ +1 │ +yes", shown)
    assert re.search(r"rendering, nfc-te, shared view / SH +│ +1 │ +1.25 │ +no", shown)
    assert gpu.aims_of("compare", scene, (1920, 1080), found) == []
    million = replace(scene, model=range(1_000_000))
    assert gpu.aims_of("compare", million, (1920, 1080), found) == []  # ours was skipped
    found.samples = {"ours": found.samples["nfr (SH)"]}
    assert gpu.aims_of("bits", scene, (40, 24), found) == []
    (speed,) = gpu.aims_of("compare", million, (1920, 1080), found)
    assert (speed.wanted, speed.found, speed.met) == (300.0, 1.0, False)


def test_time_and_memory_are_compared_with_those_of_gsplat():
    def seconds(*values: float) -> Any:
        return measuring.Samples(dict(zip(variants.STAGES, ([value] for value in values), strict=True)))

    samples = {"ours": seconds(1, 1, 3, 5), "gsplat": seconds(1, 2, 5, 6), "gsplat packed": seconds(1, 1.5, 4.4, 9)}
    peaks = {"ours": {"step": 100}, "gsplat": {"step": 80}, "gsplat packed": {"step": 200}}
    found = variants.Measurements(samples | {"backend gsplat": seconds(1, 1, 1, 1)}, peaks, {})
    aims = gpu.aims_of("compare", small_scene(10), (40, 24), found)
    assert [(aim.wanted, aim.found, aim.met) for aim in aims] == [
        (1.5, pytest.approx(7 / 4), True),
        (1.0, 1.25, False),
        (1.5, pytest.approx(5.9 / 4), False),
        (1.0, 0.5, True),
    ]
    assert aims[0].what.endswith("forward + backward, gsplat / ours") and "packed" in aims[3].what


def test_a_training_is_timed_to_its_end(tmp_path: Path, printed: io.StringIO, emulator: Emulator):
    scene = load_scene(write_capture(tmp_path / "capture", views=4, width=48, height=36), DataConfig())
    benchmark = gpu.Benchmark(emulator, FakeTimer(), bounds.Rates(1, 1), gpu.Record(tmp_path / "gpu.json", {}))
    gpu.measure_training(scene, benchmark, preset="fast", steps=25, device="cpu", backend="cpu")
    found = json.loads((tmp_path / "gpu.json").read_text("utf-8"))["training"]
    assert found["capture"] == "capture" and found["steps"] == 25 and found["seconds"] > 0 and found["psnr"] > 5
    assert printed.getvalue().startswith("Training on capture: steps 25, ")
    (aim,) = benchmark.aims
    assert (aim.wanted, aim.found, aim.met) == (60.0, found["seconds"], found["seconds"] <= 60.0)


@pytest.fixture
def printed(monkeypatch: pytest.MonkeyPatch) -> io.StringIO:
    """What the benchmark prints."""
    console = Console(width=200, file=io.StringIO())
    monkeypatch.setattr(gpu, "console", console)
    monkeypatch.setattr(variants, "console", console)
    return console.file


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (torch.OutOfMemoryError("all gone"), "bad is skipped: it needs more memory than there is"),
        (RuntimeError("[raster] failed\nand more"), "bad is skipped: RuntimeError: [raster] failed"),
        (UserError("There is no gsplat."), "bad is skipped: There is no gsplat."),
        (TypeError("no argument 'packed'"), "bad is skipped: TypeError: no argument 'packed'"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else "",
)
def test_a_variant_that_does_not_work_is_skipped(error: Exception, words: str, printed: io.StringIO):
    scene = small_scene(30)

    def fail(*_: Any) -> Any:
        raise error

    good = variants.our_variant("good", scene.model, get_backend("cpu"))
    bad = replace(good, name="bad", rasterize=fail)
    found = variants.compare([bad, good], [view_of(scene)], FakeTimer(), rounds=1)
    assert list(found.samples) == ["good"]
    assert printed.getvalue() == words + "\n"
    assert variants.compare([bad], [view_of(scene)], FakeTimer(), rounds=1) is None


def test_a_part_that_fails_is_skipped_and_the_others_go_on(
    emulator: Emulator, monkeypatch: pytest.MonkeyPatch, printed: io.StringIO
):
    scene, done = small_scene(10), []

    def measure(part: str, *_: Any) -> None:
        done.append(part)
        if part == "compare":
            raise RuntimeError("misaligned")

    monkeypatch.setattr(gpu, "measure_part", measure)
    args = gpu.Options(sizes=((20, 12),))
    benchmark = gpu.Benchmark(emulator, FakeTimer(), bounds.Rates(1, 1), gpu.Record(None, {}))
    gpu.measure_scene(scene, args, benchmark)
    assert done == ["compare", "bits", "kernels"]
    assert printed.getvalue() == f"compare of {scene.name} at 20 x 12 is skipped: RuntimeError: misaligned\n"

    def stuck() -> None:
        raise RuntimeError("an illegal memory access was encountered")

    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "synchronize", stuck)
    with pytest.raises(UserError, match=f"The GPU works no more .* without compare of {scene.name} at 20 x 12"):
        gpu.measure_scene(scene, args, benchmark)
    assert done[3:] == ["compare"]


@pytest.mark.parametrize("packed", [False, True])
def test_gsplat_is_called_by_its_own_signature(monkeypatch: pytest.MonkeyPatch, packed: bool):
    gsplat = pytest.importorskip("gsplat")
    scene = small_scene(30)
    seen = torch.zeros(30, dtype=torch.bool)
    seen[4:20] = True
    moved, signature = {}, inspect.signature(gsplat.rasterization)

    def rasterization(*args: Any, **kwargs: Any) -> Any:
        given = signature.bind(*args, **kwargs).arguments
        assert given["colors"].shape == (30, 16, 3) and given["sh_degree"] == 3 and given["packed"] == packed
        assert given["viewmats"].shape == (1, 4, 4) and given["Ks"].tolist() == [scene.cameras[0].K.tolist()]
        picture = sum(given[name].sum() for name in ("means", "quats", "scales", "opacities", "colors"))
        image = picture.expand(1, given["height"], given["width"], 3)
        radii = 3 * seen[None, :, None].expand(1, 30, 2).int()
        return image, image[..., :1], {"gaussian_ids": seen.nonzero()[:, 0]} if packed else {"radii": radii}

    def adam(
        param: torch.Tensor, grad: torch.Tensor, m: torch.Tensor, v: torch.Tensor, valid: torch.Tensor, *_: Any
    ) -> None:
        assert param.shape == grad.shape == m.shape == v.shape and grad.is_contiguous() and torch.equal(valid, seen)
        moved[tuple(param.shape)] = True

    monkeypatch.setattr(gsplat, "rasterization", rasterization)
    monkeypatch.setattr("gsplat.optimizers.selective_adam.adam", adam)
    monkeypatch.setattr(variants, "get_backend", lambda name: None)  # which would compile the kernels
    variant = variants.gsplat_variant("gsplat", scene.model, packed)
    assert variant.rendering(view_of(scene)).shape == (24, 40, 3)
    variant.step(view_of(scene))
    assert set(moved) == {(30, 3), (30, 4), (30,), (30, 16, 3)}


def test_a_step_leaves_the_gaussians_as_they_are():
    scene = small_scene(30)
    before = {name: tensor.clone() for name, tensor in scene.model.tensors().items()}
    variant = variants.our_variant("ours", scene.model, get_backend("cpu"))
    variant.step(view_of(scene))
    for name, tensor in scene.model.tensors().items():
        torch.testing.assert_close(tensor, before[name], rtol=1e-6, atol=1e-11)
    assert all(param.grad is None for param in scene.model.parameters())


def test_kernels_are_timed_one_by_one_and_shown_with_their_lower_bounds(emulator: Emulator, tmp_path: Path):
    scene, timer = small_scene(30), FakeTimer()
    found = kernels.profile(scene.model, view_of(scene), emulator, timer, rounds=2)
    launched = {"project_splats", "write_entries", "find_tiles", "raster", "pixel_gradients", "raster_backward",
               "project_splats_backward"}  # fmt: skip
    sorts = {"torch.sort, float32", "torch.sort, int16", "torch.cumsum, int32"}
    assert set(found.samples.values) == launched | sorts | {kernels.LOSS, kernels.ADAM, kernels.REST, kernels.TOTAL}
    assert all(found.samples.values[name] == [1.0, 1.0] for name in launched | sorts | {kernels.LOSS, kernels.ADAM})
    # Twenty-four events of twelve calls lie between the two of the whole: 25 seconds, of which twelve are in the calls.
    assert found.samples.values[kernels.TOTAL] == [25.0, 25.0] and found.samples.values[kernels.REST] == [13.0, 13.0]
    rates = bounds.Rates(bandwidth=1e6, instructions=1e6)
    shown = text_of(kernels.kernel_table("Title", found, rates))
    assert all(name in shown for name in found.samples.values) and "Lower bounds are estimates" in shown
    recorded = json.loads(json.dumps(found.record(rates)))
    assert recorded["lower_bounds"]["raster"]["pairs"] == found.workload.forward_pairs > 0
    assert recorded["workload"]["entries"] == found.workload.entries


def test_all_parts_of_a_scene_end_up_in_tables_and_in_the_record(
    emulator: Emulator, tmp_path: Path, printed: io.StringIO, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)  # so that gsplat is skipped on all machines
    monkeypatch.delitem(registry._instances, "gsplat", raising=False)
    scene, path = small_scene(12), tmp_path / "gpu.json"
    args = gpu.Options(garden=Path("x"), sizes=((20, 12), (30, 18)), views=1, rounds=1, json=path)
    benchmark = gpu.Benchmark(emulator, FakeTimer(), bounds.Rates(1e9, 1e9), gpu.Record(path, {}))
    gpu.measure_scene(scene, args, benchmark)
    measured = json.loads(path.read_text("utf-8"))["measured"]
    parts = [
        ("compare", [20, 12]),
        ("bits", [20, 12]),
        ("kernels", [20, 12]),
        ("compare", [30, 18]),
        ("kernels", [30, 18]),
    ]
    assert [(entry["part"], entry["size"]) for entry in measured] == parts
    assert all(f"{part.capitalize()}: {scene.name}, {w} x {h}" in printed.getvalue() for part, (w, h) in parts)
    assert "gsplat is skipped: The backend 'gsplat' needs an NVIDIA GPU" in printed.getvalue()
    assert [aim.wanted for aim in benchmark.aims] == [1.02, 1.0]


def test_the_lanes_of_a_multiprocessor_are_those_of_its_generation():
    assert [bounds.lanes_of(*of) for of in ((7, 5), (8, 0), (8, 6), (8, 9), (9, 0), (12, 0))] == [64, 64, *[128] * 4]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({}, "nothing to measure; give --short, --garden"),
        ({"short": True, "budget": 0.0}, "--budget is 0"),
        ({"short": True, "budget": float("nan")}, "--budget is nan"),
        ({"garden": Path("nowhere.npz")}, "--garden is nowhere.npz, which is not there"),
        ({"short": True, "train": Path("nowhere")}, "--train is nowhere, which is not there"),
        ({"synthetic": True, "views": 0}, "--views is 0"),
        ({"synthetic": True, "gaussians": (5, 0)}, "--gaussians is 0"),
        ({"synthetic": True, "sizes": ((40, -1),)}, "--sizes is -1"),
    ],
)
def test_options_that_make_no_sense_are_refused(monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any], words: str):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    with pytest.raises(UserError, match=words):
        gpu.check(gpu.Options(**changes))
