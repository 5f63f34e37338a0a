"""Two pictures in one place, divided by a line that can be dragged."""

from __future__ import annotations

from nfc_gs.export.report_pictures import Picture


def slider(name: str, left: Picture | None, right: Picture | None, percent: int) -> str:
    """The HTML of a slider between photo and rendering, for the script to move.

    Args:
        name: prefix of its ids, unique on the page.
        left, right: photo and rendering, equally large; None for the script to fill in.
        percent: of the width that shows the photo at first.
    """
    images = "".join(
        f'<img id="{name}-{kind}" alt="{words} of the view"'
        + ("" if picture is None else f' src="{picture.uri}" width="{picture.width}" height="{picture.height}"')
        + ' draggable="false">'
        for kind, words, picture in (("truth", "Photo", left), ("render", "Rendering", right))
    )
    return (
        f'<div class="slider" id="{name}" style="--at:{percent}%" data-at="{percent}">{images}'
        '<span class="tag left">Photo</span><span class="tag right">Rendering</span>'
        f'<div class="handle" id="{name}-handle" role="slider" tabindex="0" aria-label="Divide photo and rendering" '
        f'aria-valuemin="0" aria-valuemax="100" aria-valuenow="{percent}"></div></div>'
    )
