"""Conditional requests and ranges (RFC 9110 13 and 14): which part of a file goes out, and with what status. Pure.

``decide`` is asked with the request's headers and the facts of the file; numbers are bytes, times whole seconds since
1970, as the fields have them.
"""

from __future__ import annotations

import calendar
import email.utils
import functools
import re
from collections.abc import Callable
from typing import Final

import msgspec

MOST_RANGES: Final = 16
"""More than so many are answered with the whole: nobody needs them, and each costs a part's head (as in nginx: 1)."""

Header = Callable[[str], str | None]
"""request.header: a name in, the value out, None when it is missing."""

_RANGES = re.compile(r"bytes=[ \t,]*((?:\d+-\d*|-\d+)(?:[ \t]*,[ \t]*(?:\d+-\d*|-\d+)?)*)", re.IGNORECASE)
_ETAG = re.compile(r'(?:W/)?"[\x21\x23-\x7e\x80-\xff]*"')
DIGITS: Final = 18
"""Of a number in a range: 2**60 is beyond every file."""


class Part(msgspec.Struct, frozen=True):
    """``count`` bytes from ``offset`` on."""

    offset: int
    count: int


class Decision(msgspec.Struct, frozen=True):
    """``status`` is 200, 206, 304, 412 or 416; ``parts`` is what goes out, several with 206 only."""

    status: int
    parts: tuple[Part, ...] = ()


def etag_of(size: int, mtime_ns: int) -> str:
    """Of a file: a strong one. It changes with every write that changes size or time."""
    return f'"{mtime_ns:x}-{size:x}"'


def decide(method: str, header: Header, size: int, etag: str, modified: int) -> Decision:
    """In the order of RFC 9110 13.2.2."""
    whole = Decision(200, (Part(0, size),))
    if (condition := header("if-match")) is not None:
        if not _matches(condition, etag, weakly=False):
            return Decision(412)
    elif modified > _seconds(header("if-unmodified-since"), never=modified):
        return Decision(412)
    if (condition := header("if-none-match")) is not None:
        if _matches(condition, etag, weakly=True):
            return Decision(304 if method in ("GET", "HEAD") else 412)
    elif method in ("GET", "HEAD") and modified <= _seconds(header("if-modified-since"), never=modified - 1):
        return Decision(304)
    wanted = header("range")
    if method != "GET" or wanted is None or not _range_is_of_this(header("if-range"), etag, modified):
        return whole
    parts = parse(wanted, size)
    if parts is None:
        return whole
    return Decision(206, parts) if parts else Decision(416)


def parse(value: str, size: int) -> tuple[Part, ...] | None:
    """The parts that ``Range: value`` asks of ``size`` bytes; () when none can be had (416), None when it is to be
    ignored: no bytes, malformed, too many, or a trick: overlapping ones are more than the whole."""
    match = _RANGES.fullmatch(value.strip(" \t"))
    if match is None:
        return None
    wanted = [spec.strip(" \t").split("-") for spec in match[1].split(",") if spec.strip(" \t")]
    if len(wanted) > MOST_RANGES or any(len(number) > DIGITS for spec in wanted for number in spec):
        return None
    parts = []
    for first, last in wanted:
        if first and last and int(last) < int(first):
            return None
        start = int(first) if first else max(0, size - int(last))
        stop = min(size, int(last) + 1) if first and last else size
        if start < stop:
            parts.append(Part(start, stop - start))
    return None if sum(part.count for part in parts) > size else tuple(parts)


def content_range(part: Part | None, size: int) -> str:
    """The value of Content-Range; None: nothing could be had."""
    return f"bytes */{size}" if part is None else f"bytes {part.offset}-{part.offset + part.count - 1}/{size}"


@functools.lru_cache(maxsize=1024)
def http_date(seconds: int) -> str:
    """ "Sun, 06 Nov 1994 08:49:37 GMT" """
    return email.utils.formatdate(seconds, usegmt=True)


def _matches(condition: str, etag: str, *, weakly: bool) -> bool:
    if condition.strip(" \t") == "*":
        return True
    found: list[str] = _ETAG.findall(condition)
    if weakly:
        return etag.removeprefix("W/") in (one.removeprefix("W/") for one in found)
    return not etag.startswith("W/") and etag in found


def _range_is_of_this(condition: str | None, etag: str, modified: int) -> bool:
    if condition is None:
        return True
    if '"' in condition:
        return condition == etag and not etag.startswith("W/")
    return _seconds(condition, never=modified + 1) == modified


def _seconds(date: str | None, *, never: int) -> int:
    """``never`` for a date that is missing or cannot be read: a condition with it is as none."""
    parsed = email.utils.parsedate_tz(date) if date is not None else None
    if parsed is None:
        return never
    try:
        return calendar.timegm((*parsed[:6], 0, 0, 0)) - (parsed[9] or 0)
    except (ValueError, OverflowError):
        return never
