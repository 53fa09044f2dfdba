"""The chat's events with a gateway of the test's own."""

from __future__ import annotations

import json
from typing import Any

import pytest

from apps.chat import events, history
from tests.apps.chat.fakes import Client, FakeGateway, FakeGlobalData


class Chat:
    """Clients, and the events as the gateway calls them."""

    def __init__(self, gateway: FakeGateway, data: FakeGlobalData) -> None:
        self.gateway = gateway
        self.data = data

    def come(self, *ids: str) -> list[Client]:
        for id in ids:
            self.gateway.clients[id] = Client()
        return [self.gateway.clients[id] for id in ids]

    async def hear(self, id: str, message: Any) -> None:
        with self.gateway.event(id):
            await events.on_message(id, message if isinstance(message, str | bytes) else json.dumps(message))

    async def log_in(self, id: str, name: str, room: str = "1") -> None:
        await self.hear(id, {"type": "login", "client_name": name, "room_id": room})

    async def say(self, id: str, content: str, to: str = "all") -> None:
        await self.hear(id, {"type": "say", "content": content, "to_client_id": to})

    async def leave(self, id: str) -> None:
        self.gateway.clients[id].groups.clear()
        with self.gateway.event(id):
            await events.on_close(id)
        del self.gateway.clients[id]


@pytest.fixture
def chat(monkeypatch: pytest.MonkeyPatch) -> Chat:
    gateway, data = FakeGateway(), FakeGlobalData()
    monkeypatch.setattr(events, "Gateway", gateway)
    monkeypatch.setattr(history, "GlobalData", type("GlobalData", (), {"connect": data.connect}))
    monkeypatch.setattr(events, "history", history.History())
    return Chat(gateway, data)
