from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workermand import address
from workermand.errors import ConfigError
from workermand.spec import ListenSpec


def parse(uri: str, protocol: str | None = None) -> ListenSpec:
    return address.parse(uri, run_dir="/run/x", worker_name="echo", protocol=protocol, schemes=["jsonnl"])


@pytest.mark.parametrize(
    ("uri", "protocol", "expected"),
    [
        ("text://0.0.0.0:2347", None, ("tcp", "text", "0.0.0.0", 2347, "")),
        ("TEXT://127.0.0.1:1", None, ("tcp", "text", "127.0.0.1", 1, "")),
        ("tcp://localhost:65535", None, ("tcp", "raw", "127.0.0.1", 65535, "")),
        ("tcp://127.0.0.1:1", "text", ("tcp", "text", "127.0.0.1", 1, "")),
        ("udp://[::]:53", None, ("udp", "raw", "::", 53, "")),
        ("frame://[0:0::1]:9", None, ("tcp", "frame", "::1", 9, "")),
        ("tcp://[::ffff:127.0.0.1]:9", None, ("tcp", "raw", "127.0.0.1", 9, "")),
        ("jsonnl://127.0.0.1:7", None, ("tcp", "jsonnl", "127.0.0.1", 7, "")),
        ("unix:///tmp/a.sock", None, ("unix", "raw", "", 0, "/tmp/a.sock")),
        ("unix://a.sock", "apps.x:Y", ("unix", "apps.x:Y", "", 0, "/run/x/a.sock")),
        ("unix://a/../b.sock", "jsonnl", ("unix", "jsonnl", "", 0, "/run/x/b.sock")),
        ("unix:///" + "x" * 106, None, ("unix", "raw", "", 0, "/" + "x" * 106)),
        ("udp://0.0.0.0:1", "text", ("udp", "text", "0.0.0.0", 1, "")),
    ],
)
def test_taken_apart(uri: str, protocol: str | None, expected: tuple[object, ...]) -> None:
    listen = parse(uri, protocol)
    assert (listen.transport, listen.protocol, listen.host, listen.port, listen.path) == expected
    assert listen.uri == uri


def test_some_schemes_are_encrypted() -> None:
    for uri, protocol, tls in (("https://0.0.0.0:1", "http", True), ("wss://[::]:1", "websocket", True),
                               ("http://0.0.0.0:1", "http", False), ("unix://a", "raw", False)):  # fmt: skip
        listen = parse(uri)
        assert (listen.protocol, listen.tls) == (protocol, tls)


@pytest.mark.parametrize(
    ("uri", "protocol", "words"),
    [
        ("0.0.0.0:2347", None, "expected scheme://host:port"),
        ("txt://0.0.0.0:2347", None, 'unknown scheme "txt"; did you mean "text"?'),
        ("udp://0.0.0.0:70", "http", "http over udp; these need tcp:// or unix://"),
        (
            "gopher://0.0.0.0:70",
            None,
            "there are frame, http, https, jsonnl, tcp, text, udp, unix, websocket, wss, and those of [protocols]",
        ),
        ("text://0.0.0.0", None, "expected host:port"),
        ("text://0.0.0.0:0", None, "found port 0; expected 1 to 65535"),
        ("text://0.0.0.0:65536", None, "found port 65536"),
        ("text://0.0.0.0:x", None, "expected host:port"),
        ("text://0.0.0.0:999999999999", None, "expected host:port"),
        ("text://0.0.0.0:\u0661", None, "expected host:port"),
        ("text://0.0.0.0:1\n", None, "expected host:port"),
        ("text://:1", None, '"" is not an IP address'),
        ("text://[::1:1", None, "expected host:port"),
        ("text://[fe80::1%eth0]:1", None, "an address of one interface only"),
        ("://0.0.0.0:1", None, "expected scheme://host:port"),
        ("unix://a\0b", None, "names no file"),
        ("text://::1:2347", None, "IPv6 goes in brackets"),
        ("text://[127.0.0.1]:2347", None, "brackets are for IPv6"),
        ("text://example.com:2347", None, '"example.com" is not an IP address'),
        ("text://0.0.0.0:1", "frame", "name two protocols"),
        ("unix://", None, "names no file"),
        ("unix:///tmp/", None, "names no file"),
        ("unix:///" + "x" * 107, None, "may have 107"),
    ],
)
def test_refused_in_words(uri: str, protocol: str | None, words: str) -> None:
    with pytest.raises(ConfigError) as refused:
        parse(uri, protocol)
    assert words in str(refused.value)
    assert str(refused.value).startswith("worker.echo.listen: ")


KNOWN = '"raw", "text", "frame", "http", "websocket", "jsonnl", or "module:Class"'


@pytest.mark.parametrize("protocol", ["raw", "text", "frame", "jsonnl", "apps.x:Y", "x:Y"])
def test_protocols(protocol: str) -> None:
    address.check_protocol("worker.echo.protocol", protocol, ["jsonnl"])


@pytest.mark.parametrize(
    ("protocol", "words"),
    [
        (
            "txt",
            f'found "txt", expected {KNOWN}; did you mean "text"?',
        ),
        ("udp", f'found "udp", expected {KNOWN}'),
        ("apps/x.py:Y", '"module:Class"'),
        ("", '"module:Class"'),
    ],
)
def test_protocols_that_cannot_be(protocol: str, words: str) -> None:
    with pytest.raises(ConfigError) as refused:
        address.check_protocol("worker.echo.protocol", protocol, ["jsonnl"])
    assert words in str(refused.value)


@given(st.text(alphabet="tcpudpunixext:/[]0123456789.%\0 é"))
def test_any_text_is_an_address_or_a_complaint(uri: str) -> None:
    with contextlib.suppress(ConfigError):
        assert parse(uri).uri == uri


def test_the_protocol_is_no_part_of_the_address() -> None:
    assert parse("text://127.0.0.1:1").address == parse("frame://127.0.0.1:1").address
    assert parse("udp://127.0.0.1:1").address != parse("tcp://127.0.0.1:1").address


@pytest.mark.parametrize(
    ("one", "other", "overlap"),
    [
        ("tcp://0.0.0.0:1", "text://127.0.0.1:1", True),
        ("tcp://0.0.0.0:1", "tcp://[::]:1", True),
        ("tcp://127.0.0.1:1", "tcp://[::]:1", True),
        ("udp://[::1]:1", "udp://[::]:1", True),
        ("tcp://0.0.0.0:1", "tcp://[::1]:1", False),
        ("tcp://127.0.0.1:1", "tcp://127.0.0.2:1", False),
        ("tcp://0.0.0.0:1", "tcp://127.0.0.1:2", False),
        ("tcp://0.0.0.0:1", "udp://127.0.0.1:1", False),
        ("unix://a", "unix://b", False),
        ("unix://a", "tcp://0.0.0.0:1", False),
    ],
)
def test_addresses_overlap(one: str, other: str, overlap: bool) -> None:
    assert address.overlap(parse(one), parse(other)) is address.overlap(parse(other), parse(one)) is overlap


@pytest.mark.parametrize(
    ("sockaddr", "shown"),
    [
        (("192.0.2.1", 80), "192.0.2.1:80"),
        (("::ffff:192.0.2.1", 80, 0, 0), "192.0.2.1:80"),
        (("2001:db8::1", 80, 0, 0), "[2001:db8::1]:80"),
        ("/run/a.sock", "/run/a.sock"),
        (b"\0abstract", "\0abstract"),
        ("", "unix"),
    ],
)
def test_shown(sockaddr: object, shown: str) -> None:
    assert address.display(sockaddr) == shown
