"""The page's style sheet: what viser has no setting for."""

from __future__ import annotations

from collections.abc import Sequence
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
/* The timeline: a bar at the bottom of the picture, left of the panel; the two controls after it lie in it. */
.nfc-timeline, div:has(> .nfc-timeline) + div, div:has(> .nfc-timeline) + div + div {
  position: fixed !important; bottom: 0.9rem; height: 2.4rem; z-index: 5; margin: 0 !important;
}
.nfc-timeline {
  left: 1rem; width: min(60rem, 100vw - 24rem); z-index: 4; border-radius: 0.4rem; opacity: 0.9;
  background: var(--mantine-color-body); display: flex; align-items: center; justify-content: flex-end;
  padding-right: 0.8rem; font-size: 0.8rem; box-sizing: border-box; pointer-events: none;
}
div:has(> .nfc-timeline) + div { left: 1.2rem; width: 9rem; padding-top: 0.5rem !important; }
div:has(> .nfc-timeline) + div + div {
  left: 10rem; width: calc(min(60rem, 100vw - 24rem) - 17rem); padding-top: 0.5rem !important;
}
@media (max-width: 36em) {
  .nfc-timeline, div:has(> .nfc-timeline) + div, div:has(> .nfc-timeline) + div + div { bottom: auto; top: 3rem; }
  .nfc-timeline {
    left: 0.6rem; width: calc(100vw - 1.2rem); height: 4.4rem; align-items: flex-start; padding-top: 0.6rem;
  }
  div:has(> .nfc-timeline) + div { left: 0.7rem; }
  div:has(> .nfc-timeline) + div + div { left: 0.7rem; width: calc(100vw - 1.4rem); top: 5rem; }
}
</style>"""
"""What every page gets once, as a piece of HTML: viser lets no other style sheets in.

It relies on the class names of viser 1.1. Where they differ, the page looks as viser draws it, and all controls work.
"""


def timeline_bar(text: str) -> str:
    """HTML of the timeline, with a text at its right; the two controls after it lie in it."""
    return f'<div class="nfc-timeline">{escape(text)}</div>'


def tab_mark(names: Sequence[str], selected: str) -> str:
    """HTML that makes the row of buttons after it look like tabs, of which one is selected."""
    button = f"div:has(> .nfc-tabs) + div button:nth-child({names.index(selected) + 1})"
    colors = "color: var(--mantine-color-text); border-bottom-color: var(--mantine-primary-color-filled)"
    return f'<i class="nfc-tabs"></i><style>{button} {{ {colors}; }}</style>'
