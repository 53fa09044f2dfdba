"""ClientWire where client.py's tests do not look: in memory, without a server."""

from __future__ import annotations

import pytest

from tests.worker.outgoing.conftest import ClientScene
from workermand import CloseReason, ConnectionStatus
from workermand.testing import MemoryTransport


def connecting(scene: ClientScene, uri: str = "text://192.0.2.1:1") -> tuple[object, MemoryTransport]:
    """On its way; the test plays uvloop."""
    client = scene.client(uri)
    client.connect()
    assert client.attempt is not None
    client.attempt.give_up()
    return client, MemoryTransport()


def test_what_waited_goes_out_first_and_in_one_write(scene: ClientScene) -> None:
    client, transport = connecting(scene)
    client.on_connect = lambda client: client.send("third")
    client.send("first")
    client.send("second")
    transport.connect(client.wire)
    assert transport.writes == [b"first\nsecond\n", b"third\n"]
    assert client.bytes_written == len(transport.sent)
    client.destroy()
    transport.settle()


def test_a_full_buffer_is_drained_when_the_kernel_takes_it(scene: ClientScene) -> None:
    client, transport = connecting(scene)
    client.on_buffer_full = lambda _client: scene.log.append("full")
    client.on_buffer_drain = lambda _client: scene.log.append("drain")
    client.max_send_buffer_size = 3
    client.send("long")
    transport.stall()
    transport.connect(client.wire)
    assert scene.log == ["full", "full", "on_connect"]
    transport.drain()
    assert scene.log == ["full", "full", "on_connect", "drain"]
    client.destroy()
    transport.settle()


def test_a_transport_that_comes_too_late_is_aborted(scene: ClientScene) -> None:
    client, transport = connecting(scene)
    client.close()
    scene.turn()
    assert scene.log == [("on_close", "CLOSED")]
    transport.connect(client.wire)
    transport.settle()
    assert transport.aborted and scene.log == [("on_close", "CLOSED")]


@pytest.mark.parametrize("when", ["never begun", "on_error"])
def test_closing_what_is_not_there(scene: ClientScene, when: str) -> None:
    if when == "never begun":
        client = scene.client("text://192.0.2.1:1")
        client.send("x")
        client.close()
        assert (client.status, client.close_reason) == (ConnectionStatus.CLOSED, CloseReason.CLOSED)
        assert client.get_send_buffer_size() == 0 and client.send("y") is False
        assert scene.log == [("SEND_FAIL", "client closed")]
        return
    client, _transport = connecting(scene)
    client.on_error = lambda client, _code, _words: client.destroy()
    client.wire.fail("it is not there")
    assert scene.log == [("on_close", "CONNECT_FAILED")]
    client.wire.fail("again")
    scene.turn()
    assert scene.log == [("on_close", "CONNECT_FAILED")]
    assert client.get_send_buffer_size() == 0


def test_an_exception_in_on_error_is_reported_and_on_close_still_comes(scene: ClientScene) -> None:
    client, _transport = connecting(scene)
    client.on_error = lambda _client, _code, _words: 1 / 0
    client.wire.fail("it is not there")
    assert scene.log == [("on_close", "CONNECT_FAILED")]
    assert scene.failures.pop()[0] == "on_error"


def test_a_half_close_before_it_is_open(scene: ClientScene) -> None:
    client, transport = connecting(scene)
    client.send("x")
    client.wire.end_output()
    transport.connect(client.wire)
    assert bytes(transport.sent) == b"x\n" and transport.eof_sent
    client.destroy()
    transport.settle()
