"""text: a line is a message. What telnet and nc speak, and the protocol to begin with. Workerman: Text.

A message is a str: UTF-8, where every byte that is not UTF-8 (telnet's IAC among them) becomes a lone surrogate and
back again, so that an echo is exact. One CR before the newline belongs to the line end; an empty line is a message.
Answers end with a bare newline. A line without its newline at the end of the stream is dropped.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from workermand.protocols.base import Delimited, as_bytes

NEWLINE = ord("\n")


class Text(Delimited):
    """Lines of str in, str or bytes out."""

    __slots__ = ()

    name: ClassVar[str] = "text"
    delimiter: ClassVar[bytes] = b"\n"
    tail: ClassVar[bytes | None] = b"\n"

    def feed(self, data: bytes) -> list[str]:
        if not data or (self._held and not (data := self._join(data))):
            return []
        if len(data) >= self.max_package:
            return self._split(data)
        if data[-1] != NEWLINE:
            end = data.rfind(b"\n") + 1
            self._held = data[end:]
            data = data[:end]
        # All lines are decoded at once and then cut: no valid or broken UTF-8 sequence reaches over a newline.
        try:
            text = data.decode()
        except UnicodeDecodeError:
            text = data.decode("utf-8", "surrogateescape")
        if "\r" in text:
            text = text.replace("\r\n", "\n")
        lines = text.split("\n")
        lines.pop()
        return lines

    def decode(self, package: bytes) -> str:
        return package.removesuffix(b"\r").decode("utf-8", "surrogateescape")

    def detach(self, undelivered: Sequence[Any] = (), data: bytes = b"") -> bytes:
        held = super().detach()
        if not undelivered:
            return held
        # Not re-encoded: a CR that was dropped here may be what the next protocol needs.
        return data.split(b"\n", data.count(b"\n") - len(undelivered))[-1]

    def encode(self, message: Any) -> bytes:
        return as_bytes(message) + b"\n"
