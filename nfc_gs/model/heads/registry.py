"""The table of color heads.

To add a head:

1. write a subclass of `heads.color_head.ColorHead` in a file of its own,
2. add its name to `HeadName` and an instance to the tuple of `HEADS` below,
3. give each of its tensors a learning rate in `training.config.LearningRates` and `training.schedules.learning_rates`.

Options of its own also need a field in `HeadOptions`, in `training.config` and an argument of
`GaussianModel.from_points`.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

from nfc_gs.model.heads.bits import BitHead
from nfc_gs.model.heads.color_head import ColorHead
from nfc_gs.model.heads.sh import ShHead

HeadName = Literal["sh", "bits"]

HEADS: dict[str, ColorHead] = {head.name: head for head in (ShHead(), BitHead())}
"""All color heads by name."""


def get_head(name: str) -> ColorHead:
    """The color head of that name.

    Raises:
        ValueError: there is none.
    """
    if name not in HEADS:
        raise ValueError(f"there is no color head '{name}', only {', '.join(HEADS)}")
    return HEADS[name]


def head_of(names: Iterable[str]) -> ColorHead:
    """The color head whose tensors are among those with these names, known by its first.

    Raises:
        ValueError: they are the tensors of no head, or of several.
    """
    names = set(names)
    found = [head for head in HEADS.values() if head.parameters[0] in names]
    if not found:
        firsts = " or ".join(f"'{head.parameters[0]}'" for head in HEADS.values())
        raise ValueError(f"there is no tensor {firsts}, and so no color head")
    if len(found) > 1:
        several = " and ".join(f"'{head.parameters[0]}'" for head in found)
        raise ValueError(f"there are the tensors {several}, but a model has one color head")
    return found[0]
