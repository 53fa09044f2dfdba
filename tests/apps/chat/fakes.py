"""A gateway cluster and a GlobalData within one process, for the chat's events alone."""

from __future__ import annotations

import contextlib
import copy
import json
from collections.abc import Iterable, Iterator
from contextvars import ContextVar
from typing import Any


class Client:
    """One connection: its session, its groups, what it was told."""

    def __init__(self) -> None:
        self.session: dict[str, Any] = {}
        self.groups: set[str] = set()
        self.told: list[dict[str, Any]] = []
        self.is_closed = False

    def send(self, message: dict[str, Any]) -> None:
        self.told.append(json.loads(json.dumps(message)))


class FakeGateway:
    """The part of Gateway that the chat calls. A session is a copy, saved after the callback, as the real one's."""

    def __init__(self) -> None:
        self.clients: dict[str, Client] = {}
        self.error: Exception | None = None
        """Of the next question."""
        self._session: ContextVar[dict[str, Any]] = ContextVar("session")

    @property
    def session(self) -> dict[str, Any]:
        return self._session.get()

    @contextlib.contextmanager
    def event(self, client_id: str) -> Iterator[None]:
        client = self.clients[client_id]
        token = self._session.set(copy.deepcopy(client.session))
        try:
            yield
        finally:
            client.session = self.session
            self._session.reset(token)

    def members(self, group: str) -> dict[str, Client]:
        return {id: client for id, client in self.clients.items() if group in client.groups}

    async def send_to_client(self, client_id: str, message: dict[str, Any]) -> bool:
        if client_id in self.clients:
            self.clients[client_id].send(message)
        return client_id in self.clients

    async def send_to_group(self, group: str, message: dict[str, Any], exclude_client_id: Iterable[str] = ()) -> None:
        for id, client in self.members(group).items():
            if id not in exclude_client_id:
                client.send(message)

    async def close_client(self, client_id: str, message: dict[str, Any] | None = None) -> None:
        if message is not None:
            self.clients[client_id].send(message)
        self.clients[client_id].is_closed = True

    async def join_group(self, client_id: str, group: str) -> None:
        self.clients[client_id].groups.add(group)

    async def get_client_id_count_by_group(self, group: str) -> int:
        return len(self.members(group))

    async def get_client_sessions_by_group(self, group: str) -> dict[str, dict[str, Any]]:
        if self.error is not None:
            raise self.error
        return {id: copy.deepcopy(client.session) for id, client in self.members(group).items()}

    async def get_session(self, client_id: str) -> dict[str, Any] | None:
        return copy.deepcopy(self.clients[client_id].session) if client_id in self.clients else None

    async def update_session(self, client_id: str, session: dict[str, Any]) -> None:
        self.clients[client_id].session.update(session)
        self.session.update(session)


class FakeGlobalData:
    """The verbs that the history uses. ``error``: what they raise instead."""

    def __init__(self) -> None:
        self.values: dict[str, Any] = {}
        self.error: Exception | None = None
        self.calls = 0

    async def connect(self, **_: Any) -> FakeGlobalData:
        self._called()
        return self

    def _called(self) -> None:
        self.calls += 1
        if self.error is not None:
            raise self.error

    async def increment(self, key: str) -> int | None:
        self._called()
        if key in self.values:
            self.values[key] += 1
        return self.values.get(key)

    async def add(self, key: str, value: Any, ttl: float) -> bool:
        self._called()
        self.values.setdefault(key, value)
        return True

    async def set(self, key: str, value: Any, ttl: float) -> int:
        self._called()
        self.values[key] = json.loads(json.dumps(value))
        return 1

    async def get_many(self, keys: list[str]) -> dict[str, Any]:
        self._called()
        return {key: self.values[key] for key in keys if key in self.values}

    def expire(self, key: str, ttl: float) -> None:
        pass

    async def close(self) -> None:
        pass
