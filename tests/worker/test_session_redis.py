"""The store of redis, against a real one: merged by its script, dropped by itself, and clear about what fails."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Coroutine, Iterator
from typing import Any

import msgspec
import pytest

from tests.worker.redis_server import RedisServer, redis_server
from workermand.http.session import Changes, Session
from workermand.worker import session_redis
from workermand.worker.session_files import StoreFailed
from workermand.worker.session_redis import RedisStore

pytestmark = pytest.mark.real
ID = "0123456789abcdef" * 2
OTHER = "f" * 32
LIFETIME = 100.0


@pytest.fixture
def server(free_port: Callable[[], int]) -> Iterator[RedisServer]:
    with redis_server(free_port()) as running:
        yield running


def run(url: str, work: Callable[[RedisStore], Coroutine[Any, Any, Any]], name: str = "WMSESSID") -> Any:
    async def do() -> Any:
        store = RedisStore(url, name)
        try:
            return await asyncio.wait_for(work(store), 30)
        finally:
            await store.close()

    return asyncio.run(do())


def encoded(**values: Any) -> dict[str, bytes]:
    return {key: msgspec.msgpack.encode(value) for key, value in values.items()}


def new(id: str = ID, **values: Any) -> Changes:
    return Changes(id, is_new=True, values=encoded(**values))


async def content(store: RedisStore, id: str = ID) -> dict[str, Any] | None:
    found = await store.load(id, LIFETIME)
    return None if found is None else {key: msgspec.msgpack.decode(value) for key, value in found.values.items()}


def test_changes_are_merged_into_what_is_there(server: RedisServer) -> None:
    async def work(store: RedisStore) -> None:
        assert await content(store) is None
        assert await store.save(new(a=1, b=[2], ü=None), LIFETIME)
        assert await store.save(Changes(ID, values=encoded(c="3"), deleted=frozenset({"a", "missing"})), LIFETIME)
        assert await content(store) == {"b": [2], "c": "3", "ü": None}
        assert await store.save(new(OTHER), LIFETIME)
        assert await content(store, OTHER) == {}

    run(server.url, work)


def test_another_id_and_an_end(server: RedisServer) -> None:
    async def work(store: RedisStore) -> None:
        await store.save(new(a=1), LIFETIME)
        assert await store.save(Changes(OTHER, ID, values=encoded(b=2)), LIFETIME)
        assert await content(store, OTHER) == {"a": 1, "b": 2} and await content(store) is None
        assert await store.save(Changes(ID, OTHER, True, True, values=encoded(c=3)), LIFETIME)
        assert await content(store, OTHER) is None and await content(store) == {"c": 3}
        assert await store.save(Changes(OTHER, ID, True, True, is_ended=True), LIFETIME)
        assert await content(store) is None
        assert not await store.save(Changes(ID, values=encoded(b=2)), LIFETIME)
        assert not await store.save(Changes(OTHER, ID), LIFETIME)
        assert await content(store) is None and await content(store, OTHER) is None

    run(server.url, work)


def test_its_age_and_its_end(server: RedisServer) -> None:
    async def work(store: RedisStore) -> None:
        await store.save(new(a=1), LIFETIME)
        found = await store.load(ID, 2 * LIFETIME)
        assert found is not None and LIFETIME <= found.age <= LIFETIME + 20
        await store.save(Changes(ID), 0.001)
        while await content(store) is not None:
            pass

    run(server.url, work)


def test_cookies_of_other_names_are_other_sessions(server: RedisServer) -> None:
    async def save(store: RedisStore) -> bool:
        return await store.save(new(a=1), LIFETIME)

    assert run(server.url, save)
    assert run(server.url, content, "SHOP") is None
    assert run(server.url, content) == {"a": 1}


def test_writers_at_once_lose_nothing(server: RedisServer) -> None:
    async def write(store: RedisStore, name: str) -> None:
        for number in range(50):
            found = await store.load(ID, LIFETIME)
            assert found is not None
            session = Session(ID, found.values)
            session[f"{name}{number}"] = number
            if number:
                assert session.pull(f"{name}{number - 1}") == number - 1
            changes = session.changes()
            assert changes is not None and await store.save(changes, LIFETIME)

    async def work(store: RedisStore) -> None:
        other = RedisStore(server.url, "WMSESSID")
        await store.save(new(), LIFETIME)
        await asyncio.gather(write(store, "one"), write(store, "two"), write(other, "three"), write(other, "four"))
        await other.close()
        assert await content(store) == {"one49": 49, "two49": 49, "three49": 49, "four49": 49}

    run(server.url, work)


def test_it_comes_back_after_a_failure(server: RedisServer) -> None:
    async def work(store: RedisStore) -> None:
        assert await store.save(new(a=1), LIFETIME)
        server.stop()
        for _ in range(2):
            with pytest.raises(StoreFailed, match=rf"redis at 127\.0\.0\.1:{server.port}: "):
                await store.load(ID, LIFETIME)
            with pytest.raises(StoreFailed):
                await store.save(Changes(ID), LIFETIME)
        server.start()
        assert await store.load(ID, LIFETIME) is None
        assert await store.save(new(a=1), LIFETIME)

    run(server.url, work)


def test_a_password_stands_in_no_message(free_port: Callable[[], int]) -> None:
    async def work(store: RedisStore) -> str:
        with pytest.raises(StoreFailed) as caught:
            await store.load(ID, LIFETIME)
        return str(caught.value)

    assert "secret" not in run(f"redis://ann:secret@127.0.0.1:{free_port()}/0", work)


def test_a_redis_that_does_not_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session_redis, "TIMEOUT", 0.05)

    async def work(store: RedisStore) -> None:
        with pytest.raises(StoreFailed, match="Timeout"):
            await store.load(ID, LIFETIME)

    with socket.create_server(("127.0.0.1", 0)) as silent:
        run(f"redis://127.0.0.1:{silent.getsockname()[1]}", work)


def test_an_address_that_is_none() -> None:
    with pytest.raises(ValueError, match="Port could not"):
        RedisStore("redis://127.0.0.1:x/0", "x")


@pytest.mark.parametrize(("field", "value"), [("=a", b"\xc1"), (b"=\xff", b"\x01")])
def test_what_is_no_session_counts_as_none(server: RedisServer, field: Any, value: bytes) -> None:
    async def work(store: RedisStore) -> None:
        await store.save(new(a=1), LIFETIME)
        await store._client.hset(store._key(ID), field, value)  # type: ignore[misc]
        assert await content(store) is None and store.unreadable == 1

    run(server.url, work)
