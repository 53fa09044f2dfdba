"""One request of an ASGI application, from both ends: bodies, answers, faults, clients that go."""

from __future__ import annotations

import json
import re
import socket
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.services.probe import APPLICATION, curl, serving
from workermand.testing import RunningServer


@pytest.fixture(scope="module")
def server() -> Iterator[RunningServer]:
    with serving(limits={"send_buffer": "256KiB"}) as running:
        yield running


def ask(client: socket.socket, path: str, *lines: str, method: str = "GET") -> None:
    client.sendall("\r\n".join([f"{method} {path} HTTP/1.1", "Host: a", *lines, "", ""]).encode())


def everything(client: socket.socket) -> bytes:
    received = b""
    while piece := client.recv(65536):
        received += piece
    return received


def exceptions(server: RunningServer) -> int:
    return sum(process["exceptions"] for process in server.status()["processes"])


# ---------------------------------------------------------------------------------------------------- bodies


@pytest.mark.parametrize("size", [0, 5, 65536, 65537, 5_000_000])
def test_a_body_comes_whole(server: RunningServer, tmp_path: Any, size: int) -> None:
    path = tmp_path / "body"
    path.write_bytes(bytes(size))
    for extra in ([], ["--header", "Transfer-Encoding: chunked"]):
        status, _, body = curl(server, "/body", "--data-binary", f"@{path}", *extra)
        total, messages = json.loads(body)
        assert (status, total) == (200, size)
        assert messages == 1 if size < 65537 and not extra else messages >= 1


def test_a_body_over_the_limit_is_413_whatever_the_application_makes_of_it(server: RunningServer) -> None:
    before = exceptions(server)
    for path in ("/body", "/forgives"):
        with server.connect() as client:
            ask(client, path, "Transfer-Encoding: chunked", method="POST")
            for _ in range(11):
                client.sendall(b"100000\r\n" + bytes(1 << 20) + b"\r\n")
            answer = everything(client)
        assert answer.startswith(b"HTTP/1.1 413 ")
        assert b"\r\nConnection: close\r\n" in answer
    assert exceptions(server) == before


# ---------------------------------------------------------------------------------------------------- answers


def test_a_whole_answer(server: RunningServer) -> None:
    status, headers, body = curl(server, "/")
    assert (status, headers["content-type"], headers["content-length"], body) == (200, "text/plain", "5", "hello")
    status, headers, body = curl(server, "/", "--head")
    assert (status, headers["content-length"], body) == (200, "5", "")


@pytest.mark.parametrize("count", [1, 50])
def test_an_answer_in_pieces(server: RunningServer, count: int) -> None:
    status, headers, body = curl(server, f"/pieces?{count}")
    assert (status, headers["transfer-encoding"], len(body)) == (200, "chunked", count * 1000)
    assert "content-type" not in headers
    status, headers, body = curl(server, f"/pieces/known?{count}")
    assert (status, headers["content-length"], len(body)) == (200, str(count * 1000), count * 1000)
    assert "transfer-encoding" not in headers
    assert curl(server, f"/pieces/known?{count}", "--head")[1]["content-length"] == str(count * 1000)
    assert curl(server, f"/pieces?{count}", "--http1.0")[2] == "x" * count * 1000


@pytest.mark.parametrize("status", [204, 304])
def test_a_status_without_a_body_has_none(server: RunningServer, status: int) -> None:
    with server.connect() as client:
        ask(client, f"/status/{status}")
        ask(client, "/", "Connection: close")
        first, second, body = everything(client).split(b"\r\n\r\n")
    assert first.startswith(b"HTTP/1.1 %d " % status)
    assert first.count(b"x-a: ") == 2
    assert (second[:15], body) == (b"HTTP/1.1 200 OK", b"hello")


def test_a_file_is_sent_by_its_path(server: RunningServer) -> None:
    status, headers, body = curl(server, "/file")
    assert (status, headers["content-type"], body) == (200, "text/x-python", APPLICATION)
    assert curl(server, "/file", "--range", "1-3")[::2] == (206, APPLICATION[1:4])


def test_what_is_not_its_turn_is_refused(server: RunningServer) -> None:
    assert curl(server, "/out_of_turn")[2] == "in turn"
    server.wait_for("refused: the application sends http.response.body, and it is not its turn")
    server.wait_for("then http.disconnect http.disconnect")


def test_requests_in_a_row_are_answered_in_order(server: RunningServer) -> None:
    with server.connect() as client:
        for path in ("/pieces", "/", "/body"):
            ask(client, path)
        ask(client, "/", "Connection: close")
        answer = everything(client)
    assert re.findall(rb"(?:\r\n\r\n)(3e8|hello|\[0, 1\])", answer) == [b"3e8", b"hello", b"[0, 1]", b"hello"]


# ---------------------------------------------------------------------------------------------------- faults


def test_an_exception_is_a_500_logged_and_counted(server: RunningServer) -> None:
    before = exceptions(server)
    status, headers, _ = curl(server, "/fails")
    assert (status, headers["connection"]) == (500, "close")
    server.wait_for(r"exception in on_message[^\0]*probe.py[^\0]*KeyError: 'fails at once'")
    assert exceptions(server) == before + 1
    assert curl(server, "/says_nothing")[0] == 500
    server.wait_for("has returned without a whole answer")


def test_an_exception_behind_the_head_ends_the_connection(server: RunningServer) -> None:
    with server.connect() as client:
        ask(client, "/fails_late")
        answer = everything(client)
    assert answer.endswith(b"5\r\nbegun\r\n")
    server.wait_for("KeyError: 'fails late'")
    assert curl(server, "/fails_answered")[::2] == (200, "answered")
    server.wait_for("KeyError: 'fails answered'")


# ---------------------------------------------------------------------------------------------------- clients that go


def test_an_application_is_told_that_the_client_has_gone(server: RunningServer) -> None:
    before = exceptions(server)
    with server.connect() as client:
        ask(client, "/waits")
        server.wait_for("waits")
    server.wait_for(r"waited: \{'type': 'http.disconnect'\} \{'type': 'http.disconnect'\}")
    with server.connect() as client:
        ask(client, "/reads", "Content-Length: 100000", method="POST")
        server.wait_for("reading")
        client.sendall(b"half")
    server.wait_for("read: http.disconnect")
    assert exceptions(server) == before


def test_its_own_fault_then_is_told_too(server: RunningServer) -> None:
    with server.connect() as client:
        ask(client, "/waits_and_fails")
        server.wait_for("failing later")
    server.wait_for("KeyError: 'fails when the client has gone'")


def test_a_slow_client_holds_the_application_back_and_one_that_goes_stops_it(
    server: RunningServer, eventually: Callable[..., Any]
) -> None:
    with server.connect() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
        ask(client, "/floods")
        assert client.recv(1000)
        sent: list[int] = []

        def stands_still() -> bool:
            sent.append(int(curl(server, "/flooded")[2]))
            return len(sent) > 3 and sent[-1] == sent[-4]

        eventually("it does not go on", stands_still)
        assert sent[-1] < 32 << 20
    server.wait_for("flooded")


# ---------------------------------------------------------------------------------------------------- the end


def test_in_flight_requests_finish_when_the_process_ends() -> None:
    with serving() as server, server.connect() as client:
        ask(client, "/sleeps")
        server.wait_for("sleeping")
        server.stop()
        assert everything(client).endswith(b"slept")
        assert "the application has ended" in server.output


def test_what_does_not_end_is_cancelled() -> None:
    with serving(timeouts={"stop": 2}) as server:
        with server.connect() as client:
            ask(client, "/never_ends")
            server.wait_for("endless")
        server.stop()
        assert "the application has ended" in server.output
        assert "Traceback" not in server.output
