"""The canvas of viser's page, which is changed on its way to the browser."""

from __future__ import annotations

import gzip
from functools import lru_cache

from websockets.datastructures import Headers
from websockets.http11 import Response

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


def at_full_resolution(response: Response) -> Response:
    """An answer of viser's server; if it is a page, with our scripts before all of its own."""
    if response.headers.get("Content-Type", "").partition(";")[0] != "text/html":
        return response
    body = _with_script(bytes(response.body), response.headers.get("Content-Encoding") == "gzip")
    headers = Headers(response.headers)
    del headers["Content-Length"]
    headers["Content-Length"] = str(len(body))
    return Response(response.status_code, response.reason_phrase, headers, body)


@lru_cache(maxsize=4)
def _with_script(page: bytes, zipped: bool) -> bytes:
    text = gzip.decompress(page) if zipped else page
    text = text.replace(b"<head>", b"<head>" + FULL_RESOLUTION + QUIET_SPLATS, 1)
    return gzip.compress(text) if zipped else text
