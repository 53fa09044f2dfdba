"""Content-Type, Cache-Control and the compressed neighbours of a file."""

from __future__ import annotations

from typing import Any

import pytest

from workermand import Response
from workermand.services import headers

CACHE = {
    "*": "no-cache",
    ".JS": "max-age=60",
    ".css": "max-age=61",
    "/assets/": "immutable",
    "/assets/new/": "max-age=1",
    "/assets/new/none/": "",
}


def of(name: str, *, mime: dict[str, str] | None = None, cache: Any = "") -> dict[str, str]:
    response = Response()
    headers.rules(mime or {}, cache).put_on(response, tuple(name.split("/")))
    return dict(response.headers)


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("a.woff2", "font/woff2"),
        ("a.WOFF2", "font/woff2"),
        ("pictures/a.webp", "image/webp"),
        ("a.js.map", "application/json"),
        ("a.html", None),  # known to everybody: the runtime's to find
        ("webp", None),
        ("a.webp/b", None),
    ],
)
def test_formats_that_the_tables_of_old_machines_do_not_have(name: str, kind: str | None) -> None:
    assert of(name).get("Content-Type") == kind


def test_the_options_go_before_all() -> None:
    mime = {".Webp": "image/x-mine", ".html": "text/html; charset=iso-8859-1"}
    assert of("a.webp", mime=mime)["Content-Type"] == "image/x-mine"
    assert of("a.html", mime=mime)["Content-Type"] == "text/html; charset=iso-8859-1"


@pytest.mark.parametrize(
    ("name", "rule"),
    [
        ("index.html", "no-cache"),
        ("README", "no-cache"),
        ("app.js", "max-age=60"),
        ("lib/app.Js", "max-age=60"),
        ("lib/app.css", "max-age=61"),
        ("assets/app.js", "immutable"),
        ("assets/new/app.js", "max-age=1"),
        ("assets/new/none/app.js", None),
        ("lib/assets/app.png", "no-cache"),
    ],
)
def test_how_long_a_file_may_be_kept(name: str, rule: str | None) -> None:
    assert of(name, cache=CACHE).get("Cache-Control") == rule


def test_one_rule_for_all_and_none() -> None:
    assert of("app.js", cache="max-age=5")["Cache-Control"] == "max-age=5"
    assert "Cache-Control" not in of("app.js")


@pytest.mark.parametrize(
    ("mime", "cache", "complaint"),
    [
        ({"wasm": "application/wasm"}, "", 'mime: "wasm" = .*: expected an ending and a type'),
        ({".wasm": "wasm"}, "", 'mime: ".wasm" = "wasm"'),
        ({".wasm": "application/wasm\r\nX: y"}, "", "cannot be sent"),
        ({}, {"js": "no-cache"}, 'cache_control: "js": expected'),
        ({}, {"*": "no-cache\n"}, "cannot be sent"),
        ({}, "no\x00cache", "cannot be sent"),
    ],
)
def test_what_cannot_be_is_said_at_once(mime: dict[str, str], cache: Any, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        headers.rules(mime, cache)


@pytest.mark.parametrize(
    ("accepted", "names"),
    [
        ("", []),
        ("identity", []),
        ("*", []),
        ("gzip", ["gzip"]),
        ("GZIP, deflate, br", ["br", "gzip"]),
        ("gzip;q=1.0, br ; q=0.5, zstd", ["br", "zstd", "gzip"]),
        ("gzip;q=0, br;q=0.000, zstd;q=0.001", ["zstd"]),
        ("xgzip, gzipx", []),
    ],
)
def test_what_a_client_takes(accepted: str, names: list[str]) -> None:
    assert [name for name, _suffix in headers.encodings(accepted)] == names
