"""Forms, cookies, ranges and dates: text of a client's that is read when a handler asks for it."""

from __future__ import annotations

import contextlib
from urllib.parse import urlencode

from tests.fuzz.cutting import taken_apart
from workermand.http import answers, forms, ranges
from workermand.http.policy import Refusal
from workermand.http.request import networks, remote_ip

TRUSTED = networks(["10.0.0.0/8", "::1"])

_PART = b'--x\r\nContent-Disposition: form-data; name="%b"%b\r\n\r\n%b\r\n'
SEEDS = [
    b"\0\0\0\0" + _PART % (b"a", b"", b"1") + _PART % (b"f[]", b'; filename="C:\\b"', b"\0\xff") + b"--x--\r\n",
    b"\0\0\0\0" + _PART % (b"a", b"; filename*=UTF-8''%e2%82%ac", b"") + b"--x--",
    b"\1\0\0\0a=1&b=%zz&c[]=+&&=&a=%C3%BC",
    b"\2\0\0\0a=1; b=\"2\"; c=%41; ; =; a",
    b"\3\0\0\0bytes=0-1, 5-, -3",
    b"\4\0\0\0Sun, 06 Nov 1994 08:49:37 GMT",
    b"\4\0\0\0W/\"a\", \"abc\", *",
    b"\5\0\0\0gzip;q=0.5, *;q=0, br",
    b"\6\0\0\0192.0.2.1:80, [::1]:5, 10.0.0.1",
    b'\7\0\0\0multipart/form-data; boundary="a\\"b"; charset=x',
]  # fmt: skip
WORDS = (
    b"--x --x-- \r\n\r\n Content-Disposition: form-data; name= filename= filename*=UTF-8'' Content-Type: charset= "
    b"%41 [] bytes= GMT Nov 1994 W/ q=0 gzip * :: [ ] boundary="
).split(b" ")
SIZE, ETAG, MODIFIED = 1000, '"abc"', 784111777


def check(data: bytes) -> None:
    options, where, wire = taken_apart(data)
    text = wire.decode("latin-1")
    with contextlib.suppress(Refusal):
        [_multipart, _query, _cookies, _ranges, _conditions, _gzip, _proxies, _type][options & 7](wire, text, where)


def _multipart(wire: bytes, _text: str, _where: bytes) -> None:
    values, files = forms.parse_multipart(wire, "multipart/form-data; boundary=x")
    size = sum(upload.size for uploads in files.values() for upload in uploads)
    assert size <= len(wire)
    for uploads in files.values():
        for upload in uploads:
            assert len(upload.read()) == upload.size
            assert not set(upload.name) & {"/", "\\", "\0"}
    assert sum(len(value) for each in values.values() for value in each) <= len(wire)


def _query(wire: bytes, text: str, _where: bytes) -> None:
    values = forms.parse_query(wire)
    assert forms.parse_query(text) == values
    if not any(name.endswith("[]") for name in values):
        pairs = [(name if isinstance(value, str) else f"{name}[]", value) for name, value in values.items()]
        assert forms.parse_query(urlencode(pairs, doseq=True)) == values


def _cookies(_wire: bytes, text: str, _where: bytes) -> None:
    forms.parse_cookies([text, text])


def _ranges(_wire: bytes, text: str, where: bytes) -> None:
    size = int.from_bytes(where)
    parts = ranges.parse(text, size)
    for part in parts or ():
        assert 0 <= part.offset < part.offset + part.count <= size
    assert sum(part.count for part in parts or ()) <= size


def _conditions(_wire: bytes, text: str, where: bytes) -> None:
    names = ["if-match", "if-none-match", "if-modified-since", "if-unmodified-since", "if-range", "range"]
    headers = {name: text for bit, name in enumerate(names) if where[0] >> bit & 1}
    headers.setdefault("range", "bytes=1-2")
    for method in ("GET", "POST"):
        assert ranges.decide(method, headers.get, SIZE, ETAG, MODIFIED).status in (200, 206, 304, 412, 416)


def _gzip(_wire: bytes, text: str, _where: bytes) -> None:
    answers.accepts_gzip(text)
    answers.type_of(text)


def _proxies(_wire: bytes, text: str, _where: bytes) -> None:
    for peer in ("10.0.0.1", "", "192.0.2.9"):
        assert isinstance(remote_ip(peer, text, text, TRUSTED), str)


def _type(_wire: bytes, text: str, where: bytes) -> None:
    forms.parse_multipart(b"--x\r\n" + where + b"\r\n--x--\r\n", text)
