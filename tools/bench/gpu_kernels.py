"""A training step of the backend `cuda`, kernel by kernel, beside the lower bounds of each.

A module of `bench.py gpu`, not a command.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import torch
from gpu_bounds import (
    KERNEL_ARRAYS,
    DeviceTimer,
    Rates,
    TimingRuntime,
    Workload,
    array_sizes,
    count_workload,
    kernel_of,
)
from gpu_variants import BenchView, our_variant
from measuring import Samples, make_table
from rich.table import Table

from nfc_gs.model.gaussians import GaussianModel
from nfc_gs.ops.nvrtc import Runtime
from nfc_gs.rendering.cuda_backend import CudaBackend

LOSS, ADAM, REST, TOTAL = "loss", "Adam", "rest (torch, waiting for launches)", "training step"


@dataclass
class Profile:
    """A training step, kernel by kernel.

    Attributes:
        samples: seconds by kernel, of the whole step (`TOTAL`) and of the rest of it (`REST`), by round.
        workload: what the rendering computed.
    """

    samples: Samples
    workload: Workload

    def record(self, rates: Rates) -> dict[str, Any]:
        """All of it, for JSON."""
        bounds = {
            kernel: {
                "bytes": self.workload.bytes_of(kernel),
                "pairs": self.workload.pairs_of(kernel),
                "seconds": rates.lower_bounds(self.workload, kernel),
            }
            for kernel in KERNEL_ARRAYS
        }
        return {"seconds": self.samples.values, "lower_bounds": bounds, "workload": asdict(self.workload)}


def profile(model: GaussianModel, view: BenchView, runtime: Runtime, timer: DeviceTimer, rounds: int) -> Profile:
    """Time the kernels of training steps on one view, and count the work of its rendering."""
    timing, samples = TimingRuntime(runtime, timer), Samples()
    variant = our_variant("ours", model, CudaBackend(timing))
    with array_sizes() as sizes:
        picture = variant.forward(view)
        workload = count_workload(picture, sizes)
        torch.autograd.backward(picture, view.v_rgb)  # fills in the sizes of its arrays
    del picture
    variant.clear()
    timing.take_seconds()
    for turn in range(-1, rounds):  # the first round warms up
        start = timer.event()
        with timing.timed_sorts():
            rgb, visible = variant.rasterize(model, view)
        with timing.timed(LOSS):
            loss = variant.loss(rgb, view)
        loss.backward()
        with timing.timed(ADAM):
            variant.adam(visible)
        total = timer.seconds(start, timer.event())
        variant.clear()
        found = timing.take_seconds()
        found |= {REST: total - sum(found.values()), TOTAL: total}
        for name, seconds in found.items() if turn >= 0 else ():
            samples.add(name, seconds)
    return Profile(samples, workload)


def kernel_table(title: str, found: Profile, rates: Rates) -> Table:
    """Each kernel with its two lower bounds, and the higher one as a part of its time."""
    work = found.workload
    caption = (
        f"{work.visible:,} of {work.gaussians:,} Gaussians in view, {work.drawn:,} drawn; {work.entries:,} entries, "
        f"{work.reached:,} read. Lower bounds are estimates: every array once at {rates.bandwidth / 1e9:.0f} GB/s (a "
        f"copy, measured); alpha alone at {rates.instructions / 1e12:.1f} T instructions/s (units x highest clock)."
    )
    heads = ("", "ms", "share", "MB", "at least, ms", "M pairs", "at least, ms", "of the time")
    table = make_table(title, heads, caption)
    total = found.samples.median(TOTAL)
    for name in found.samples.values:
        seconds = found.samples.median(name)
        row = [name, f"{1e3 * seconds:.3f}", f"{seconds / total:.0%}"]
        if kernel_of(name) in KERNEL_ARRAYS:
            by_bytes, by_pairs = rates.lower_bounds(work, name)
            pairs = work.pairs_of(name)
            row += [f"{work.bytes_of(name) / 1e6:.1f}", f"{1e3 * by_bytes:.3f}"]
            row += [f"{pairs / 1e6:.1f}", f"{1e3 * by_pairs:.3f}"] if pairs else ["", ""]
            row.append(f"{max(by_bytes, by_pairs) / seconds:.0%}")
        table.add_row(*row)
    return table
