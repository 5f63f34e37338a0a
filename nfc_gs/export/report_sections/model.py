"""What the splat is made of: how opaque and how large its Gaussians are."""

from __future__ import annotations

import numpy as np
import torch

from nfc_gs.export.report_files import RunFiles
from nfc_gs.export.report_sections.section import Section, section_of
from nfc_gs.model.gaussians import GaussianModel

BINS = 40
WIDTH, HEIGHT, BOTTOM = 420, 170, 24
"""Of a histogram, in its own units; the last for the labels of its axis."""

FAINT = 0.1
"""Below this opacity a Gaussian alone is hardly seen."""


def section(run: RunFiles) -> Section:
    """Two histograms; empty for models of another family, or none."""
    model = run.model
    if not isinstance(model, GaussianModel) or len(model) == 0:
        return Section()
    with torch.no_grad():
        opacities, sizes = model.opacities.numpy(), model.log_scales.mean(dim=1).exp().numpy()
    opacities, sizes = opacities[np.isfinite(opacities)], sizes[np.isfinite(sizes) & (sizes > 0.0)]
    if len(opacities) == 0 or len(sizes) == 0:
        return Section()
    assert run.checkpoint is not None
    unit = run.checkpoint.scene.extent
    faint = 100.0 * (opacities < FAINT).mean()
    small, large = np.percentile(sizes, [5, 95])
    figures = [
        _figure(
            "Opacities",
            _histogram(opacities, 0.0, 1.0, [(0.25 * k, f"{0.25 * k:g}") for k in range(5)]),
            f"Median {np.median(opacities):.2f}; {faint:.0f} % are fainter than {FAINT:g}, and hardly seen alone.",
        ),
        _figure(
            "Sizes",
            _size_histogram(sizes),
            f"Geometric mean of the three scales, in scene units. Half of them are below {np.median(sizes):.2g}, "
            f"{100 * np.median(sizes) / unit:.2g} % of the radius of the cameras' positions; nine in ten lie between "
            f"{small:.2g} and {large:.2g}.",
        ),
    ]
    return Section(section_of("model", f"{len(model):,} Gaussians", f'<div class="charts">{"".join(figures)}</div>'))


def _figure(title: str, drawing: str, words: str) -> str:
    return f'<figure class="card histogram"><h3>{title}</h3>{drawing}<figcaption>{words}</figcaption></figure>'


def _size_histogram(sizes: np.ndarray) -> str:
    """On a logarithmic axis, without the smallest and largest thousandth."""
    logs = np.log10(sizes)
    low, high = np.percentile(logs, [0.1, 99.9])
    low, high = (low - 0.05, high + 0.05) if high - low < 0.1 else (low, high)
    powers = [(p, m) for p in range(int(np.floor(low)), int(np.ceil(high)) + 1) for m in (1, 2, 5)]
    wide = high - low > 2.5
    ticks = [(p + np.log10(m), f"{m * 10.0**p:.12g}") for p, m in powers if m == 1 or not wide]
    return _histogram(logs, low, high, [tick for tick in ticks if low <= tick[0] <= high])


def _histogram(values: np.ndarray, low: float, high: float, ticks: list[tuple[float, str]]) -> str:
    """Bars of equal width between two values, with (place, label) along the axis."""
    counts, _ = np.histogram(values, bins=BINS, range=(low, high))
    step, room = WIDTH / BINS, HEIGHT - BOTTOM
    heights = counts / max(1, counts.max()) * (room - 6)
    bars = "".join(
        f"M{k * step + 0.7:.1f} {room}v{-height:.1f}h{step - 1.4:.1f}v{height:.1f}z" for k, height in enumerate(heights)
    )
    labels = "".join(
        f'<text x="{min(max(x, 10), WIDTH - 10):.1f}" y="{HEIGHT - 7}" text-anchor="middle">{label}</text>'
        for x, label in (((place - low) / (high - low) * WIDTH, label) for place, label in ticks)
    )
    return (
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="Histogram, described below">'
        f'<path d="{bars}"/><line x1="0" x2="{WIDTH}" y1="{room}" y2="{room}"/>{labels}</svg>'
    )
