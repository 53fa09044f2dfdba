"""Sessions as handlers meet them: what is loaded, when it is saved, which cookie is set, and what a failure is."""

from __future__ import annotations

import asyncio
import logging
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tests.worker.redis_server import RedisServer, redis_server
from tests.worker.scene import SPEC, Scene
from workermand.errors import LoadError
from workermand.http.request import Request
from workermand.http.response import Chunk, Response
from workermand.http.session import Changes
from workermand.protocols.http import Http
from workermand.spec import SessionSpec
from workermand.testing import MemoryTransport
from workermand.worker import session_files, sessions, web
from workermand.worker.connection import Connection

COOKIE = re.compile(rb"^Set-Cookie: WMSESSID=([0-9a-f]*)(.*?)\r$", re.MULTILINE)
ID = "0123456789abcdef" * 2


class Stage(Scene):
    """A browser, its cookie in ``cookie``, and a worker with a directory of its own."""

    def __init__(self, directory: Path, **session: Any) -> None:
        super().__init__()
        self.worker.state_dir = str(directory)
        self.worker.apply(msgspec.structs.replace(SPEC, session=SessionSpec(**session)))
        self.cookie = b""

    def visit(self, path: str = "/", *headers: str, method: str = "GET") -> bytes:
        """One request on a connection of its own, and the answer."""
        transport = self.ask(path, *headers, method=method)
        self.until(lambda: b"\r\n\r\n" in transport.sent or transport.is_closing())
        self.turn()
        return self.take(transport)

    def ask(self, path: str = "/", *headers: str, method: str = "GET") -> MemoryTransport:
        make = web.serve(Http, self.worker, self.worker.handlers)
        _connection, transport = self.connect(make(10_000))
        lines = [f"{method} {path} HTTP/1.1", "Host: a", *headers]
        if self.cookie:
            lines.append(f"Cookie: WMSESSID={self.cookie.decode()}")
        transport.receive("\r\n".join([*lines, "", ""]).encode())
        return transport

    def take(self, transport: MemoryTransport) -> bytes:
        """What was sent; its cookie is kept as a browser keeps it."""
        answer = bytes(transport.sent)
        if found := COOKIE.search(answer):
            self.cookie = found[1]
        return answer

    @property
    def files(self) -> list[str]:
        directory = Path(self.worker.state_dir, "sessions")
        return [path.name for path in directory.iterdir() if path.name != session_files.LOCKS]


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Stage]:
    made = Stage(tmp_path)
    yield made
    made.close()


def count(connection: Connection, request: Request) -> None:
    request.session["visits"] = request.session.get("visits", 0) + 1
    connection.send(f"visits={request.session['visits']}")


def show(connection: Connection, request: Request) -> None:
    connection.send(request.session.all())


# ---------------------------------------------------------------------------------------------------- the cookie


def test_a_browser_is_known_again(stage: Stage) -> None:
    stage.on(on_message=count)
    first = stage.visit()
    assert first.endswith(b"visits=1") and b"Cache-Control: private\r\n" in first
    found = COOKIE.search(first)
    assert found is not None and found[2] == b"; Max-Age=1440; Path=/; HttpOnly; SameSite=Lax"
    for number in (2, 3):
        answer = stage.visit()
        assert answer.endswith(b"visits=%d" % number)
        assert b"Set-Cookie" not in answer and b"Cache-Control" not in answer
    assert stage.files == [stage.cookie.decode()]


def test_who_leaves_nothing_gets_no_cookie(stage: Stage) -> None:
    stage.on(on_message=show)
    assert b"Set-Cookie" not in stage.visit()
    assert not Path(stage.worker.state_dir, "sessions").exists()


@pytest.mark.parametrize("cookie", [ID, "../../etc/passwd", "x" * 32, "%2e%2e", ""])
def test_an_id_that_is_not_ours_is_replaced(stage: Stage, cookie: str) -> None:
    stage.cookie = cookie.encode()
    stage.on(on_message=count)
    assert stage.visit().endswith(b"visits=1")
    assert stage.cookie != cookie.encode() and len(stage.cookie) == 32
    assert stage.files == [stage.cookie.decode()]


def test_the_settings_of_the_cookie(tmp_path: Path) -> None:
    stage = Stage(
        tmp_path,
        cookie="SHOP",
        lifetime=60,
        path="/a",
        domain="a.example",
        secure=True,
        http_only=False,
        same_site="Strict",
    )
    stage.on(on_message=count)
    answer = stage.visit("/", "Cookie: WMSESSID=1")
    assert re.search(
        rb"Set-Cookie: SHOP=[0-9a-f]{32}; Max-Age=60; Domain=a\.example; Path=/a; Secure; SameSite=Strict\r\n", answer
    )
    stage.close()


def test_secure_by_itself_when_a_trusted_proxy_says_so(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    stage.on(on_message=count)
    assert b"Secure" not in stage.visit("/", "X-Forwarded-Proto: https")
    stage.cookie = b""
    monkeypatch.setattr(Connection, "is_secure", True)
    assert b"; Secure;" in stage.visit()


@pytest.mark.parametrize("how", ["dict", "bytes", "chunked", "head", "redirect", "no content"])
def test_every_answer_brings_it(stage: Stage, how: str) -> None:
    def answer(connection: Connection, request: Request) -> None:
        request.session["a"] = 1
        if how == "chunked":
            connection.send(Response(200, {"Transfer-Encoding": "chunked"}))
            connection.send(Chunk("x"))
            connection.send(Chunk())
            return
        answers = {"dict": {"a": 1}, "bytes": b"x", "head": "x", "redirect": Response.redirect("/")}
        connection.send(answers.get(how, Response(204)))

    stage.on(on_message=answer)
    assert len(COOKIE.findall(stage.visit(method="HEAD" if how == "head" else "GET"))) == 1


def test_a_cache_control_of_the_handler_stays(stage: Stage) -> None:
    def answer(connection: Connection, request: Request) -> None:
        request.session["a"] = 1
        connection.send(Response(200, {"Cache-Control": "no-store"}, "x"))

    stage.on(on_message=answer)
    assert b"private" not in stage.visit()


# ---------------------------------------------------------------------------------------------------- ids


def test_a_login_changes_the_id_and_forgets_the_former(stage: Stage) -> None:
    def answer(connection: Connection, request: Request) -> None:
        if request.path == "/login":
            assert request.session_regenerate_id() == request.session_id() == request.session.id
            request.session["user"] = "ann"
        show(connection, request)

    stage.on(on_message=count)
    stage.visit()
    former = stage.cookie
    stage.on(on_message=answer)
    assert stage.visit("/login").endswith(b'{"visits":1,"user":"ann"}')
    assert stage.cookie != former and stage.files == [stage.cookie.decode()]
    assert stage.visit().endswith(b'{"visits":1,"user":"ann"}')
    stage.cookie = former
    assert stage.visit().endswith(b"{}")


def test_an_id_that_was_asked_for_is_stored(stage: Stage) -> None:
    stage.on(on_message=lambda connection, request: connection.send(request.session_id()))
    id = stage.visit()[-32:]
    assert id == stage.cookie == stage.visit()[-32:]


def test_a_logout(stage: Stage) -> None:
    def answer(connection: Connection, request: Request) -> None:
        request.session.flush()
        connection.send("bye")

    stage.on(on_message=count)
    stage.visit()
    stage.on(on_message=answer)
    assert b"Set-Cookie: WMSESSID=; Max-Age=0; Path=/; HttpOnly; SameSite=Lax\r\n" in stage.visit()
    assert stage.files == []


def test_use_prolongs_it(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    stage.on(on_message=count)
    stage.visit()
    files = stage.worker.sessions._files
    assert files is not None
    now = files._clock()
    monkeypatch.setattr(files, "_clock", lambda: now + 719)
    stage.on(on_message=show)
    assert b"Set-Cookie" not in stage.visit()
    monkeypatch.setattr(files, "_clock", lambda: now + 721)
    assert b"; Max-Age=1440;" in stage.visit()
    monkeypatch.setattr(files, "_clock", lambda: now + 2000)
    assert stage.visit().endswith(b'{"visits":1}')
    monkeypatch.setattr(files, "_clock", lambda: now + 4000)
    assert stage.visit().endswith(b"{}")


# ---------------------------------------------------------------------------------------------------- when it is saved


def test_it_is_saved_before_its_answer_is_made(stage: Stage) -> None:
    def answer(connection: Connection, request: Request) -> None:
        request.session["a"] = 1
        assert not Path(stage.worker.state_dir, "sessions").exists()
        connection.send("x")
        assert stage.files == [request.session.id]

    stage.on(on_message=answer)
    stage.visit()
    assert stage.failures == []


def test_what_changes_after_the_answer_is_saved_too(stage: Stage) -> None:
    async def answer(connection: Connection, request: Request) -> None:
        request.session["list"] = []
        connection.send("x")
        await asyncio.sleep(0)
        request.session["later"] = True
        request.session["list"].append(1)

    stage.on(on_message=answer)
    stage.visit()
    stage.turn()
    stage.on(on_message=show)
    assert stage.visit().endswith(b'{"list":[1],"later":true}')


def test_it_can_be_saved_at_once(stage: Stage) -> None:
    async def answer(connection: Connection, request: Request) -> None:
        session = await request.load_session()
        assert session is request.session
        session["a"] = 1
        await session.save()
        await session.save()
        assert stage.files == [session.id]
        connection.send("x")

    stage.on(on_message=answer)
    assert COOKIE.search(stage.visit())


def test_after_the_answer_it_is_too_late_to_begin(stage: Stage) -> None:
    def answer(connection: Connection, request: Request) -> None:
        connection.send("x")
        request.session["a"] = 1

    stage.on(on_message=answer)
    stage.visit()
    (failure,) = stage.failures
    assert failure[0] == "on_message" and "cannot begin any more" in failure[1]


def test_one_that_has_been_ended_meanwhile(stage: Stage) -> None:
    def answer(connection: Connection, request: Request) -> None:
        request.session["a"] = 1
        files = stage.worker.sessions._files
        assert files is not None
        files.save(Changes("0" * 32, request.session.id, True, True, is_ended=True), 100)
        connection.send("x")

    stage.on(on_message=count)
    stage.visit()
    stage.on(on_message=answer)
    assert b"Set-Cookie" not in stage.visit() and stage.files == []


def test_what_grew_too_large_in_place(stage: Stage) -> None:
    def before(connection: Connection, request: Request) -> None:
        request.session["list"] = []
        request.session["list"].append("x" * 70_000)
        connection.send("x")

    def after(connection: Connection, request: Request) -> None:
        request.session["list"] = []
        connection.send("x")
        request.session["list"].append("x" * 70_000)

    stage.on(on_message=before)
    assert b" 500 " in stage.visit()
    assert "session.list: with it the session has 70" in stage.failures[0][1]
    stage.on(on_message=after)
    assert b" 200 " in stage.visit()
    stage.turn()
    assert stage.failures[1][0] == "what a handler has left in a session"


# ---------------------------------------------------------------------------------------------------- what fails


def test_a_store_that_fails_is_a_503_logged_and_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "file").touch()
    stage = Stage(tmp_path / "file", sweep=0)
    stage.on(on_message=count)
    with caplog.at_level(logging.ERROR):
        for _ in range(3):
            answer = stage.visit()
            assert answer.startswith(b"HTTP/1.1 503 ") and b"Set-Cookie" not in answer
            assert b"sessions cannot be kept now" in answer and b"file" not in answer
        stage.cookie = ID.encode()
        assert b" 503 " in stage.visit()
    assert stage.worker.sessions.failures == 4 == stage.worker.stats.exceptions
    assert stage.failures == []
    assert caplog.text.count("Not a directory (1 failures so far)") == 1 == caplog.text.count("sessions: cannot")
    stage.on(on_message=lambda connection, request: connection.send("no session"))
    assert b" 200 " in stage.visit()
    stage.close()


def test_a_failure_after_the_answer_is_counted(stage: Stage, tmp_path: Path) -> None:
    def answer(connection: Connection, request: Request) -> None:
        connection.send("x")
        (tmp_path / "sessions").rename(tmp_path / "gone")
        (tmp_path / "sessions").touch()
        request.session["a"] = 1

    stage.on(on_message=count)
    stage.visit()
    stage.on(on_message=lambda connection, request: (request.session, answer(connection, request)))
    assert b" 200 " in stage.visit()
    stage.turn()
    assert stage.worker.sessions.failures == 1


# ---------------------------------------------------------------------------------------------------- sweeping


def test_what_has_expired_is_removed(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session_files, "SLICE", 1)
    monkeypatch.setattr(sessions, "PAUSE", 0.001)
    stage.worker.sessions.make_store()
    files = stage.worker.sessions._files
    assert files is not None
    now = files._clock()
    monkeypatch.setattr(files, "_clock", lambda: now - 2000)
    for number in range(5):
        files.save(Changes(f"{number:032x}", is_new=True), 100)
    monkeypatch.setattr(files, "_clock", lambda: now)
    stage.on(on_message=count)
    stage.visit()
    stage.until(lambda: len(stage.files) == 1)
    assert stage.files == [stage.cookie.decode()]


def test_one_process_sweeps(stage: Stage, tmp_path: Path) -> None:
    stage.worker.id = 1
    (tmp_path / "sessions").touch()
    stage.on(on_message=lambda connection, request: connection.send("x"))
    stage.visit()
    assert stage.worker.sessions.failures == 0
    stage.worker.id = 0
    for _ in range(3):
        stage.visit()
    assert stage.worker.sessions.failures == 1


def test_a_sweep_that_is_switched_off(tmp_path: Path) -> None:
    (tmp_path / "sessions").touch()
    stage = Stage(tmp_path, sweep=0)
    stage.on(on_message=lambda connection, request: connection.send("x"))
    stage.visit()
    assert stage.worker.sessions.failures == 0
    stage.close()


# ---------------------------------------------------------------------------------------------------- redis


@pytest.fixture
def server(free_port: Callable[[], int]) -> Iterator[RedisServer]:
    with redis_server(free_port()) as running:
        yield running


@pytest.fixture
def remote(server: RedisServer, tmp_path: Path) -> Iterator[Stage]:
    made = Stage(tmp_path, store=server.url)
    yield made
    made.until(lambda: not any("_write_remote" in repr(task) for task in asyncio.all_tasks()))  # nor is it connecting
    store = made.worker.sessions._remote
    assert store is not None
    made.run(store.close())
    made.turn()
    made.close()


async def count_slowly(connection: Connection, request: Request) -> None:
    await asyncio.sleep(0)
    count(connection, request)
    await asyncio.sleep(0)


@pytest.mark.real
@pytest.mark.parametrize("handler", [count, count_slowly])
def test_redis_is_no_different(remote: Stage, handler: Any) -> None:
    remote.on(on_message=handler)
    for number in (1, 2, 3):
        answer = remote.visit()
        assert answer.endswith(b"visits=%d" % number)
        assert (b"Set-Cookie" in answer) is (number == 1)
    remote.on(on_message=show)
    assert remote.visit().endswith(b'{"visits":3}')
    assert remote.failures == []


@pytest.mark.real
def test_redis_has_it_before_the_browser_has_its_answer(remote: Stage) -> None:
    """Also of a handler that goes on after its answer."""
    order: list[str] = []
    wait = asyncio.Event()

    async def answer(connection: Connection, request: Request) -> None:
        request.session["a"] = 1
        connection.send("x")
        await wait.wait()
        order.append("handler")

    remote.on(on_message=answer)
    remote.worker.sessions.make_store()
    store = remote.worker.sessions._remote
    assert store is not None
    save = store.save

    async def save_slowly(changes: Changes, lifetime: float) -> bool:
        await asyncio.sleep(0.01)
        order.append("saved" if not transport.sent else "too late")
        return await save(changes, lifetime)

    store.save = save_slowly  # type: ignore[method-assign]
    transport = remote.ask()
    remote.until(lambda: transport.sent)
    assert order == ["saved"] and transport.sent.endswith(b"x")
    wait.set()
    remote.until(lambda: len(order) == 2)


@pytest.mark.real
def test_answers_keep_their_order(remote: Stage) -> None:
    remote.on(on_message=count_slowly)
    make = web.serve(Http, remote.worker, remote.worker.handlers)
    _connection, transport = remote.connect(make(10_000))
    transport.receive(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
    remote.until(lambda: transport.sent)
    remote.take(transport)
    cookie = b"Cookie: WMSESSID=" + remote.cookie + b"\r\n"
    transport.receive((b"GET / HTTP/1.1\r\nHost: a\r\n" + cookie + b"\r\n") * 3)
    remote.until(lambda: b"visits=4" in transport.sent)
    assert re.findall(rb"visits=(\d)", transport.sent) == [b"1", b"2", b"3", b"4"]


@pytest.mark.real
@pytest.mark.parametrize("handler", [count, count_slowly])
def test_redis_that_has_gone(
    remote: Stage, server: RedisServer, handler: Any, caplog: pytest.LogCaptureFixture
) -> None:
    remote.on(on_message=handler)
    remote.visit()
    server.stop()
    with caplog.at_level(logging.ERROR):
        assert remote.visit().startswith(b"HTTP/1.1 503 ")  # it cannot be read
        remote.cookie = b""
        answer = remote.visit()  # it cannot be saved
    assert answer.startswith(b"HTTP/1.1 503 ") and answer.count(b"HTTP/1.1") == 1 and b"Set-Cookie" not in answer
    assert remote.worker.sessions.failures == 2
    assert f"redis at 127.0.0.1:{server.port}" in caplog.text
    remote.on(on_message=lambda connection, request: connection.send("no session"))
    assert remote.visit().endswith(b"no session")
    server.start()
    remote.on(on_message=handler)
    assert remote.visit().endswith(b"visits=1")


@pytest.mark.real
def test_redis_outside_of_a_handler(remote: Stage) -> None:
    remote.on(on_message=count)
    remote.visit()
    request = Request("GET", b"/", [b"Cookie", b"WMSESSID=" + remote.cookie])
    request.connection, _ = remote.connect()
    with pytest.raises(RuntimeError, match=r"await request\.load_session"):
        _ = request.session
    session = remote.run(request.load_session())
    assert session.all() == {"visits": 1} and request.session is session
    session["visits"] = 7
    remote.run(session.save())
    remote.on(on_message=show)
    assert remote.visit().endswith(b'{"visits":7}')


@pytest.mark.real
def test_an_exception_of_the_handler_keeps_what_it_has_set(remote: Stage) -> None:
    async def answer(connection: Connection, request: Request) -> None:
        request.session["a"] = 1
        await request.session.save()
        request.session["b"] = 1
        try:
            await asyncio.sleep(0)
        finally:
            raise ValueError("mine")

    remote.on(on_message=count)
    remote.visit()
    remote.on(on_message=answer)
    remote.visit()
    assert remote.failures == [("on_message", "ValueError: mine")]
    remote.on(on_message=show)
    assert remote.visit().endswith(b'{"visits":1,"a":1,"b":1}')


@pytest.mark.real
def test_what_grew_too_large_in_place_is_not_saved_in_redis(remote: Stage) -> None:
    def answer(connection: Connection, request: Request) -> None:
        request.session["list"] = []
        connection.send("x")
        request.session["list"].append("x" * 70_000)

    remote.on(on_message=answer)
    assert b" 200 " in remote.visit()
    assert remote.failures[0][0] == "what a handler has left in a session"


@pytest.mark.real
@pytest.mark.parametrize("how", ["chunked", "HEAD"])
def test_an_answer_that_nobody_has_seen_becomes_a_503(remote: Stage, server: RedisServer, how: str) -> None:
    def answer(connection: Connection, request: Request) -> None:
        request.session["a"] = 1
        if how == "HEAD":
            connection.send("x")
            return
        connection.send(Response(200, {"Transfer-Encoding": "chunked"}))
        connection.send(Chunk("x"))

    remote.on(on_message=answer)
    server.stop()
    answered = remote.visit(method="HEAD" if how == "HEAD" else "GET")
    assert answered.startswith(b"HTTP/1.1 503 ") and answered.count(b"HTTP/1.1") == 1 and b"Set-Cookie" not in answered
    assert answered.endswith(b"\r\n\r\n") is (how == "HEAD")


@pytest.mark.real
def test_what_a_handler_waits_for_can_fail(remote: Stage) -> None:
    async def answer(connection: Connection, request: Request) -> None:
        request.session["a"] = 1
        try:
            async with asyncio.timeout(0.01):
                await asyncio.Event().wait()
        except TimeoutError:
            connection.send("too late")

    remote.on(on_message=answer)
    assert remote.visit().endswith(b"too late")


def test_what_is_no_request_goes_through(stage: Stage) -> None:
    async def later(connection: Any, message: Any) -> None:
        stage.log.append(message)

    connection: Any = None
    stage.run(stage.worker.sessions.around(lambda connection, message: stage.log.append(message), connection, "one"))
    stage.run(stage.worker.sessions.around(later, connection, "two"))
    assert stage.log == ["one", "two"]


def test_a_client_for_redis_that_is_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stage = Stage(tmp_path, store="redis://localhost")
    monkeypatch.delitem(sys.modules, "workermand.worker.session_redis", raising=False)
    monkeypatch.setitem(sys.modules, "redis", None)
    monkeypatch.setitem(sys.modules, "redis.asyncio", None)
    with pytest.raises(LoadError, match=r'redis wants its client, pip install "workermand\[redis\]"'):
        stage.worker.sessions.make_store()
    stage.close()


def test_an_address_that_is_none_is_not_shown(tmp_path: Path) -> None:
    stage = Stage(tmp_path, store="redis://ann:sec/ret@localhost")
    with pytest.raises(LoadError, match=r"session\.store is no address of a redis") as caught:
        stage.worker.sessions.make_store()
    assert "ret" not in str(caught.value) and caught.value.__suppress_context__
    stage.close()
