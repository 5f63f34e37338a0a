"""viser's page, which gets scripts and a style sheet of ours on its way to the browser."""

from __future__ import annotations

import gzip
from functools import lru_cache

from websockets.datastructures import Headers
from websockets.http11 import Response

from nfc_gs.viewer.style import SHEET

FULL_RESOLUTION = b"""<script>{
  const address = new URL(location);
  address.searchParams.set("fixedDpr", Math.min(2, Math.max(1, devicePixelRatio)));
  history.replaceState(history.state, "", address);
}</script>"""
"""Fixes the size of the page's canvas by viser's own option.

Without it viser draws the canvas smaller, at 0.75 of the window's width, once few frames a second have been shown for
some seconds, as it takes the browser to be slow. Here the server decides how many there are, and a camera at rest shows
none that would make viser enlarge the canvas again.
"""

QUIET_SPLATS = b"""<script>{
  const error = console.error.bind(console);
  console.error = (...what) => String(what[0]).includes("Computed radius is NaN") || error(...what);
}</script>"""
"""Keeps an error out of the browser's console that is none.

The corners of the square that viser draws for each splat have two coordinates, and three.js reads a third when it looks
for what is under the cursor: it finds a radius that is not a number, says so, and draws everything as it should.
"""


LIVE_OVERLAY = b"""<script>
  new MutationObserver((changes) => changes.forEach(({ target }) => {
    if (target.inert && target.querySelector(".nfc-over")) {
      target.inert = false;
      target.removeAttribute("aria-hidden");
    }
  })).observe(document, { subtree: true, attributeFilter: ["inert"] });
</script>"""
"""Keeps what lies over the picture usable on a phone while viser's panel is minimized, which makes all in it inert."""

SCRIPTS = FULL_RESOLUTION + QUIET_SPLATS + LIVE_OVERLAY
"""At the beginning of the page."""


def with_additions(response: Response) -> Response:
    """An answer of viser's server; if it is a page, with our scripts before all of its own, and with our styles."""
    if response.headers.get("Content-Type", "").partition(";")[0] != "text/html":
        return response
    body = _with_additions(bytes(response.body), response.headers.get("Content-Encoding") == "gzip")
    headers = Headers(response.headers)
    del headers["Content-Length"]
    headers["Content-Length"] = str(len(body))
    return Response(response.status_code, response.reason_phrase, headers, body)


@lru_cache(maxsize=4)
def _with_additions(page: bytes, zipped: bool) -> bytes:
    text = gzip.decompress(page) if zipped else page
    text = text.replace(b"<head>", b"<head>" + SCRIPTS, 1)
    before, body, after = text.rpartition(b"</body>")
    text = before + SHEET.encode("utf-8") + body + after
    return gzip.compress(text) if zipped else text
