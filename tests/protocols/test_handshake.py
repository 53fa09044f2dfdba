"""The upgrade: every rule of RFC 6455 section 4 that is ours to check, and another implementation at the other end."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from websockets.client import ClientProtocol
from websockets.datastructures import Headers as OtherHeaders
from websockets.http11 import Request, Response
from websockets.server import ServerProtocol
from websockets.uri import parse_uri

from workermand.errors import ProtocolError
from workermand.protocols.deflate import Deflate
from workermand.protocols.handshake import ClientHandshake, Refusal, Upgrade, Upgrading, accept_of, check

KEY = "dGhlIHNhbXBsZSBub25jZQ=="
"""RFC 6455 1.2; its answer is ACCEPT."""
ACCEPT = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="

BASE = {
    "Host": "server.example.com",
    "Upgrade": "websocket",
    "Connection": "Upgrade",
    "Sec-WebSocket-Key": KEY,
    "Sec-WebSocket-Version": "13",
}


def headers(**changes: str | None) -> list[tuple[str, str]]:
    """BASE with changes, Sec_WebSocket_Key for Sec-WebSocket-Key; None takes one out."""
    changed = BASE | {name.replace("_", "-"): value for name, value in changes.items()}
    return [(name, value) for name, value in changed.items() if value is not None]


def parse(head: bytes) -> tuple[str, list[tuple[str, str]], bytes]:
    """First line, headers, and what follows them."""
    before, _, after = head.partition(b"\r\n\r\n")
    first, *lines = before.decode("latin-1").split("\r\n")
    return first, [(name, value) for name, _, value in (line.partition(": ") for line in lines)], after


def refused(method: str = "GET", version: str = "1.1", **changes: str | None) -> Refusal:
    with pytest.raises(Refusal) as caught:
        check(method, version, headers(**changes))
    return caught.value


# ------------------------------------------------------------------------------------------------ the server: yes


def test_the_example_of_rfc_6455_1_3() -> None:
    assert accept_of(KEY) == ACCEPT
    first, answered, rest = parse(check("GET", "1.1", headers()).accept())
    assert first == "HTTP/1.1 101 Switching Protocols"
    assert answered == [("Upgrade", "websocket"), ("Connection", "Upgrade"), ("Sec-WebSocket-Accept", ACCEPT)]
    assert rest == b""


@pytest.mark.parametrize(
    "changes",
    [
        {"Upgrade": "WebSocket"},
        {"Upgrade": "h2c, websocket"},
        {"Connection": "keep-alive, Upgrade"},
        {"Connection": "UPGRADE"},
        {"Content_Length": "0"},
        {"Sec_WebSocket_Extensions": "permessage-deflate; client_max_window_bits"},
        {"Sec_WebSocket_Protocol": "chat, superchat"},
        {"Origin": "https://evil.example"},
    ],
)
def test_what_browsers_send_is_taken(changes: dict[str, str]) -> None:
    upgrade = check("GET", "1.1", headers(**changes))
    assert (upgrade.key, upgrade.subprotocol, upgrade.deflate) == (KEY, None, None)


def test_names_in_any_case_and_lists_over_lines() -> None:
    several = [(name.lower(), value) for name, value in headers(Sec_WebSocket_Protocol="chat")]
    several += [("sec-websocket-protocol", "superchat,  v3"), ("connection", "x")]
    assert check("GET", "1.1", several).subprotocols == ("chat", "superchat", "v3")


# ------------------------------------------------------------------------------------------------ the server: no


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"method": "POST"}, "begins with GET"),
        ({"method": "HEAD"}, "begins with GET"),
        ({"version": "1.0"}, "HTTP/1.1"),
        ({"Connection": None}, "Connection"),
        ({"Connection": "keep-alive"}, "Connection"),
        ({"Connection": "upgraded"}, "Connection"),
        ({"Host": None}, "Host"),
        ({"Content_Length": "5"}, "no body"),
        ({"Transfer_Encoding": "chunked"}, "no body"),
        ({"Sec_WebSocket_Version": None}, "Version is missing"),
        ({"Sec_WebSocket_Key": None}, "Key"),
        ({"Sec_WebSocket_Key": ""}, "Key"),
        ({"Sec_WebSocket_Key": "dGhlIHNhbXBsZSBub25jZQ"}, "Key"),
        ({"Sec_WebSocket_Key": "dGhlIHNhbXBsZSBub25jZQ!="}, "Key"),
        ({"Sec_WebSocket_Key": "AAAAAAAAAAAAAAAAAAAAAAAA"}, "Key"),
        ({"Sec_WebSocket_Key": "c2hvcnQ="}, "Key"),
        ({"Sec_WebSocket_Protocol": "chat, chat"}, "Protocol"),
        ({"Sec_WebSocket_Protocol": "a b"}, "Protocol"),
        ({"Sec_WebSocket_Extensions": "a; ="}, "Extensions"),
    ],
)
def test_400(changes: dict[str, str], why: str) -> None:
    refusal = refused(**changes)
    assert refusal.status == 400
    assert why in refusal.why


@pytest.mark.parametrize("name", ["Sec-WebSocket-Key", "Sec-WebSocket-Version", "Host"])
def test_400_for_what_stands_there_twice(name: str) -> None:
    with pytest.raises(Refusal, match="2 times") as caught:
        check("GET", "1.1", [*headers(), (name, BASE[name])])
    assert caught.value.status == 400


@pytest.mark.parametrize("version", ["12", "8", "013", "13, 8", "x"])
def test_426_for_another_version_names_ours(version: str) -> None:
    refusal = refused(Sec_WebSocket_Version=version)
    first, answered, body = parse(refusal.answer())
    assert first == "HTTP/1.1 426 Upgrade Required"
    assert ("Sec-WebSocket-Version", "13") in answered
    assert ("Upgrade", "websocket") in answered
    assert ("Connection", "Upgrade, close") in answered
    assert ("Content-Length", str(len(body))) in answered
    assert b"version 13" in body


@pytest.mark.parametrize("changes", [{"Upgrade": None}, {"Upgrade": "h2c"}, {"Upgrade": "websocket/13"}])
def test_426_for_a_plain_request_says_what_is_wanted(changes: dict[str, str | None]) -> None:
    refusal = refused(**changes)
    assert refusal.status == 426
    assert b"speaks WebSocket" in refusal.answer()


def test_a_400_can_be_read() -> None:
    first, answered, body = parse(refused(Sec_WebSocket_Key=None).answer())
    assert first == "HTTP/1.1 400 Bad Request"
    assert ("Connection", "close") in answered
    assert body == b"Sec-WebSocket-Key is not 16 bytes in base64.\n"


def test_the_list_of_origins() -> None:
    allowed = ["https://example.com", "https://Other.example"]
    for origin in ("https://example.com", "HTTPS://EXAMPLE.COM", "https://other.example", None):
        assert check("GET", "1.1", headers(Origin=origin), origins=allowed)
    for origin in ("https://evil.example", "http://example.com", "https://example.com.evil.example", "null"):
        with pytest.raises(Refusal) as caught:
            check("GET", "1.1", headers(Origin=origin), origins=allowed)
        assert caught.value.status == 403
        assert caught.value.answer().startswith(b"HTTP/1.1 403 Forbidden\r\n")


# --------------------------------------------------------------------------------------------- sub-protocols, headers


def upgrade_offering(offered: str, ours: list[str]) -> Upgrade:
    return check("GET", "1.1", headers(Sec_WebSocket_Protocol=offered), subprotocols=ours)


def test_the_server_s_dearest_sub_protocol_that_is_offered() -> None:
    assert upgrade_offering("a, b, c", ["c", "a"]).subprotocol == "c"
    assert upgrade_offering("a, b", ["c"]).subprotocol is None
    assert b"Sec-WebSocket-Protocol: c\r\n" in upgrade_offering("a, c", ["c"]).accept()
    assert b"Sec-WebSocket-Protocol" not in upgrade_offering("a, c", []).accept()


def test_a_handler_may_choose_another_one_or_none() -> None:
    upgrade = upgrade_offering("a, b", ["a"])
    assert b"Sec-WebSocket-Protocol: b\r\n" in upgrade.accept("b")
    assert b"Sec-WebSocket-Protocol" not in upgrade.accept("")
    with pytest.raises(ValueError, match="'z' was not offered"):
        upgrade.accept("z")


def test_headers_may_be_added_but_not_broken() -> None:
    upgrade = check("GET", "1.1", headers())
    assert upgrade.accept(headers=[("Set-Cookie", "a=1"), ("Set-Cookie", "b=2")]).endswith(
        b"\r\nSet-Cookie: a=1\r\nSet-Cookie: b=2\r\n\r\n"
    )
    for name, value in [
        ("X", "a\r\nY: b"),
        ("X", "a\n"),
        ("X", "\0"),
        ("X:", "a"),
        ("", "a"),
        ("X Y", "a"),
        ("X", "€"),
    ]:
        with pytest.raises(ValueError, match=r"cannot be sent|latin-1"):
            upgrade.accept(headers=[(name, value)])
    for name in ("Upgrade", "connection", "SEC-WEBSOCKET-ACCEPT", "Sec-WebSocket-Extensions", "Content-Length"):
        with pytest.raises(ValueError, match="belongs to the handshake"):
            upgrade.accept(headers=[(name, "x")])


def test_a_websocket_listener_reads_the_request_as_http_and_then_no_more() -> None:
    lines = "".join(f"{name}: {value}\r\n" for name, value in BASE.items())
    upgrading = Upgrading(upgrades=False)
    (request,) = upgrading.feed(f"GET / HTTP/1.1\r\n{lines}\r\n".encode() + b"\x81\x80mask")
    assert request.upgrade
    assert upgrading.detach() == b"\x81\x80mask"


def test_deflate_is_off_by_default() -> None:
    asks = headers(Sec_WebSocket_Extensions="permessage-deflate; client_max_window_bits")
    assert b"Extensions" not in check("GET", "1.1", asks).accept()
    upgrade = check("GET", "1.1", asks, deflate=Deflate())
    assert upgrade.deflate is not None
    assert (
        b"Sec-WebSocket-Extensions: permessage-deflate; server_max_window_bits=12; client_max_window_bits=12\r\n"
        in upgrade.accept()
    )


# ------------------------------------------------------------------------------------------------ the client


def answer_to(client: ClientHandshake, **changes: str | None) -> list[tuple[str, str]]:
    """A good answer, changed."""
    _, asked, _ = parse(client.request)
    accepted = accept_of(dict(asked)["Sec-WebSocket-Key"])
    good = {"Upgrade": "websocket", "Connection": "Upgrade", "Sec-WebSocket-Accept": accepted}
    changed = good | {name.replace("_", "-"): value for name, value in changes.items()}
    return [(name, value) for name, value in changed.items() if value is not None]


def test_the_request() -> None:
    client = ClientHandshake(
        "example.com:8080", "/chat?room=1", origin="https://example.com", subprotocols=["a", "b"], deflate=Deflate(),
        headers=[("Authorization", "Bearer x")],
    )  # fmt: skip
    first, asked, rest = parse(client.request)
    assert (first, rest) == ("GET /chat?room=1 HTTP/1.1", b"")
    assert dict(asked) | {"Sec-WebSocket-Key": ""} == {
        "Host": "example.com:8080",
        "Upgrade": "websocket",
        "Connection": "Upgrade",
        "Sec-WebSocket-Key": "",
        "Sec-WebSocket-Version": "13",
        "Origin": "https://example.com",
        "Sec-WebSocket-Protocol": "a, b",
        "Sec-WebSocket-Extensions":
            "permessage-deflate; server_max_window_bits=12; client_max_window_bits=12",
        "Authorization": "Bearer x",
    }  # fmt: skip
    assert ClientHandshake("h").request != ClientHandshake("h").request


@pytest.mark.parametrize(
    ("host", "path"), [("", "/"), ("a b", "/"), ("a\r\nX: y", "/"), ("a", "x"), ("a", "/ü"), ("a", "/ ")]
)
def test_what_is_no_address(host: str, path: str) -> None:
    with pytest.raises(ValueError, match="no host and path"):
        ClientHandshake(host, path)


def test_a_good_answer() -> None:
    client = ClientHandshake("h", subprotocols=["a"], deflate=Deflate())
    agreed = client.verify(101, answer_to(client))
    assert (agreed.subprotocol, agreed.deflate) == (None, None)
    agreed = client.verify(101, answer_to(client, Sec_WebSocket_Protocol="a", connection="keep-alive, Upgrade"))
    assert agreed.subprotocol == "a"


@pytest.mark.parametrize(
    ("status", "changes", "why"),
    [
        (200, {}, "answered 200"),
        (401, {}, "answered 401"),
        (101, {"Upgrade": None}, "did not upgrade"),
        (101, {"Upgrade": "h2c"}, "did not upgrade"),
        (101, {"Connection": "close"}, "did not upgrade"),
        (101, {"Sec_WebSocket_Accept": None}, "does not fit"),
        (101, {"Sec_WebSocket_Accept": ACCEPT}, "does not fit"),
        (101, {"Sec_WebSocket_Protocol": "b"}, "not offered"),
        (101, {"Sec_WebSocket_Extensions": "permessage-deflate"}, "not offered"),
        (101, {"Sec_WebSocket_Extensions": "="}, "malformed"),
    ],
)
def test_a_bad_answer(status: int, changes: dict[str, str], why: str) -> None:
    client = ClientHandshake("h", subprotocols=["a"])
    with pytest.raises(ProtocolError, match=why):
        client.verify(status, answer_to(client, **changes))


def test_an_answer_that_says_it_twice() -> None:
    client = ClientHandshake("h", subprotocols=["a"])
    twice = [*answer_to(client), ("sec-websocket-protocol", "a"), ("sec-websocket-protocol", "a")]
    with pytest.raises(ProtocolError, match="2 times"):
        client.verify(101, twice)


# --------------------------------------------------------------------------------------------- another implementation


def test_our_server_and_their_client() -> None:
    client = ClientProtocol(parse_uri("ws://example.com/x"), subprotocols=["a"])  # type: ignore[list-item]
    asked = [(name, str(value)) for name, value in client.connect().headers.raw_items()]
    accepted = check("GET", "1.1", asked, subprotocols=["a"]).accept(headers=[("X-Hello", "1")])
    client.send_request(client.connect())
    client.receive_data(accepted)
    (response,) = client.events_received()
    assert isinstance(response, Response)


def test_our_client_and_their_server() -> None:
    client = ClientHandshake("example.com", "/x", subprotocols=["a"])
    server = ServerProtocol(subprotocols=["a"])  # type: ignore[list-item]
    server.receive_data(client.request)
    (request,) = server.events_received()
    assert isinstance(request, Request)
    assert isinstance(request.headers, OtherHeaders)
    response = server.accept(request)
    assert response.status_code == 101
    agreed = client.verify(101, list(response.headers.raw_items()))
    assert agreed.subprotocol == "a"


@given(
    st.lists(
        st.tuples(st.sampled_from([*BASE, "Origin", "Sec-WebSocket-Extensions"]), st.text(max_size=30)), max_size=9
    )
)
def test_whatever_comes_is_taken_or_refused(strange: list[tuple[str, str]]) -> None:
    try:
        answer = check("GET", "1.1", [*headers(), *strange], deflate=Deflate(), origins=["https://a"]).accept()
    except Refusal as refusal:
        answer = refusal.answer()
    assert answer.startswith((b"HTTP/1.1 101 ", b"HTTP/1.1 4"))
