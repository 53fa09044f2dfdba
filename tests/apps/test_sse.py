"""apps.sse: events come one after the other, and the timer goes with its client."""

from __future__ import annotations

from tests.conftest import wait_until
from workermand.testing import running_server


def test_a_clock() -> None:
    with running_server("apps.sse", listen="http://127.0.0.1:0") as server:
        with server.connect() as client, client.makefile("rb") as lines:
            client.sendall(b"GET /clock HTTP/1.1\r\nHost: a\r\n\r\n")
            assert lines.readline() == b"HTTP/1.1 200 OK\r\n"
            headers = dict(line.rstrip().split(b": ") for line in iter(lines.readline, b"\r\n"))
            assert headers[b"Content-Type"] == b"text/event-stream"
            events = [lines.readline(), lines.readline(), lines.readline()]
            assert [event[:6] for event in events] == [b"data: ", b"\n", b"data: "]
            assert server.status()["processes"][0]["timers"] == 1
        wait_until("the timer is gone", lambda: server.status()["processes"][0]["timers"] == 0)
        with server.connect() as client:
            client.sendall(b"GET / HTTP/1.0\r\n\r\n")
            assert b"EventSource" in client.makefile("rb").read()
