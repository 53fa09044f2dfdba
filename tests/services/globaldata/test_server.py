"""server: what it refuses to be, limits, slow clients, and what leaves it before it is safe: nothing."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import uvloop

from tests.services.globaldata.conftest import HANDLER, children, connected, crash, serving
from workermand.services.globaldata import BlockingGlobalData, GlobalDataError, Promise, wire
from workermand.services.globaldata.store import FILE
from workermand.services.links import wire as links
from workermand.services.links.address import Address
from workermand.services.links.blocking import BlockingLink
from workermand.services.links.serialize import serialize, unserialize
from workermand.testing import RunningServer, ServerFailed, running_server


def linked(server: RunningServer) -> BlockingLink:
    return BlockingLink(Address(*server.address, ""), wire.SERVICE)


def database_of(server: RunningServer) -> Path:
    return Path(server.spec.state_dir) / "main" / FILE


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ({"listen": None}, 'listens nowhere: add listen = "unix://globaldata.sock"'),
        ({"listen": "tcp://0.0.0.0:0"}, "options.secret"),
        ({"count": 2}, "write count = 1"),
        ({"options": {"persists": True}}, 'did you mean "persist"'),
        ({"options": {"limits": {"value": 0}}}, "options.limits"),
        ({"options": {"limits": {"values": 5}}}, "options.limits"),
    ],
)
def test_settings_that_cannot_be(keys: dict[str, Any], words: str) -> None:
    settings = {"listen": "tcp://127.0.0.1:0", "protocol": "frame", "reloadable": False, **keys}
    with pytest.raises(ServerFailed) as caught, running_server(HANDLER, **settings):
        raise AssertionError("it serves")
    assert words in str(caught.value)


def test_requests_that_are_none() -> None:
    with serving() as (server, _url), contextlib.closing(linked(server)) as link:
        for message in ([99], [wire.GET], [wire.GET, 5], [wire.SET, "a", "no bytes"], [wire.INCREMENT, "a", True]):
            with pytest.raises(Exception, match="no request of GlobalData"):
                link.request(*message)
        assert link.connects == 1, "and the connection lives on"


def test_limits() -> None:
    limits = {"key": 10, "value": 100, "keys": 3, "total": 10_000, "watched": 2}
    with serving(options={"limits": limits}) as (server, url), BlockingGlobalData(url) as data:
        for key, value in (("k" * 11, 1), ("a", "v" * 100)):
            with pytest.raises(GlobalDataError, match=r"options\.limits"):
                data.set(key, value)
        data.set_many({"a": 1, "b": 2, "c": 3})
        with pytest.raises(GlobalDataError, match=r"d: full: 3 variables \(options\.limits\.keys\)"):
            data.set("d", 1)
        with contextlib.closing(linked(server)) as link:
            link.request(wire.WATCH, "a")
            link.request(wire.WATCH, "b")
            link.request(wire.WATCH, "a")
            with pytest.raises(Exception, match=r"options\.limits\.watched"):
                link.request(wire.WATCH, "c")
            link.request(wire.UNWATCH, "a")
            link.request(wire.WATCH, "c")


def test_a_slow_watcher_gets_the_last_value_and_holds_up_nobody() -> None:
    with serving(limits={"send_buffer": 100_000}) as (server, url), BlockingGlobalData(url) as data:
        with contextlib.closing(linked(server)) as slow:
            for key in ("a", "b", "c"):
                slow.request(wire.WATCH, key)
            for number in range(500):
                data.set("a", [number, bytes(50_000)])
                data.set("b", number)
            data.set("c", 1)
            data.delete("c")
            last: dict[str, Any] = {}
            while last.get("a") != 499 or last.get("b") != 499 or "c" not in last:
                op, _number, key, value, _version = slow.receive(30)
                assert op == wire.CHANGED
                value = None if value is None else wire.unpack_value(value)
                last[key] = value[0] if key == "a" and value else value
            assert last["c"] is None
            data.set("a", "again")
            op, _number, key, value, _version = slow.receive(30)
            assert (key, wire.unpack_value(value)) == ("a", "again")


def test_who_does_not_read_its_answers_may_ask_no_more() -> None:
    """It gets all of them, once it reads; and the memory of the server does not grow by them."""
    with serving(limits={"send_buffer": 1_000_000}) as (server, url), BlockingGlobalData(url) as data:
        data.set("large", bytes(900_000))
        with contextlib.closing(server.connect()) as sock:
            for message in ([links.HELLO, 0, links.VERSION, wire.SERVICE], [links.PROOF, 0, b"", b""]):
                sock.sendall(links.pack(message))
            for number in range(200):
                sock.sendall(links.pack([wire.GET, number, "large"]))
            assert data.get("large")
            memory = server.status()["processes"][0]["memory"]
            assert memory < 150e6, memory
            with sock.makefile("rb") as answers:
                numbers: list[int] = []
                while len(numbers) < 200:
                    length = int.from_bytes(answers.read(4), "big")
                    message = links.unpack(answers.read(length - 4))
                    if message[0] == links.OK:
                        numbers.append(message[1])
                assert numbers == list(range(200))


def test_with_a_secret() -> None:
    with serving("tcp://0.0.0.0:0", options={"secret": "swordfish"}) as (_server, url):
        url = url.replace("0.0.0.0", "127.0.0.1")
        with BlockingGlobalData(url, secret="swordfish") as data:
            data.set("a", 1)
        with pytest.raises(Exception, match="wrong secret"):
            BlockingGlobalData(url, secret="sword").get("a")


def test_variables_end_by_themselves() -> None:
    """And are told to have."""

    async def play(url: str) -> None:
        async with connected(url) as data:
            changes: asyncio.Queue[Any] = asyncio.Queue()
            for key, ttl in (("far", 1e300), ("later", 0.3), ("soon", 0.05)):
                await data.watch(key, changes.put_nowait)
                await data.set(key, 1, ttl)
            told = [await changes.get() for _ in range(5)]
            assert sorted(change.key for change in told if change.value == 1) == ["far", "later", "soon"]
            assert sorted(change.key for change in told if change.gone) == ["later", "soon"]
            assert await data.keys() == ["far"]

    with serving() as (_server, url):
        uvloop.run(play(url))


def test_php_clients_have_a_door_of_their_own(free_port: Callable[[], int]) -> None:
    """And the same variables; what they write is in the store before they hear of it."""
    port = free_port()
    options = {"persist": True, "secret": "swordfish", "php": {"listen": f"frame://127.0.0.1:{port}"}}
    with serving(options=options) as (_server, url), BlockingGlobalData(url, secret="swordfish") as data:
        data.set("n", 41)
        with socket.create_connection(("127.0.0.1", port), 30) as sock, sock.makefile("rb") as answers:

            def ask(**request: Any) -> Any:
                body = serialize(request)
                sock.sendall((len(body) + 4).to_bytes(4, "big") + body)
                return unserialize(answers.read(int.from_bytes(answers.read(4), "big") - 4))

            assert ask(cmd="increment", key="n", step=1) == 42
            assert ask(cmd="set", key="user", value={"name": "anne", "age": 7}) is True
        assert data.n == 42
        assert data.cas("user", {"age": 7, "name": "anne"}, "bob"), "the order of PHP's keys does not matter"


# ---------------------------------------------------------------------------------------------------- persist


def test_what_was_confirmed_is_there_after_a_crash() -> None:
    with serving(options={"persist": True}) as (server, url), BlockingGlobalData(url) as data:
        data.set_many({f"key{number}": number for number in range(100)})
        data.set("ends", 1, ttl=1000)
        data.set("gone", 1, ttl=0.01)
        data.delete("key7")
        versioned = data.get_versioned("key3")
        assert versioned is not None
        crash(server)
        assert data.get_many([f"key{number}" for number in range(100)]) == {
            f"key{number}": number for number in range(100) if number != 7
        }
        assert 900 < (data.ttl("ends") or 0) <= 1000
        assert "gone" not in data
        assert data.get_versioned("key3") == versioned
        assert data.set("new", 1) > versioned[1]
        server.ctl("restart", "main")
        assert data.get("key3") == 3


def test_nothing_is_said_before_it_is_safe() -> None:
    """The database is held by this test: no write is confirmed, no reader sees it, no watcher hears of it. Other
    requests are refused, with the reason; and when it lets go, all that was asked for has been done."""

    async def play(server: RunningServer, url: str) -> None:
        async with connected(url) as data, connected(url) as other:
            assert Promise.PERSISTENCE in data.promises
            changes: asyncio.Queue[Any] = asyncio.Queue()
            await other.watch("a", changes.put_nowait)
            await data.set("a", 1)
            assert (await changes.get()).value == 1
            with contextlib.closing(sqlite3.connect(database_of(server), isolation_level=None)) as database:
                database.execute("BEGIN IMMEDIATE")
                written = data.set("a", 2)
                read = other.get("a")
                await asyncio.sleep(0.2)
                assert not written.done() and not read.done() and changes.empty()
                database.execute("ROLLBACK")
            await written
            assert await read in (1, 2)
            assert (await changes.get()).value == 2

    with serving(options={"persist": True}) as (server, url):
        uvloop.run(play(server, url))


def test_a_database_that_cannot_be_written() -> None:
    """A full disk, say: here a trigger refuses. What has been asked for is neither confirmed nor forgotten."""
    full = "CREATE TRIGGER full BEFORE INSERT ON variables BEGIN SELECT RAISE(FAIL, 'no space'); END"

    async def play(server: RunningServer, url: str) -> None:
        async with connected(url) as data:
            await data.set("a", 1)
            with contextlib.closing(sqlite3.connect(database_of(server), isolation_level=None, timeout=30)) as database:
                database.execute(full)
                waits = data.set("b", 2)
                await asyncio.to_thread(server.wait_for, "cannot be written: no space; trying again")
                refused: BaseException | None = None
                while not isinstance(refused, GlobalDataError):  # what came before the server knew waits like that
                    (refused,) = await asyncio.gather(asyncio.wait_for(data.get("a"), 0.1), return_exceptions=True)
                assert str(refused) == "get a: the server cannot write its database: no space"
                assert not waits.done()
                database.execute("DROP TRIGGER full")
            await waits
            assert await data.get_many(["a", "b"]) == {"a": 1, "b": 2}

    with serving(options={"persist": True}) as (server, url):
        uvloop.run(play(server, url))


def test_without_persist_all_is_forgotten_but_the_versions_grow() -> None:
    with serving() as (server, url), BlockingGlobalData(url) as data:
        version = data.set("a", 1)
        crash(server)
        assert data.keys() == []
        assert not data.cas_version("a", version, 2)
        assert data.set("a", 1) > version


def test_a_database_that_is_broken_is_no_start() -> None:
    with serving(options={"persist": True}) as (server, url):
        with BlockingGlobalData(url) as data:
            data.set("a", 1)
        database = database_of(server)
        for file in (database, *database.parent.glob("*-wal")):
            file.write_bytes(b"garbage" * 1000)
        os.kill(*children(server), signal.SIGKILL)
        server.wait_for("globaldata.sqlite3 cannot be read: .*; put a copy of it back, or move it away")
