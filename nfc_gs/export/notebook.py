"""What a notebook shows of a run: a view beside its photo, the figures, links to the report and the splat."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Sequence
from html import escape
from pathlib import Path
from urllib.parse import quote

import numpy as np
import torch

from nfc_gs.core.errors import UserError
from nfc_gs.data.scene import SceneData
from nfc_gs.export.report_pictures import jpeg
from nfc_gs.export.video import to_uint8
from nfc_gs.model.radiance import RadianceModel, RenderOptions
from nfc_gs.runs.families import render
from nfc_gs.runs.names import REPORT_NAME, SPLAT_NAME

SIDE = 480
"""Longest side of a picture, pixels."""

MOST = 200_000
"""Characters of a picture; a notebook keeps them with its cells."""

LEFT = 'style="text-align:left"'

Pictures = list[tuple[str, np.ndarray]]
"""Captions, and pictures [H, W, 3] uint8."""


def view_pictures(model: RadianceModel, scene: SceneData, options: RenderOptions) -> Pictures:
    """The first held-out view (or else the first view) as the model shows it, and its photo where that can be read."""
    index = (scene.test or scene.train)[0]
    view = scene.views[index]
    with torch.no_grad():
        rgb = render(model, view.camera, view.time, options, view=index).rgb
    pictures = [(f"{view.name}, rendered", to_uint8(rgb.cpu().numpy()))]
    with contextlib.suppress(UserError):  # it may be gone since the training
        pictures.append((f"{view.name}, photo", scene.image(index).rgb))
    return pictures


def run_card(folder: Path, pictures: Pictures, rows: Sequence[tuple[str, str]], sentence: str) -> str:
    """HTML that says in a few lines what came out of a run; it keeps the colors of the page around it.

    Args:
        rows: names and values of the figures.
        sentence: what they mean.
    """
    figures = "".join(
        '<figure style="margin:0;max-width:48%">'
        f'<img src="{jpeg(image, SIDE, MOST).uri}" alt="{escape(caption)}" style="max-width:100%">'
        f"<figcaption>{escape(caption)}</figcaption></figure>"
        for caption, image in pictures
    )
    cells = "".join(f"<tr><th {LEFT}>{escape(name)}</th><td>{escape(value)}</td></tr>" for name, value in rows)
    links = " · ".join(_link(folder / name, name) for name in (REPORT_NAME, SPLAT_NAME) if (folder / name).exists())
    return (
        f'<div class="nfc-gs-run"><div style="display:flex;gap:8px;flex-wrap:wrap">{figures}</div>'
        f"<table>{cells}<tr><th {LEFT}>Folder</th><td>{escape(str(folder))}</td></tr></table>"
        f"<p>{escape(sentence[:1].upper() + sentence[1:])}</p><p>{links}</p></div>"
    )


def _link(path: Path, text: str) -> str:
    """A link that works in a notebook whose folder is the current one; beyond that the address of the file."""
    here = os.path.relpath(path)
    address = path.resolve().as_uri() if here.startswith("..") else quote(Path(here).as_posix())
    return f'<a href="{escape(address)}" target="_blank">{escape(text)}</a>'
