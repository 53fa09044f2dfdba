"""What an address may say, and what is answered to those that say something else."""

from __future__ import annotations

import pytest

from workermand.errors import ConfigError
from workermand.worker.outgoing.target import Proxy, Target, parse, parse_proxy, parse_udp


@pytest.mark.parametrize(
    ("uri", "expected"),
    [
        ("tcp://127.0.0.1:80", ("tcp", "raw", "127.0.0.1", 80, "", False)),
        ("TCP://Example.com:80/", ("tcp", "raw", "Example.com", 80, "", False)),
        ("text://[::1]:2347", ("tcp", "text", "::1", 2347, "", False)),
        ("frame://a_b.example.:1", ("tcp", "frame", "a_b.example", 1, "", False)),
        ("ssl://example.com", ("tcp", "raw", "example.com", 443, "", True)),
        ("tls://example.com:8443", ("tcp", "raw", "example.com", 8443, "", True)),
        ("ws://example.com", ("tcp", "websocket", "example.com", 80, "/", False)),
        ("wss://example.com/feed?a=b", ("tcp", "websocket", "example.com", 443, "/feed?a=b", True)),
        ("ws://example.com?a", ("tcp", "websocket", "example.com", 80, "/?a", False)),
        ("mqtt://example.com:1883", ("tcp", "mqtt", "example.com", 1883, "", False)),
        ("unix:///run/x.sock", ("unix", "raw", "", 0, "/run/x.sock", False)),
        ("unix://x.sock", ("unix", "raw", "", 0, "/run/workermand/x.sock", False)),
        ("tcp://bücher.example:1", ("tcp", "raw", "xn--bcher-kva.example", 1, "", False)),
    ],
)
def test_an_address(uri: str, expected: tuple[object, ...]) -> None:
    target = parse(uri, run_dir="/run/workermand", schemes=["mqtt"])
    assert (target.transport, target.protocol, target.host, target.port, target.path, target.tls) == expected
    assert target.uri == uri


@pytest.mark.parametrize(
    ("uri", "complaint"),
    [
        ("example.com:80", "scheme://"),
        ("txet://example.com:80", 'did you mean "text"'),
        ("nothing://example.com:80", "there are "),
        ("https://example.com", "httpx"),
        ("tcp://example.com", "there is no port"),
        ("tcp://example.com:0", "found port 0"),
        ("tcp://example.com:65536", "65536"),
        ("tcp://:80", "no host"),
        ("tcp://::1:80", "brackets"),
        ("tcp://[127.0.0.1]:80", "not an IPv6"),
        ("tcp://a..b:80", "no host"),
        ("tcp://-a:80", "no host"),
        ("tcp://a b:80", "no host"),
        (f"tcp://{'ü' * 64}:80", "no host"),
        ("tcp://user@example.com:80", "says more"),
        ("tcp://example.com:80/path", "says more"),
        ("ws://example.com/a b", "no path"),
        ("ws://example.com/a\r\nX: 1", "no path"),
        ("ws://example.com/#f", "no path"),
        ("unix://", "names no file"),
        ("unix:///run/", "names no file"),
        (f"unix:///{'x' * 200}", "201 bytes"),
    ],
)
def test_what_is_none(uri: str, complaint: str) -> None:
    with pytest.raises(ConfigError, match=complaint):
        parse(uri, run_dir="/run")


def test_a_protocol_over_a_carrier() -> None:
    assert parse("tcp://a:1", protocol="text").protocol == "text"
    assert parse("unix:///a", protocol="app:Class").protocol == "app:Class"
    with pytest.raises(ConfigError, match="two protocols"):
        parse("ws://a:1", protocol="text")


def test_how_it_is_shown() -> None:
    assert parse("tcp://[::1]:80").where == "[::1]:80"
    assert parse("unix:///a").where == "/a"
    assert parse("ws://a").authority == "a"
    assert parse("ws://a:81").authority == "a:81"
    assert parse("ws://a:8080").authority == "a:8080"
    assert parse("wss://[::1]").authority == "[::1]"
    assert parse("wss://a:80").authority == "a:80"


@pytest.mark.parametrize(
    ("uri", "expected"),
    [
        ("http://10.0.0.1:3128", Proxy("http", "10.0.0.1", 3128)),
        ("socks5://proxy", Proxy("socks5", "proxy", 1080)),
        ("socks5h://u:p%40ss@[::1]:1", Proxy("socks5", "::1", 1, "u", "p@ss")),
        ("http://u:a:b@proxy/", Proxy("http", "proxy", 80, "u", "a:b")),
    ],
)
def test_a_proxy(uri: str, expected: Proxy) -> None:
    assert parse_proxy(uri) == expected
    assert "p@ss" not in repr(expected)


@pytest.mark.parametrize(
    "uri",
    [
        "socks4://u:secret@proxy",
        "u:secret@proxy:80",
        "http://u:secret@proxy:99999",
        "http://u:secret@proxy/path",
        f"socks5://u:secret{'x' * 256}@proxy",
        "socks5://:secret@proxy",
        "http://u%3a:secret@proxy",
        "http://u:secret@",
    ],
)
def test_no_proxy_and_no_password_shown(uri: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_proxy(uri)
    assert "secret" not in str(caught.value)


def test_udp() -> None:
    assert parse_udp("udp://a:1") == Target("udp://a:1", "udp", "raw", "a", 1)
    assert parse_udp("udp://a:1", protocol="text").protocol == "text"
    for wrong in ("tcp://a:1", "udp://a", "udp://u@a:1", "udp://a:1/x"):
        with pytest.raises(ConfigError):
            parse_udp(wrong)
