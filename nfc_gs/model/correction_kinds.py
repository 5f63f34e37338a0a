"""The table of corrections of views: how each is made of its saved state.

To add one, write a subclass of `ViewCorrection` in a file of its own, and list here what makes one of its part, under
the name of the companion that trains it.
"""

from __future__ import annotations

from collections.abc import Callable

from nfc_gs.model.corrections import ViewCorrection
from nfc_gs.model.radiance import Part

CORRECTIONS: dict[str, Callable[[Part], ViewCorrection]] = {}
"""By the name of the part in a checkpoint."""
