"""HTTP with the settings of its worker."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.worker.scene import Scene
from tests.worker.test_upgrade import GET
from workermand.errors import CloseReason
from workermand.http.response import Response, ServerSentEvents
from workermand.protocols.handshake import Upgrading
from workermand.protocols.http import Http
from workermand.protocols.text import Text
from workermand.spec import HttpLimits
from workermand.worker import web


@pytest.fixture
def scene() -> Iterator[Scene]:
    made = Scene()
    yield made
    made.close()


def test_other_protocols_are_made_as_they_are(scene: Scene) -> None:
    assert web.serve(Text, scene.worker, scene.worker.handlers) is Text


def test_the_settings_are_those_of_the_moment(scene: Scene) -> None:
    make = web.serve(Http, scene.worker, scene.worker.handlers)
    assert (make(100).max_package, make(100).upgrades) == (100, True)
    scene.on(on_message=lambda connection, request: None)
    scene.limit(http=HttpLimits(body=50, line=0, requests=0))
    served = make(100)
    assert isinstance(served, web.Web)
    assert (served.max_package, served.upgrades, served.limits.field) == (50, False, 8192)
    assert served.limits.line > 2**60


def test_a_websocket_listener_upgrades_whatever_the_handler_has(scene: Scene) -> None:
    scene.on(on_message=lambda connection, data: None)
    assert web.serve(Upgrading, scene.worker, scene.worker.handlers)(100).upgrades


def test_a_head_in_pieces_is_watched(scene: Scene) -> None:
    connection, transport = scene.connect(web.Web())
    scene.worker.reading.clear()
    transport.receive(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
    assert not scene.worker.reading
    transport.receive(b"GET / HT")
    assert scene.worker.reading == {connection}
    transport.lose()
    assert not scene.worker.reading


def test_a_listener_that_hangs_up_is_gone_at_once(scene: Scene) -> None:
    """Of events, which have no other end. With any other answer it may be but his half of the connection."""
    events = Response(200, {"Content-Type": "text/event-stream"})
    scene.on(on_message=lambda connection, request: connection.send(events))
    connection, transport = scene.connect(web.Web())
    transport.receive(GET)
    transport.receive_eof()
    assert connection.close_reason is CloseReason.PEER_CLOSED
    assert connection.send(ServerSentEvents({"data": "late"})) is False


def test_an_answer_that_is_dropped_ends_its_connection(scene: Scene) -> None:
    scene.limit(send_buffer=100)
    scene.on(on_message=lambda connection, request: scene.log.append(connection.send("x" * 1000)))
    scene.note("on_error")
    connection, transport = scene.connect(web.Web(), stalled=True)
    transport.receive(GET * 3)
    assert scene.log == [None, (2, "send buffer full and drop package"), False]
    assert connection.close_reason is CloseReason.BUFFER_FULL
