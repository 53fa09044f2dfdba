"""Table: who is connected to one gateway, and by which uids and groups they can be found. Pure.

One uid for a client, any number of clients for a uid; a client is in any number of groups. A uid or a group is there as
long as somebody has it: ``on_change`` is told when the first comes and when the last goes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any, Final

UID: Final = "uid"
GROUP: Final = "group"
"""Kinds of keys, for on_change."""


class Client:
    """One that is connected."""

    __slots__ = ("connection", "groups", "id", "session", "uid")

    def __init__(self, id: str, connection: Any = None) -> None:
        self.id = id
        self.connection = connection
        """Whatever sends to it."""
        self.uid: str | None = None
        self.groups: set[str] = set()
        self.session = b""
        """Encoded, see sessions.py; nothing for an empty one."""


class Table:
    """Of one process. Nothing here raises for who is not there: it may have left a moment ago."""

    def __init__(self, on_change: Callable[[str, str, bool], None] = lambda kind, key, present: None) -> None:
        """``on_change(kind, key, present)``: UID or GROUP, and whether somebody here has it now."""
        self.clients: dict[str, Client] = {}
        self.uids: dict[str, dict[str, Client]] = {}
        self.groups: dict[str, dict[str, Client]] = {}
        """By uid and by group: those who have it, by id; never empty."""
        self._on_change = on_change

    def __len__(self) -> int:
        return len(self.clients)

    def add(self, client: Client) -> None:
        """A new one, with neither uid nor groups."""
        if client.id in self.clients:
            raise ValueError(f"{client.id} is there already")
        self.clients[client.id] = client

    def remove(self, id: str) -> Client | None:
        """It has left: its uid and its groups with it."""
        client = self.clients.pop(id, None)
        if client is not None:
            if client.uid is not None:
                self._drop(UID, self.uids, client.uid, id)
            for group in client.groups:
                self._drop(GROUP, self.groups, group, id)
        return client

    def bind(self, id: str, uid: str) -> bool:
        """The client has this uid from now on, and no other. False: there is no such client."""
        client = self.clients.get(id)
        if client is None:
            return False
        if client.uid != uid:
            if client.uid is not None:
                self._drop(UID, self.uids, client.uid, id)
            client.uid = uid
            self._put(UID, self.uids, uid, client)
        return True

    def unbind(self, id: str) -> bool:
        """Whatever uid it has. False: there is no such client."""
        client = self.clients.get(id)
        if client is None:
            return False
        if client.uid is not None:
            self._drop(UID, self.uids, client.uid, id)
            client.uid = None
        return True

    def join(self, id: str, group: str) -> bool:
        """False: there is no such client."""
        client = self.clients.get(id)
        if client is None:
            return False
        if group not in client.groups:
            client.groups.add(group)
            self._put(GROUP, self.groups, group, client)
        return True

    def leave(self, id: str, group: str) -> bool:
        """False: there is no such client."""
        client = self.clients.get(id)
        if client is None:
            return False
        if group in client.groups:
            client.groups.discard(group)
            self._drop(GROUP, self.groups, group, id)
        return True

    def ungroup(self, group: str) -> int:
        """Nobody is in it any more. How many were."""
        members = self.groups.pop(group, None)
        if members is None:
            return 0
        for client in members.values():
            client.groups.discard(group)
        self._on_change(GROUP, group, False)
        return len(members)

    # ------------------------------------------------------------------ who?

    def having(self, kind: str, keys: Iterable[str]) -> Iterator[Client]:
        """Those who have one of these uids or groups, each once."""
        index = self.uids if kind == UID else self.groups
        found = [index[key] for key in dict.fromkeys(keys) if key in index]
        if len(found) == 1:
            yield from list(found[0].values())
        elif found:
            yield from {id: client for members in found for id, client in members.items()}.values()

    def present(self, kind: str, key: str) -> bool:
        return key in (self.uids if kind == UID else self.groups)

    def count(self, group: str) -> int:
        return len(self.groups.get(group, ()))

    # ------------------------------------------------------------------ one index

    def _put(self, kind: str, index: dict[str, dict[str, Client]], key: str, client: Client) -> None:
        members = index.get(key)
        if members is None:
            index[key] = {client.id: client}
            self._on_change(kind, key, True)
        else:
            members[client.id] = client

    def _drop(self, kind: str, index: dict[str, dict[str, Client]], key: str, id: str) -> None:
        members = index[key]
        del members[id]
        if not members:
            del index[key]
            self._on_change(kind, key, False)
