"""answers: the pieces that test_answering.py does not go through."""

from __future__ import annotations

import pytest

from workermand.http import answers


@pytest.mark.parametrize("status", [400, 408, 413, 414, 417, 421, 426, 431, 501, 503, 505])
def test_a_whole_error_answer(status: int) -> None:
    answer = answers.error(status, "it is so", headers=[("Retry-After", "1")])
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 %d " % status)
    assert b"\r\nConnection: close" in head
    assert b"\r\nRetry-After: 1" in head
    assert b"\r\nContent-Length: %d" % len(body) in head
    assert body.endswith(b"it is so\n")
    assert answers.error(status, "it is so", head_only=True).endswith(b"\r\n\r\n")


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("a.html", "text/html; charset=utf-8"),
        ("a.js", "text/javascript; charset=utf-8"),
        ("a.png", "image/png"),
        ("a.tar.gz", "application/octet-stream"),
        ("a", "application/octet-stream"),
    ],
)
def test_type_of(path: str, kind: str) -> None:
    assert answers.type_of(path) == kind


@pytest.mark.parametrize(
    ("value", "accepted"),
    [
        ("gzip", True),
        ("deflate, gzip;q=1.0, *;q=0.5", True),
        ("x-gzip", False),
        ("gzipped", False),
        ("*;q=0", False),
        ("identity", False),
        ("gzip ; q=0", False),
        ("", False),
    ],
)
def test_accepts_gzip(value: str, accepted: bool) -> None:
    assert answers.accepts_gzip(value) is accepted


def test_compressing_twice_gives_the_same_bytes() -> None:
    assert answers.compress(b"x" * 2000) == answers.compress(b"x" * 2000)
