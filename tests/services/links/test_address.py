"""Addresses of services."""

from __future__ import annotations

import pytest

from tests.worker.test_worker import NEIGHBOURS
from workermand import ConfigError
from workermand.services.links import address
from workermand.services.links.address import Address
from workermand.testing import running_server


@pytest.mark.parametrize(
    ("url", "uris"),
    [
        ("channel://127.0.0.1:2206", ["tcp://127.0.0.1:2206"]),
        ("channel://127.0.0.1", ["tcp://127.0.0.1:2206"]),
        ("channel://localhost/", ["tcp://localhost:2206"]),
        ("channel://[::1]:7", ["tcp://[::1]:7"]),
        ("channel:///run/x/channel.sock", ["unix:///run/x/channel.sock"]),
        ("channel://a:1, b:2,c", ["tcp://a:1", "tcp://b:2", "tcp://c:2206"]),
    ],
)
def test_urls(url: str, uris: list[str]) -> None:
    assert [found.uri for found in address.parse(url, "channel", 2206)] == uris


@pytest.mark.parametrize(
    "url", ["", "redis://a:1", "channel://", "channel://a:x", "channel://a:70000", "channel://me@a:1", "channel://a,,b"]
)
def test_what_is_none(url: str) -> None:
    with pytest.raises(ConfigError, match=r"as in channel://127\.0\.0\.1:2206"):
        address.parse(url, "channel", 2206)


@pytest.mark.parametrize(
    ("uri", "near", "here"),
    [
        ("unix:///run/a.sock", True, "unix:///run/a.sock"),
        ("frame://127.0.0.1:7", True, "tcp://127.0.0.1:7"),
        ("frame://127.1.2.3:7", True, "tcp://127.1.2.3:7"),
        ("frame://localhost:7", True, "tcp://localhost:7"),
        ("frame://[::1]:7", True, "tcp://[::1]:7"),
        ("frame://0.0.0.0:7", False, "tcp://127.0.0.1:7"),
        ("frame://[::]:7", False, "tcp://[::1]:7"),
        ("frame://192.0.2.1:7", False, "tcp://192.0.2.1:7"),
    ],
)
def test_what_a_worker_is_bound_to(uri: str, near: bool, here: str) -> None:
    found = address.bound(uri)
    assert found is not None
    assert (found.is_near, address.from_here(found).uri) == (near, here)


def test_what_is_no_stream() -> None:
    assert address.bound("udp://127.0.0.1:7") is None


def test_in_words() -> None:
    assert str(Address("a", 1, "")) == "a:1" and str(Address("", 0, "/x")) == "/x"


FINDER = {
    "app.py": """
from workermand import ConfigError
from workermand.services.links import address

def on_message(connection, handler):
    try:
        connection.send(repr(address.of_this_daemon(handler)))
    except ConfigError as error:
        connection.send(str(error))
""",
    "other.py": "def on_message(connection, data): pass",
}


def test_the_one_of_this_daemon() -> None:
    text = NEIGHBOURS.replace('app"\nlisten = ["unix', 'other"\nlisten = ["unix').replace("colour", "secret")
    with running_server(text, files=FINDER) as server, server.connect("a") as client:
        path = server.addresses["b"][0]
        client.sendall(b"other\nnone\n")
        with client.makefile() as lines:
            assert lines.readline() == f"Server(address=Address(host='', port=0, path='{path}'), secret='blue')\n"
            assert 'no worker of this daemon has handler = "none"' in lines.readline()
