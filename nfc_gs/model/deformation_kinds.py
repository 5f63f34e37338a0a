"""The kinds of deformations by name, made from saved settings."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from nfc_gs.model.deformation import WIDTHS, Deformation
from nfc_gs.model.hexplane import HexPlane, HexPlaneConfig
from nfc_gs.model.mlp import MlpConfig, MlpDeformation


def make_deformation(settings: Mapping[str, Any], bounds: Tensor, generator: torch.Generator | None) -> Deformation:
    """A deformation of the sizes in `settings`, which it keeps.

    Args:
        settings: plain values: "kind", "quantities", "config" (of `HexPlaneConfig` or `MlpConfig`), "unit" (1 without
            it); for a HexPlane also "time_resolution" and "max_bounds" [2, 3] (what `bounds` may become at most;
            anything without it).
        bounds: [2, 3].
        generator: of the first values; None leaves all zero, to be loaded.

    Raises:
        KeyError, TypeError, ValueError: the settings are no such thing.
    """
    quantities = settings["quantities"]
    if not quantities or not set(quantities) <= set(WIDTHS):
        raise ValueError(f"quantities {quantities}")
    if settings["kind"] == "hexplane":
        if "max_bounds" in settings and torch.tensor(settings["max_bounds"]).shape != (2, 3):
            raise ValueError(f"max_bounds {settings['max_bounds']}")
        config = HexPlaneConfig(**{**settings["config"], "levels": tuple(settings["config"]["levels"])})
        deformation: Deformation = HexPlane(config, int(settings["time_resolution"]), quantities, bounds, generator)
    elif settings["kind"] == "mlp":
        deformation = MlpDeformation(MlpConfig(**settings["config"]), quantities, bounds, generator)
    else:
        raise ValueError(f"kind {settings['kind']}")
    deformation.unit = float(settings.get("unit", 1.0))
    deformation.settings = dict(settings)
    return deformation
