"""Groups: which connections of this process are in which group. A connection that closes leaves its groups."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from workermand import Connection, ConnectionStatus


class Groups:
    """Of one process. Thread: the one that runs the loop."""

    def __init__(self, on_empty: Callable[[str], None]) -> None:
        """``on_empty`` is told of a group that has lost its last member."""
        self._on_empty = on_empty
        self._members: dict[str, dict[Connection, None]] = {}
        self._groups: dict[Connection, set[str]] = {}

    def join(self, group: str, connection: Connection) -> bool:
        """True: it is the first member."""
        if connection.status is ConnectionStatus.CLOSED:
            return False
        if connection not in self._groups:
            self._groups[connection] = set()
            _also_on_close(connection, self.gone)
        self._groups[connection].add(group)
        members = self._members.setdefault(group, {})
        members[connection] = None
        return len(members) == 1

    def leave(self, group: str, connection: Connection) -> bool:
        """False: it was no member."""
        groups = self._groups.get(connection, set())
        if group not in groups:
            return False
        groups.discard(group)
        members = self._members[group]
        del members[connection]
        if not members:
            del self._members[group]
            self._on_empty(group)
        return True

    def gone(self, connection: Connection) -> None:
        """From all groups."""
        for group in list(self._groups.get(connection, ())):
            self.leave(group, connection)
        self._groups.pop(connection, None)

    def members(self, group: str) -> list[Connection]:
        """Those that live."""
        members = list(self._members.get(group, ()))
        for connection in members:
            if connection.status is ConnectionStatus.CLOSED:  # its on_close was assigned after join()
                self.gone(connection)
        return [connection for connection in members if connection.status is ConnectionStatus.ESTABLISHED]

    def of(self, connection: Connection) -> frozenset[str]:
        return frozenset(self._groups.get(connection, ()))

    def send(self, group: str, message: Any) -> int:
        """To each member; how many took it."""
        return sum(connection.send(message) is not False for connection in self.members(group))


def _also_on_close(connection: Connection, leave: Callable[[Connection], None]) -> None:
    """In front of the handler's own on_close, which stays what it was."""
    handlers_own = connection.on_close

    def on_close(connection: Connection) -> Any:
        leave(connection)
        return handlers_own(connection) if handlers_own is not None else None

    async def on_close_async(connection: Connection) -> None:
        leave(connection)
        await handlers_own(connection)

    connection.on_close = on_close_async if inspect.iscoroutinefunction(handlers_own) else on_close
