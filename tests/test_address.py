from __future__ import annotations

import pytest

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
        ("jsonnl://127.0.0.1:7", None, ("tcp", "jsonnl", "127.0.0.1", 7, "")),
        ("unix:///tmp/a.sock", None, ("unix", "raw", "", 0, "/tmp/a.sock")),
        ("unix://a.sock", "apps.x:Y", ("unix", "apps.x:Y", "", 0, "/run/x/a.sock")),
    ],
)
def test_taken_apart(uri: str, protocol: str | None, expected: tuple[object, ...]) -> None:
    listen = parse(uri, protocol)
    assert (listen.transport, listen.protocol, listen.host, listen.port, listen.path) == expected
    assert listen.uri == uri


@pytest.mark.parametrize(
    ("uri", "protocol", "words"),
    [
        ("0.0.0.0:2347", None, "expected scheme://host:port"),
        ("txt://0.0.0.0:2347", None, 'unknown scheme "txt"; did you mean "text"?'),
        ("gopher://0.0.0.0:70", None, "there are frame, jsonnl, tcp, text, udp, unix, and those under"),
        ("text://0.0.0.0", None, "expected host:port"),
        ("text://0.0.0.0:0", None, "found port 0; expected 1 to 65535"),
        ("text://0.0.0.0:65536", None, "found port 65536"),
        ("text://0.0.0.0:x", None, "expected host:port"),
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


def test_the_protocol_is_no_part_of_the_address() -> None:
    assert parse("text://127.0.0.1:1").address == parse("frame://127.0.0.1:1").address
    assert parse("udp://127.0.0.1:1").address != parse("tcp://127.0.0.1:1").address


@pytest.mark.parametrize(
    ("sockaddr", "shown"),
    [
        (("192.0.2.1", 80), "192.0.2.1:80"),
        (("::ffff:192.0.2.1", 80, 0, 0), "192.0.2.1:80"),
        (("2001:db8::1", 80, 0, 0), "[2001:db8::1]:80"),
        ("/run/a.sock", "/run/a.sock"),
        ("", "unix"),
    ],
)
def test_shown(sockaddr: object, shown: str) -> None:
    assert address.display(sockaddr) == shown
