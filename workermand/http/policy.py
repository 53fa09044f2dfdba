"""What is refused of a request that the parser has let pass, one named rule each.

llhttp holds a request to the grammar; here is what a grammar does not say, and what two servers in a row could read in
two ways: request smuggling lives there. ``examine`` is called once for a head, with what the parser found, and says
what follows it, or raises Refusal with the status to answer. Every rule is in RULES, with that status.
"""

from __future__ import annotations

import functools
import ipaddress
import re
from typing import Final, NoReturn

import msgspec

from workermand.errors import WorkermandError

RULES: Final = {
    "syntax": 400,  # the parser's own
    "method": 501,
    "version": 505,
    "request-line-size": 414,
    "field-size": 431,
    "field-count": 431,
    "head-size": 431,
    "target": 400,
    "host": 400,
    "misdirected": 421,
    "content-type": 400,
    "transfer-encoding-old": 400,
    "transfer-coding": 501,
    "expectation": 417,
    "body-size": 413,
    "trailer": 400,
    "json": 400,
    "form": 400,
    "form-size": 413,
    "form-type": 415,
    "session": 503,
}

_METHODS: Final = (
    "GET HEAD POST PUT DELETE OPTIONS PATCH QUERY ACL BIND CHECKOUT COPY LINK LOCK M-SEARCH MERGE MKACTIVITY "
    "MKCALENDAR MKCOL MOVE NOTIFY PROPFIND PROPPATCH PURGE REBIND REPORT SEARCH SUBSCRIBE UNBIND UNLINK UNLOCK "
    "UNSUBSCRIBE"
)
METHODS: Final = {name.encode(): name for name in _METHODS.split()}
"""All that the parser knows but CONNECT (no proxy here), TRACE (it shows cookies to scripts), and other protocols'."""

FRAMING: Final = frozenset(
    b"content-length transfer-encoding host connection upgrade expect content-type te trailer cookie authorization "
    b"content-encoding content-range cache-control set-cookie".split()
)
"""What may not come after the body: it would change what has been decided by then (RFC 9110 6.5.1)."""


class Refusal(WorkermandError):
    """This request gets ``status`` for an answer, by ``rule`` (a key of RULES)."""

    def __init__(self, rule: str, why: str) -> None:
        super().__init__(why)
        self.rule = rule
        self.status = RULES[rule]
        self.why = why


class Limits(msgspec.Struct, frozen=True):
    """Of a request's head. gunicorn: 4094 and 8190 bytes, 100 fields; nginx: 8 KiB a line; Go and uvicorn: 16 KiB and
    more in all."""

    line: int = 8192
    """Bytes of the request line."""
    field: int = 8192
    """Bytes of one header field, name and value."""
    fields: int = 100
    head: int = 32768
    """Bytes in all."""


class Head(msgspec.Struct):
    """What a head says about itself and what follows."""

    method: str
    fields: list[bytes]
    """Names and values in turn; without the names that have an underscore, which a CGI could not tell from hyphens."""
    keep_alive: bool
    length: int = 0
    chunked: bool = False
    expects_continue: bool = False
    upgrade: bytes = b""
    """What it asks for, in lower case."""


def examine(method: bytes, target: bytes, fields: list[bytes], version: str, keep_alive: bool, limits: Limits) -> Head:
    """The one way through the rules for a head. Raises Refusal."""
    known = METHODS.get(method)
    if known is None:
        refuse("method", f"method {method.decode('latin-1')} is not implemented")
    if version not in ("1.1", "1.0"):
        refuse("version", f"HTTP/{version} is not spoken here")
    if len(fields) > 2 * limits.fields:
        refuse("field-count", f"more than {limits.fields} header fields")
    names = [name.lower() for name in fields[::2]]
    head = Head(known, fields, keep_alive and version == "1.1")
    for name in set(names) & _LOOKED_AT.keys():
        values = [value for found, value in zip(names, fields[1::2], strict=True) if found == name]
        _LOOKED_AT[name](head, values, version)
    _check_target(known, target, _host_of(names, fields, version))
    if b"_" in b"".join(names):
        head.fields = without_underscores(fields)
    return head


def measure(raw: bytes | bytearray, fields: list[bytes], limits: Limits) -> None:
    """A whole head, as it came, against the limits. Raises Refusal."""
    if raw.find(b"\r\n") > limits.line:
        refuse("request-line-size", f"request line over {limits.line} bytes")
    if len(raw) > limits.head:
        refuse("head-size", f"head over {limits.head} bytes")
    for name, value in zip(fields[::2], fields[1::2], strict=True):
        if len(name) + len(value) > limits.field:
            refuse("field-size", f"header field over {limits.field} bytes")


def measure_part(raw: bytearray, limits: Limits) -> None:
    """What has come of a head, as soon as it is too much whatever follows. Raises Refusal."""
    if len(raw) > limits.line + 1 and raw.find(b"\r\n", 0, limits.line + 2) < 0:
        refuse("request-line-size", f"request line over {limits.line} bytes")
    if len(raw) > limits.head:
        refuse("head-size", f"head over {limits.head} bytes")


def check_trailers(fields: list[bytes], limits: Limits) -> None:
    """What came behind a chunked body. Raises Refusal."""
    if len(fields) > 2 * limits.fields:
        refuse("field-count", f"more than {limits.fields} trailer fields")
    for name in fields[::2]:
        if name.lower() in FRAMING:
            refuse("trailer", f"{name.decode('latin-1')} cannot be a trailer")


def without_underscores(fields: list[bytes]) -> list[bytes]:
    pairs = zip(fields[::2], fields[1::2], strict=True)
    return [part for pair in pairs if b"_" not in pair[0] for part in pair]


def refuse(rule: str, why: str) -> NoReturn:
    raise Refusal(rule, why)


# ---------------------------------------------------------------------------------------------------- by header field


def _content_length(head: Head, values: list[bytes], version: str) -> None:
    head.length = int(values[0])  # the parser allows one, of digits


def _transfer_encoding(head: Head, values: list[bytes], version: str) -> None:
    if version == "1.0":
        refuse("transfer-encoding-old", "HTTP/1.0 has no Transfer-Encoding")
    if len(values) > 1 or values[0].strip(b" \t").lower() != b"chunked":
        refuse("transfer-coding", "no Transfer-Encoding but chunked is implemented")
    head.chunked = True


def _content_type(head: Head, values: list[bytes], version: str) -> None:
    if len(values) > 1:
        refuse("content-type", "Content-Type stands there twice")


def _expect(head: Head, values: list[bytes], version: str) -> None:
    if [value.strip(b" \t").lower() for value in values] != [b"100-continue"]:
        refuse("expectation", "nothing can be expected but 100-continue")
    head.expects_continue = version == "1.1"


def _upgrade(head: Head, values: list[bytes], version: str) -> None:
    head.upgrade = b",".join(values).lower()


_LOOKED_AT = {
    b"content-length": _content_length,
    b"transfer-encoding": _transfer_encoding,
    b"content-type": _content_type,
    b"expect": _expect,
    b"upgrade": _upgrade,
}

# ---------------------------------------------------------------------------------------------------- target and host


def _host_of(names: list[bytes], fields: list[bytes], version: str) -> bytes:
    count = names.count(b"host")
    if count > 1:
        refuse("host", "Host stands there twice")
    if not count:
        if version == "1.1":
            refuse("host", "Host is missing")
        return b""
    host = fields[2 * names.index(b"host") + 1].strip(b" \t")
    if host and not is_host(host):  # RFC 9112 3.2: it may be empty, and must be where the target has no authority
        refuse("host", "Host is not a host")
    return host


_HOST = re.compile(rb"(?:\[([0-9A-Fa-f:.]+)\]|[A-Za-z0-9._~!$&'()*+,;=%-]+)(?::[0-9]{0,5})?")
_ABSOLUTE = re.compile(rb"https?://([^/?#@]+)(?:[/?].*)?", re.IGNORECASE | re.DOTALL)


@functools.lru_cache(maxsize=256)
def is_host(host: bytes) -> bool:
    """A name or an address with or without a port, as Host has it."""
    match = _HOST.fullmatch(host)
    if match is None:
        return False
    if match[1]:
        try:
            ipaddress.IPv6Address(match[1].decode())
        except ValueError:
            return False
    return True


def _check_target(method: str, target: bytes, host: bytes) -> None:
    if b"#" in target:
        refuse("target", "a request target has no fragment")
    if target.startswith(b"/"):
        return
    if target == b"*":
        if method != "OPTIONS":
            refuse("target", "* is a target of OPTIONS only")
        return
    absolute = _ABSOLUTE.fullmatch(target)
    if absolute is None or not is_host(absolute[1]):
        refuse("target", "the target is neither a path nor an address")
    if host and absolute[1].lower() != host.lower():
        refuse("misdirected", "the target names another host than Host")
