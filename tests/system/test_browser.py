"""A page in headless Chromium and a real daemon: fetch, forms, events and WebSockets, also over TLS."""

from __future__ import annotations

import json
import re
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from websockets.sync.client import connect

from tests.certs import Authority
from tests.conftest import wait_until
from tests.system.browser import open_page
from workermand.testing import running_server

ROOT = Path(__file__).parents[2]
pytestmark = [pytest.mark.real, pytest.mark.xdist_group("browser"), pytest.mark.timeout(240)]

HANDLER = """
import hashlib

from workermand import BINARY_TYPE_ARRAYBUFFER, Close, Response, ServerSentEvents


def on_websocket_connect(connection, request):
    if request.path == "/refused":
        connection.handshake.refuse(403, "Not you.")


def on_message(connection, data):
    if isinstance(data, str) and data == "close":
        connection.close(Close(4001, "as you say"))
    elif isinstance(data, (str, bytes)):
        connection.send(data)
    elif data.path == "/":
        connection.send(PAGE)
    elif data.path == "/form":
        upload = data.file("file")
        connection.send({"title": data.post("title"), "name": upload.name, "sum": sum(upload.read())})
    elif data.path == "/events":
        connection.send(Response(200, {"Content-Type": "text/event-stream"}))
        for number in range(1, 4):
            connection.send(ServerSentEvents({"event": "tick", "data": f"{number}\\nline", "id": str(number)}))
    elif data.path == "/cookie":
        connection.send(Response(body=data.cookie("seen", "never")).cookie("seen", "once"))
    else:
        connection.send(Response(404, body="no"))


PAGE = '''<!doctype html><title>Page</title><script>
const say = (what) => console.log(JSON.stringify(what))
const text = async (path, options) => await (await fetch(path, options)).text()

function talk(path, messages, protocols) {
    return new Promise((resolve) => {
        const socket = new WebSocket(location.origin.replace("http", "ws") + path, protocols), heard = []
        socket.binaryType = "arraybuffer"
        socket.onopen = () => messages.forEach((message) => socket.send(message))
        socket.onmessage = (event) =>
            heard.push(typeof event.data === "string" ? event.data : [...new Uint8Array(event.data)])
        socket.onclose = (event) => resolve({heard, code: event.code, reason: event.reason, clean: event.wasClean,
                                             protocol: socket.protocol, extensions: socket.extensions})
    })
}

function events() {
    return new Promise((resolve) => {
        const source = new EventSource("/events"), heard = []
        source.addEventListener("tick", (event) => {
            heard.push([event.lastEventId, event.data])
            if (heard.length === 3) { source.close(); resolve(heard) }
        })
    })
}

async function all() {
    const form = new FormData()
    form.append("title", "Gr\u00fc\u00dfe")
    form.append("file", new Blob([new Uint8Array(100000).fill(1)]), "ones.bin")
    say({form: await (await fetch("/form", {method: "POST", body: form})).json(),
         cookies: [await text("/cookie"), await text("/cookie")],
         missing: (await fetch("/missing")).status,
         many: (await Promise.all([...Array(50)].map(() => text("/missing")))).join("").length})
    say({events: await events()})
    say(await talk("/", ["gr\u00fc\u00dfe", new Uint8Array([0, 255]), "x".repeat(100000), "close"], ["a", "b"]))
    say(await talk("/refused", []))
}
all().catch((error) => say({error: String(error)}))
</script>'''
"""


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_what_a_page_can_do(scheme: str, tmp_path: Path) -> None:
    certificate, key = Authority(tmp_path).issue("localhost")
    tls = {"cert": str(certificate), "key": str(key)} if scheme == "https" else None
    settings: dict[str, Any] = {"websocket": {"subprotocols": ["b"], "deflate": True}, "tls": tls}
    files = {"page.py": HANDLER}
    with running_server("page", listen=f"{scheme}://127.0.0.1:0", files=files, **settings) as server:
        with open_page(f"{scheme}://localhost:{server.port}/", tmp_path / "profile", certificate) as browser:
            assert browser.hears() == {
                "form": {"title": "Grüße", "name": "ones.bin", "sum": 100_000},
                "cookies": ["never", "once"],
                "missing": 404,
                "many": 100,
            }
            assert browser.hears() == {"events": [[str(number), f"{number}\nline"] for number in (1, 2, 3)]}
            outcome = browser.hears()
            assert outcome.pop("heard") == ["grüße", [0, 255], "x" * 100_000]
            assert outcome.pop("extensions").startswith("permessage-deflate")
            assert outcome == {"code": 4001, "reason": "as you say", "clean": True, "protocol": "b"}
            assert browser.hears()["code"] == 1006, "that is all a page may know of a refusal"


@pytest.mark.parametrize("readme", ["README.md", "README.zh-CN.md"])
def test_the_chat_of_the_readme(readme: str, tmp_path: Path) -> None:
    text = (ROOT / readme).read_text()
    (chat,) = re.findall(r"^```python\n# chat.py\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    test = """socket.addEventListener("message", () => console.log(JSON.stringify(heard.textContent)))
        socket.onopen = () => { say.value = "hello"; say.dispatchEvent(new Event("change")) }\n</script>"""
    with running_server(
        "chat", listen="http://127.0.0.1:0", files={"chat.py": chat.replace("</script>", test)}
    ) as server:
        at = f"127.0.0.1:{server.port}/"
        with open_page(f"http://{at}", tmp_path / "profile") as browser:
            assert browser.hears() == "127.0.0.1 is here\n"
            assert browser.hears() == "127.0.0.1 is here\nhello\n"
            with connect(f"ws://{at}") as friend:
                assert friend.recv(60) == "127.0.0.1 is here"
                friend.send("hi")
                assert friend.recv(60) == "hi"
            assert browser.hears().endswith("127.0.0.1 is here\n")
            assert browser.hears().endswith("hi\n")


PUSHED = """<!doctype html><title>Page</title><script>
const socket = new WebSocket("ws://127.0.0.1:{port}/")
socket.onopen = () => {{ socket.send("anne"); console.log(JSON.stringify("open")) }}
socket.onmessage = (event) => console.log(event.data)
socket.onclose = (event) => console.log(JSON.stringify(event.code))
</script>"""


def test_a_program_pushes_to_a_page(tmp_path: Path, free_port: Callable[[], int]) -> None:
    """apps.push_by_uid: a browser that has said who it is, and a plain socket that knows a name."""
    page = tmp_path / "page.html"
    listen = f"text://127.0.0.1:{free_port()}"
    options = {"listen": listen}
    with running_server("apps.push_by_uid", listen="websocket://127.0.0.1:0", options=options) as server:
        page.write_text(PUSHED.format(port=server.port))
        inner = ("127.0.0.1", int(listen.rpartition(":")[2]))
        with open_page(page.as_uri(), tmp_path / "profile") as browser, socket.create_connection(inner, 60) as program:
            answers = program.makefile("r")

            def push(message: dict[str, str]) -> str:
                program.sendall(json.dumps(message).encode() + b"\n")
                return answers.readline()

            assert browser.hears() == "open"
            wait_until("the server knows her", lambda: push({"uid": "anne"}) == "ok\n")
            assert browser.hears() == {"uid": "anne"}
            assert push({"uid": "anne", "percent": "88%"}) == "ok\n"
            assert browser.hears() == {"uid": "anne", "percent": "88%"}
            assert push({"uid": "bert", "percent": "89%"}) == "fail\n"
            answers.close()
            server.stop()
            assert browser.hears() == 1001
