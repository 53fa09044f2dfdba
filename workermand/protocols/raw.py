"""raw: no protocol at all. Every chunk is a message of bytes, cut as the network cut it: the one exception to the rule
that the cut must not matter. What tcp://, udp:// and unix:// speak when no protocol is named.
"""

from __future__ import annotations

from typing import ClassVar

from workermand.protocols.base import Protocol


class Raw(Protocol):
    """Bytes in, str or bytes out."""

    __slots__ = ()

    name: ClassVar[str] = "raw"

    def feed(self, data: bytes) -> list[bytes]:
        return [data] if data else []
