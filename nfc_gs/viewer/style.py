"""The page's style sheet: what viser has no setting for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape

SHEET = """<style>
/* Tooltips stand left of the panel, at the height of their control, instead of over the control above it. */
@media (min-width: 36.01em) {
  .mantine-Tooltip-tooltip[style*="15rem"] {
    position: fixed !important; left: auto !important; right: 23rem !important;
    width: fit-content !important; max-width: 15rem; translate: 0 calc(50% + 1.2rem);
  }
}
@media (max-width: 36em) {
  .mantine-Tooltip-tooltip[style*="15rem"] { display: none !important; }
}
.mantine-Tooltip-tooltip[style*="15rem"] .mantine-Tooltip-arrow { display: none; }
/* The same for buttons, which viser gives none: `button_hints` has their texts. */
@media (min-width: 36.01em) {
  button[id]::after {
    position: fixed; right: 23rem; max-width: 15rem; padding: 0.3rem 0.6rem; z-index: 100; pointer-events: none;
    border-radius: var(--mantine-radius-default); background: var(--mantine-color-gray-2); color: black;
    font-size: var(--mantine-font-size-sm); font-weight: 400; line-height: 1.55; white-space: normal; text-align: left;
  }
  button[id]:hover::after { animation: 0.01s 0.5s both nfc-appear; }
  div:has(> .nfc-timeline) + div button[id]::after { right: auto; left: 1rem; bottom: 3.6rem; }
}
@keyframes nfc-appear { from { visibility: hidden; } to { visibility: visible; } }
/* viser's own "Save Canvas" and "Reset View" know nothing of screenshots, and of the start camera of this window. */
div:has(> button .tabler-icon-home-move) { display: none !important; }
/* A row of buttons after the mark is a row of tabs, in one line. */
div:has(> .nfc-tabs) + div { padding: 0 0 0.6em !important; }
div:has(> .nfc-tabs) + div div:has(> p > label) { display: none; }
div:has(> .nfc-tabs) + div div:has(> button) {
  flex-wrap: nowrap !important; gap: 0 !important; border-bottom: 1px solid var(--mantine-color-default-border);
}
div:has(> .nfc-tabs) + div button {
  flex: 1 1 auto !important; min-width: 0 !important; height: 2.2rem; padding: 0 0.2rem; font-size: 0.78rem;
  border: 0; border-bottom: 2px solid transparent; border-radius: 0; color: var(--mantine-color-dimmed);
  background: none;
}
div:has(> .nfc-tabs) + div button:hover { color: var(--mantine-color-text); }
@media (max-width: 36em) {
  div:has(> .nfc-tabs) + div button { padding: 0 0.1rem; font-size: 0.7rem; letter-spacing: -0.02em; }
}
/* A slider after the mark has no number: that of a logarithm means little. */
div:has(> .nfc-no-number) { display: none; }
div:has(> .nfc-no-number) + div .mantine-NumberInput-root { visibility: hidden; }
/* The window of what lies over the picture has no frame, header or size, and lets the mouse through. */
[data-floating-window]:has(.nfc-over) {
  height: 0 !important; border: 0; box-shadow: none; background: none; pointer-events: none;
}
[data-floating-window]:has(.nfc-over) > [data-dock-resize],
[data-floating-window]:has(.nfc-over) [data-dock-griphandle],
[data-floating-window]:has(.nfc-over) [data-dock-strip],
.mantine-Tabs-root:has(.nfc-over) > [aria-expanded] { display: none !important; }
.mantine-Tabs-root:has(.nfc-over) { height: 0; }
/* On a phone it is a part of viser's panel, and stays where it is while that is minimized. */
[style*="display: none"]:has(.nfc-over) { display: block !important; opacity: 1 !important; }
/* viser's notes are below what is at the top of the picture. */
.mantine-Notifications-root { top: 3rem !important; }
/* The timeline: a bar at the bottom of the picture, left of the panel; on a phone, whose panel is at the bottom, at the
   top. The two controls after it lie in it: a button, and a slider without its label and its number. */
.nfc-timeline, div:has(> .nfc-timeline) + div, div:has(> .nfc-timeline) + div + div {
  position: fixed !important; bottom: 0.9rem; height: 2.4rem; z-index: 5; margin: 0 !important; padding: 0 !important;
  display: flex; align-items: center; box-sizing: border-box; pointer-events: auto;
}
.nfc-timeline {
  left: 1rem; width: min(60rem, 100vw - 24rem); z-index: 4; border-radius: 0.4rem; opacity: 0.9;
  background: var(--mantine-color-body); justify-content: flex-end; padding-right: 0.8rem !important;
  font-size: 0.8rem; font-variant-numeric: tabular-nums; pointer-events: none;
}
div:has(> .nfc-timeline) + div { left: 1.3rem; width: 6.5rem; }
div:has(> .nfc-timeline) + div + div { left: 8.6rem; width: calc(min(60rem, 100vw - 24rem) - 15.6rem); }
div:has(> .nfc-timeline) + div + div > * { width: 100%; }
div:has(> .nfc-timeline) + div + div div:has(> p > label),
div:has(> .nfc-timeline) + div + div .mantine-NumberInput-root,
div:has(> .nfc-timeline) + div + div .mantine-Slider-markLabel { display: none; }
@media (max-width: 36em) {
  .mantine-Notifications-root { top: 5.8rem !important; }
  .nfc-timeline, div:has(> .nfc-timeline) + div, div:has(> .nfc-timeline) + div + div { bottom: auto; top: 2.8rem; }
  .nfc-timeline { left: 0.6rem; width: calc(100vw - 1.2rem); }
  div:has(> .nfc-timeline) + div { left: 0.8rem; }
  div:has(> .nfc-timeline) + div + div { left: 7.9rem; width: calc(100vw - 14.9rem); }
}
</style>"""
"""HTML at the end of viser's page (`viewer.canvas`).

It relies on the class names of viser 1.1. Where they differ, the page looks as viser draws it, and all controls work.
"""

OVERLAY_MARK = '<i class="nfc-over"></i>'
"""HTML that makes the window that it is in invisible, but for what has a place of its own over the picture."""


HIDES_NUMBER = '<i class="nfc-no-number"></i>'
"""HTML before a slider that hides the slider's number."""


def timeline_bar(text: str) -> str:
    """HTML of the timeline, with a text at its right; the two controls after it lie in it."""
    return f'<div class="nfc-timeline">{escape(text)}</div>'


def button_hints(hints: Mapping[str, str]) -> str:
    """HTML that gives buttons, by their ids, the tooltips that viser shows of all other controls."""
    rules = (f'button[id="{id}"]:hover::after {{ content: "{_css_text(hint)}" / ""; }}' for id, hint in hints.items())
    return f"<style>{''.join(rules)}</style>"


def _css_text(text: str) -> str:
    """A text as it is written within quotes in CSS in a page."""
    return "".join(char if char.isalnum() or char in " .,:;()-" else f"\\{ord(char):x} " for char in text)


def tab_mark(names: Sequence[str], selected: str) -> str:
    """HTML that makes the row of buttons after it look like tabs, of which one is selected."""
    button = f"div:has(> .nfc-tabs) + div button:nth-child({names.index(selected) + 1})"
    colors = "color: var(--mantine-color-text); border-bottom-color: var(--mantine-primary-color-filled)"
    return f'<i class="nfc-tabs"></i><style>{button} {{ {colors}; }}</style>'
