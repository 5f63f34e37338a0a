"""The held-out views: photo, rendering and errors of each, and a table of their numbers."""

from __future__ import annotations

import shlex
from html import escape
from typing import Any

from nfc_gs.core import colormap
from nfc_gs.export.report_files import RunFiles, ViewResult, as_number
from nfc_gs.export.report_sections.section import Section, empty, fixed, section_of
from nfc_gs.export.report_sections.slider import slider

STAGE = """
<div class="stage card" id="stage">
  <div class="heading">
    <h3 id="view-name"></h3><span class="muted" id="view-metrics" aria-live="polite"></span>
    <span class="pager push">
      <span class="muted" id="view-count"></span>
      <button type="button" id="previous" aria-label="Previous view">&#8592;</button>
      <button type="button" id="next" aria-label="Next view">&#8594;</button>
    </span>
  </div>
  <div class="pictures wide" id="pictures">
    <figure class="compare">SLIDER<figcaption>Drag to compare</figcaption></figure>
    <figure><img id="image-truth" alt=""><figcaption>Photo</figcaption></figure>
    <figure><img id="image-render" alt=""><figcaption>Rendering</figcaption></figure>
    <figure><img id="image-error" alt=""><figcaption>Absolute error, mean of the channels
      <span class="scale">0<i style="background:GRADIENT"></i>FULL</span></figcaption></figure>
  </div>
</div>
"""


def section(run: RunFiles) -> Section:
    """The views, the worst and the best first."""
    if not run.views:
        body = empty("No view was held out, so there is nothing to compare.")
        return Section(section_of("views", "Held-out views", body), [])
    note = ""
    if len(run.shown) < len(run.views):
        which = "the worst and the best among them" if run.shown else "their files are missing"
        note = f'<p class="note">Pictures of {len(run.shown)} of {len(run.views)} views are shown, {which}.</p>'
    body = _sample(run) + (_stage() if run.shown else "") + _table(run) + note
    return Section(section_of("views", "Held-out views", body), [_data(view) for view in run.shown])


def _sample(run: RunFiles) -> str:
    """That not all held-out views were measured, where that is so."""
    held_out = as_number(run.test.get("held_out"))
    if held_out is None or held_out <= len(run.views):
        return ""
    command = f"nfc-gs eval --all {shlex.quote(str(run.folder))}"
    return (
        f'<p class="note">{len(run.views)} of {held_out:,.0f} held-out views were measured, chosen at random, the same '
        f"ones in every run; <code>{escape(command)}</code> measures all.</p>"
    )


def view_in_words(view: ViewResult) -> str:
    """The numbers of a view in one line."""
    numbers = [(view.psnr, "PSNR {:.2f} dB"), (view.ssim, "SSIM {:.4f}"), (view.lpips, "LPIPS {:.4f}")]
    numbers += [(view.foreground_psnr, "foreground {:.2f} dB"), (view.moving_psnr, "moving parts {:.2f} dB")]
    return " · ".join(form.format(value) for value, form in numbers if value is not None)


def _stage() -> str:
    gradient = f"linear-gradient(90deg, {', '.join(colormap.gradient(colormap.ERROR_MAP))})"
    parts = {
        "SLIDER": slider("slide", None, None, 50),
        "GRADIENT": gradient,
        "FULL": f"&#8805;&nbsp;{colormap.ERROR_FULL}",
    }
    html = STAGE
    for name, part in parts.items():
        html = html.replace(name, part)
    return html


def _data(view: ViewResult) -> dict[str, Any]:
    sources = {kind: picture.uri for kind, picture in view.pictures.items()}
    size = view.pictures["render"]
    return {"name": view.name, "metrics": view_in_words(view), "width": size.width, "height": size.height, **sources}


def _table(run: RunFiles) -> str:
    when, digits = {"frames": ("Frame", 0), "seconds": ("Time (s)", 3)}.get(run.axis.unit, ("Time", 3))
    kinds = [(when, "time", digits), ("PSNR (dB)", "psnr", 2), ("Foreground (dB)", "foreground_psnr", 2)]
    kinds += [("Moving (dB)", "moving_psnr", 2), ("SSIM", "ssim", 4), ("LPIPS", "lpips", 4)]
    kinds = [kind for kind in kinds if any(getattr(view, kind[1]) is not None for view in run.views)]
    heads = "".join(f'<th scope="col"><button type="button">{label}</button></th>' for label, _, _ in kinds)
    places = {id(view): place for place, view in enumerate(run.shown)}
    psnrs = [view.psnr for view in run.views if view.psnr is not None]
    badges = {id(run.ordered[0]): "worst", id(run.ordered[1]): "best"} if len(psnrs) > 1 else {}
    rows = []
    for view in run.ordered:
        badge = f'<span class="badge">{badges[id(view)]}</span>' if id(view) in badges else ""
        name, place = escape(view.name), places.get(id(view))
        label = name if place is None else f'<button type="button" aria-pressed="false">{name}</button>'
        cells = "".join(
            f'<td data-value="{"" if value is None else value}">{fixed(value, digits)}</td>'
            for value, digits in ((getattr(view, key), digits) for _, key, digits in kinds)
        )
        attribute = "" if place is None else f' data-view="{place}"'
        rows.append(f'<tr{attribute}><td data-value="{name}">{label}{badge}</td>{cells}</tr>')
    return (
        '<div class="scroll card" tabindex="0" role="region" aria-label="Numbers of each view">'
        '<table id="views"><thead><tr>'
        f'<th scope="col"><button type="button">View</button></th>{heads}</tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table></div>"
    )
