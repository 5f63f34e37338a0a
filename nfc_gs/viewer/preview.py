"""Cheaper Gaussians for pictures that must come quickly: fewer of them, and without deforming what stands still."""

from __future__ import annotations

import logging
import math
import threading

import torch
from torch import Tensor

from nfc_gs.core.threads import one_torch_thread
from nfc_gs.model.gate import gated
from nfc_gs.model.gaussians import GaussianModel
from nfc_gs.viewer.snapshot import Snapshot

logger = logging.getLogger("nfc_gs")

MAX_GROWTH = 4.0
"""Factor by which the area of a Gaussian grows at most where others are left out."""


class PreviewModels:
    """The preview models of a source, shared by all pages. Made when first asked for, by the one thread that draws."""

    def __init__(self) -> None:
        self._number: int | None = None  # of the snapshot that the models below are of
        self._models: dict[tuple[float, bool], GaussianModel] = {}
        self._gated: tuple[int, GaussianModel] | None = None  # (number of the snapshot, its gated model)
        self._gate_thread: threading.Thread | None = None

    def model(self, snapshot: Snapshot, share: float = 1.0, *, playing: bool = False) -> GaussianModel:
        """What to draw in place of a snapshot's Gaussians; these themselves where nothing can be saved.

        Args:
            snapshot: of Gaussians.
            share: of the Gaussians, 0..1.
            playing: time runs: as soon as it is known which Gaussians stand still, only the others are deformed.
        """
        gaussians = snapshot.gaussians
        assert gaussians is not None
        if snapshot.number != self._number:
            self._number = snapshot.number
            self._models.clear()
        playing = playing and snapshot.model.changes_with_time
        whole = self._gated_model(snapshot.number, gaussians) if playing else gaussians
        if share >= 1.0:
            return whole
        key = (share, whole is gaussians)
        if key not in self._models:
            self._models[key] = thinned(whole, share)
        return self._models[key]

    def _gated_model(self, number: int, gaussians: GaussianModel) -> GaussianModel:
        """The model with a gate, once a thread of its own has followed every Gaussian through all times."""
        if self._gated is not None and self._gated[0] == number:
            return self._gated[1]

        def work() -> None:
            try:
                with one_torch_thread():
                    found = gated(gaussians)
            except Exception:
                logger.exception("The viewer could not find out which Gaussians move; it deforms all of them.")
                found = gaussians
            self._gated = number, found

        if self._gate_thread is None or not self._gate_thread.is_alive():
            self._gate_thread = threading.Thread(target=work, name="nfc-gs viewer gate", daemon=True)
            self._gate_thread.start()
        return gaussians


@torch.no_grad()
def thinned(model: GaussianModel, share: float) -> GaussianModel:
    """A share of the Gaussians, 0..1: those that cover most, grown so that together they cover what all of them do."""
    count = max(1, round(share * len(model)))
    if count >= len(model):
        return model
    cover = coverage(model)
    most = cover.topk(count, sorted=False)
    few = model.subset(torch.zeros_like(cover, dtype=torch.bool).index_fill_(0, most.indices, True))
    growth = float(cover.sum()) / max(float(most.values.sum()), 1e-30)
    few.log_scales.add_(0.5 * math.log(min(max(growth, 1.0), MAX_GROWTH)))
    return few


@torch.no_grad()
def coverage(model: GaussianModel) -> Tensor:
    """[N] about how much of a picture each Gaussian covers: its opacity times its area, which two axes span.

    What is far from the middle of the scene is as much larger as it is smaller in the picture.
    """
    place = model.means.nan_to_num()
    middle = place.median(0).values
    away = (place - middle).square().sum(1)
    area = (model.log_scales.sum(1) - model.log_scales.amin(1)).exp()
    return (model.opacities * area / (away + away.median())).nan_to_num(posinf=0.0)
