"""What is added to viser's page; `test_viewer_page.py` shows in a browser that its canvas keeps its size."""

from __future__ import annotations

import gzip
from http import HTTPStatus

import pytest
from websockets.datastructures import Headers
from websockets.http11 import Response

from nfc_gs.viewer.canvas import SCRIPTS, with_additions
from nfc_gs.viewer.style import SHEET

PAGE = b"<!doctype html><html><head><title>Viser</title></head><body></body></html>"


def answer(body: bytes, kind: str, encoding: str) -> Response:
    headers = {"Content-Type": kind, "Content-Length": str(len(body)), "Content-Encoding": encoding, "X-Other": "kept"}
    return Response(HTTPStatus.OK, "OK", Headers(**headers), body)


@pytest.mark.parametrize("kind", ["text/html", "text/html; charset=utf-8"])
@pytest.mark.parametrize("zipped", [False, True])
def test_a_page_begins_with_our_script_ends_with_our_styles_and_is_else_the_same(kind: str, zipped: bool) -> None:
    sent = answer(gzip.compress(PAGE) if zipped else PAGE, kind, "gzip" if zipped else "identity")
    for _ in range(2):
        got = with_additions(sent)
        body = gzip.decompress(got.body) if zipped else got.body
        assert body.startswith(b"<!doctype html><html><head>" + SCRIPTS + b"<title>")
        assert body.endswith(SHEET.encode("utf-8") + b"</body></html>"), "after viser's own styles"
        assert body.replace(SCRIPTS, b"").replace(SHEET.encode("utf-8"), b"") == PAGE
        assert got.headers.get_all("Content-Length") == [str(len(got.body))] and got.headers["X-Other"] == "kept"
        assert got.status_code == 200 and got.headers["Content-Type"] == kind


def test_other_files_are_sent_as_they_are() -> None:
    sent = answer(b"<head>", "application/javascript", "identity")
    assert with_additions(sent) is sent
