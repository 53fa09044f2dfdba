"""frame: a 4-byte big-endian length before every message, its own four bytes counted. Workerman: Frame.

A message is bytes, and may be empty (length 4). A length of 0 to 3 cannot be: Workerman waits for ever at 0 and makes
up a package at 1 to 3, here it ends the connection; so does a length over the limit, before any of the body arrives.
"""

from __future__ import annotations

from typing import ClassVar

from workermand.protocols.base import LengthPrefixed


class Frame(LengthPrefixed):
    """Frames of bytes in, str or bytes out."""

    __slots__ = ()

    name: ClassVar[str] = "frame"
