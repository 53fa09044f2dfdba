"""Names of events, queues and keys as subjects of nats, and back. Pure.

"room.1" is wm.e.room.1: a part between dots is a token, whose signs that nats has a use for are written =XX. A pattern
is the smallest subject with a > that covers it; most patterns end with .* and mean just that.
"""

from __future__ import annotations

import re
from typing import Final, NamedTuple

PLAIN: Final = re.compile(r"[A-Za-z0-9_-]+", re.ASCII)
_ESCAPED: Final = re.compile(r"(?:=[0-9A-F]{2})+", re.ASCII)


class Covered(NamedTuple):
    """What to subscribe to for a name."""

    subject: str
    """Without its prefix."""
    is_exact: bool
    """It covers nothing else."""


def subject(name: str) -> str:
    """Without a prefix."""
    if "." not in name and PLAIN.fullmatch(name):
        return name
    return ".".join(map(_token, name.split(".")))


def name(subject: str) -> str:
    """The opposite."""
    if "=" not in subject:
        return subject
    return ".".join("" if token == "=" else _ESCAPED.sub(_unescape, token) for token in subject.split("."))


def cover(pattern: str) -> Covered:
    """Of an exact name, too."""
    before, star, after = pattern.partition("*")
    if not star:
        return Covered(subject(pattern), True)
    root, dot, rest = before.rpartition(".")
    is_exact = not rest and not after.strip("*")
    return Covered(f"{subject(root)}.>" if dot else ">", is_exact)


def _token(part: str) -> str:
    if not part:
        return "="
    if PLAIN.fullmatch(part):
        return part
    return "".join(
        sign if PLAIN.fullmatch(sign) else "".join(f"={byte:02X}" for byte in sign.encode()) for sign in part
    )


def _unescape(found: re.Match[str]) -> str:
    return bytes.fromhex(found[0].replace("=", "")).decode()
