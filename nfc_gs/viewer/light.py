"""Stand-ins for a model while pictures must come quickly: fewer Gaussians, and a field that skips what stands still."""

from __future__ import annotations

import logging
import math
import threading
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from nfc_gs.core.threads import one_torch_thread
from nfc_gs.model.gate import gated
from nfc_gs.model.gaussians import GaussianModel

if TYPE_CHECKING:
    from nfc_gs.viewer.source import Snapshot

logger = logging.getLogger("nfc_gs")

MOST_GROWTH = 4.0
"""Factor by which the area of a Gaussian grows at most where others are left out."""


class Light:
    """The stand-ins of a source. They are made when they are first asked for, by the one thread that draws."""

    def __init__(self) -> None:
        self._number: int | None = None  # of the snapshot they stand for
        self._models: dict[tuple[float, bool], GaussianModel] = {}
        self._gated: tuple[int, GaussianModel] | None = None  # of which snapshot
        self._at_work: threading.Thread | None = None

    def model(self, snapshot: Snapshot, share: float = 1.0, *, plays: bool = False) -> GaussianModel:
        """What to draw in place of a snapshot's model; the model itself where nothing is to be saved.

        Args:
            share: of the Gaussians, 0..1.
            plays: time runs: as soon as it is known what stands still, the field is asked about the rest alone.
        """
        if snapshot.number != self._number:
            self._number = snapshot.number
            self._models.clear()
        plays = plays and snapshot.model.deformation is not None
        whole = self._gated_model(snapshot) if plays else snapshot.model
        if share >= 1.0:
            return whole
        key = (share, whole is snapshot.model)
        if key not in self._models:
            self._models[key] = thinned(whole, share)
        return self._models[key]

    def _gated_model(self, snapshot: Snapshot) -> GaussianModel:
        """The model with a gate, once a thread of its own has followed every Gaussian through all times."""
        if self._gated is not None and self._gated[0] == snapshot.number:
            return self._gated[1]

        def work() -> None:
            try:
                with one_torch_thread():
                    found = gated(snapshot.model)
            except Exception:
                logger.exception("The viewer did not find out what moves; all Gaussians pass through the field.")
                found = snapshot.model
            self._gated = snapshot.number, found

        if self._at_work is None or not self._at_work.is_alive():
            self._at_work = threading.Thread(target=work, name="nfc-gs viewer gate", daemon=True)
            self._at_work.start()
        return snapshot.model


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
    few.log_scales.add_(0.5 * math.log(min(max(growth, 1.0), MOST_GROWTH)))
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
