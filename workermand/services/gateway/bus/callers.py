"""Callers: whoever opens a pipe to this process is to its handler what a connection is over TCP. See link.py."""

from __future__ import annotations

import re
from typing import Any, Final, cast

from workermand import Connection
from workermand.services.gateway.bus.connection import Bus
from workermand.services.gateway.bus.pipes import BYE, HEAD, OPEN, Pipe
from workermand.services.links import wire as links

CALLER: Final = re.compile(r"[po]\.[0-9a-f]{16}\.([0-9a-f]{16})")
"""The subjects of the other ends of pipes."""


class Caller:
    """Somebody at the other end of a pipe: as much of a Connection as Peers and Door need."""

    def __init__(self, callers: Callers, name: str, other: str) -> None:
        self.name = name
        self._callers = callers
        self.close_reason = ""
        self.max_send_buffer_size = callers.buffer
        self.pipe = Pipe(
            callers.bus,
            f"gate.{callers.bus.id}.{name}",
            other,
            window=callers.buffer,
            ping=callers.ping,
            on_message=lambda body: callers.handler.on_message(cast(Connection, self), body),
            on_broken=self._gone,
            on_drain=lambda: callers.handler.on_buffer_drain(cast(Connection, self)),
        )

    def get_send_buffer_size(self) -> int:
        """Bytes."""
        return self.pipe.unsent

    def get_remote_address(self) -> str:
        """For logs."""
        return self.pipe.other

    def cork(self) -> None:
        """All that is published in one turn of the loop leaves together anyway."""

    def send(self, data: bytes, raw: bool = False) -> bool:
        """``raw``: a whole frame."""
        return self.pipe.send(data[links.HEAD :] if raw else data)

    def close(self, data: bytes = b"", raw: bool = False) -> None:
        """With last words, or without."""
        if data:
            self.send(data, raw)
        self.destroy()

    def destroy(self) -> None:
        """It may call again."""
        self.pipe.end_with("closed here")

    def _gone(self, why: str) -> None:
        self.close_reason = why
        self._callers.gone(self)


class Callers:
    """Of one process. Thread: the one that runs the loop."""

    def __init__(self, bus: Bus, handler: Any, buffer: int, ping: float) -> None:
        """``handler`` has on_message, on_buffer_drain and on_close. ``buffer``: bytes that may be on the way to one of
        them. ``ping``: seconds."""
        self.bus = bus
        self.handler = handler
        self.buffer, self.ping = buffer, ping
        self.by_name: dict[str, Caller] = {}
        """By the names of their pipes."""
        bus.route("gate", self._hear)
        bus.listen(f"gate.{bus.id}.*")
        bus.on_down.append(self._is_down)

    def end(self) -> None:
        """All of them, behind what they were sent."""
        for caller in list(self.by_name.values()):
            caller.destroy()

    def gone(self, caller: Caller) -> None:
        """Its pipe is broken."""
        if self.by_name.pop(caller.name, None) is not None:
            self.handler.on_close(cast(Connection, caller))

    def _hear(self, rest: str, reply: str, data: bytes, nobody: bool) -> None:
        _id, _, name = rest.partition(".")
        caller = self.by_name.get(name)
        if caller is None:
            if nobody or (found := CALLER.fullmatch(reply)) is None or found[1] != name or len(data) < HEAD.size:
                return
            kind, _number = HEAD.unpack_from(data)
            if kind == BYE:
                return
            if kind != OPEN:
                self.bus.publish(reply, HEAD.pack(BYE, 0))
                return
            caller = self.by_name[name] = Caller(self, name, reply)
            caller.pipe.probe()
        caller.pipe.hear(data, nobody)

    def _is_down(self) -> None:
        for caller in list(self.by_name.values()):
            caller.pipe.end_with("the bus is gone")
