"""A bare ASGI application, one path for each thing to be seen, and the daemon that serves it."""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Iterator
from typing import Any

from workermand.testing import RunningServer, running_server

HANDLER = "workermand.services.asgi"

APPLICATION = '''
"""Paths of http, then those of websocket."""
import asyncio, contextlib, json

seen = []


async def application(scope, receive, send):
    if scope["type"] == "lifespan":
        await lifespan(scope, receive, send)
    else:
        name = scope["path"].removeprefix(scope["root_path"]).strip("/").split("/")[0] or "index"
        await globals()[f"{scope['type']}_{name}"](scope, receive, send)


async def lifespan(scope, receive, send):
    await receive()
    scope["state"]["started"] = ["yes"]
    await send({"type": "lifespan.startup.complete"})
    await receive()
    print("the application has ended", flush=True)
    await send({"type": "lifespan.shutdown.complete"})


async def answer(send, body=b"", status=200, headers=((b"content-type", b"text/plain"),)):
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def plain(value):
    if isinstance(value, bytes):
        return "bytes:" + value.decode("latin-1")
    if isinstance(value, dict):
        return {key: plain(entry) for key, entry in value.items()}
    return [plain(entry) for entry in value] if isinstance(value, (list, tuple)) else value


async def http_index(scope, receive, send):
    await answer(send, b"hello")


async def http_scope(scope, receive, send):
    await answer(send, json.dumps(plain(dict(scope))).encode())


async def http_body(scope, receive, send):
    sizes, more = [], True
    while more:
        message = await receive()
        more = message["more_body"]
        sizes.append(len(message["body"]))
    await answer(send, json.dumps([sum(sizes), len(sizes)]).encode())


async def http_pieces(scope, receive, send):
    """As many pieces of 1000 bytes as the query says, of a length that is known or not."""
    count = int(scope["query_string"] or 3)
    headers = [(b"content-length", b"%d" % (count * 1000))] if "known" in scope["path"] else []
    await send({"type": "http.response.start", "status": 200, "headers": headers, "trailers": True})
    for n in range(count):
        await send({"type": "http.response.body", "body": b"x" * 1000, "more_body": True})
    await send({"type": "http.response.body"})
    await send({"type": "http.response.trailers", "headers": []})


async def http_status(scope, receive, send):
    """/status/304: in two pieces, as an application may."""
    status = int(scope["path"].rpartition("/")[2])
    await send({"type": "http.response.start", "status": status, "headers": [(b"x-a", b"1"), (b"x-a", b"2")]})
    await send({"type": "http.response.body", "body": b"never seen", "more_body": True})
    await send({"type": "http.response.body", "body": b"", "more_body": False})


async def http_fails(scope, receive, send):
    raise KeyError("fails at once")


async def http_fails_late(scope, receive, send):
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"begun", "more_body": True})
    raise KeyError("fails late")


async def http_fails_answered(scope, receive, send):
    await answer(send, b"answered")
    raise KeyError("fails answered")


async def http_says_nothing(scope, receive, send):
    pass


async def http_out_of_turn(scope, receive, send):
    with contextlib.suppress(RuntimeError):
        await send({"type": "http.response.body", "body": b"before the start"})
    await send({"type": "http.response.start", "status": 200, "headers": [(b"transfer-encoding", b"chunked")]})
    for kind in ("http.response.start", "websocket.send"):
        with contextlib.suppress(RuntimeError):
            await send({"type": kind, "status": 201})
    await send({"type": "http.response.body", "body": b"in turn"})
    try:
        await send({"type": "http.response.body", "body": b"too late"})
    except RuntimeError as error:
        print("refused:", error, flush=True)
    print("then", (await receive())["type"], (await receive())["type"], flush=True)


async def http_waits(scope, receive, send):
    """Until the client goes."""
    assert (await receive()) == {"type": "http.request", "body": b"", "more_body": False}
    print("waits", flush=True)
    print("waited:", await receive(), await receive(), flush=True)
    raise ClientDisconnect


async def http_waits_and_fails(scope, receive, send):
    await receive()
    print("failing later", flush=True)
    await receive()
    raise KeyError("fails when the client has gone")


class ClientDisconnect(Exception):
    """As frameworks have it."""


async def http_reads(scope, receive, send):
    """A body of which the client sends half."""
    print("reading", flush=True)
    message = await receive()
    while message["type"] == "http.request":
        message = await receive()
    print("read:", message["type"], flush=True)
    raise ClientDisconnect


async def http_forgives(scope, receive, send):
    """What receive() raises is caught, as frameworks do."""
    try:
        while (await receive())["more_body"]:
            pass
    except Exception as error:
        await answer(send, repr(error).encode(), 500)


async def http_floods(scope, receive, send):
    """Goes on until it is stopped."""
    await send({"type": "http.response.start", "status": 200, "headers": []})
    sent = 0
    try:
        while True:
            await send({"type": "http.response.body", "body": bytes(65536), "more_body": True})
            sent += 65536
            seen.append(sent)
    except OSError:
        print("flooded", flush=True)
        raise


async def http_flooded(scope, receive, send):
    await answer(send, b"%d" % seen[-1])


async def http_sleeps(scope, receive, send):
    print("sleeping", flush=True)
    await asyncio.sleep(0.5)
    await answer(send, b"slept")


async def http_never_ends(scope, receive, send):
    await receive()
    print("endless", flush=True)
    await asyncio.Event().wait()


async def http_file(scope, receive, send):
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/x-python")]})
    await send({"type": "http.response.pathsend", "path": __file__})


# ---------------------------------------------------------------------------------------------------- websocket


async def websocket_echo(scope, receive, send):
    assert await receive() == {"type": "websocket.connect"}
    chosen = scope["subprotocols"][-1] if scope["subprotocols"] else None
    await send({"type": "websocket.accept", "subprotocol": chosen, "headers": [(b"x-greeting", b"hello")]})
    await send({"type": "websocket.send", "text": "welcome"})
    while (message := await receive())["type"] == "websocket.receive":
        await send({"type": "websocket.send", **{key: message[key] for key in ("text", "bytes") if key in message}})
    print("disconnected:", message["code"], message["reason"], flush=True)
    print("still:", (await receive())["type"], flush=True)
    await send({"type": "websocket.close"})
    try:
        await send({"type": "websocket.send", "text": "too late"})
    except OSError as error:
        print("send has raised", type(error).__name__, flush=True)
        raise


async def websocket_scope(scope, receive, send):
    await send({"type": "websocket.accept"})
    await send({"type": "websocket.send", "text": json.dumps(plain(dict(scope)))})


async def websocket_closes(scope, receive, send):
    await receive()
    await send({"type": "websocket.accept"})
    await receive()
    await send({"type": "websocket.close", "code": 4321, "reason": "enough"})
    print("closed:", (await receive())["code"], flush=True)


async def websocket_refuses(scope, receive, send):
    await receive()
    await send({"type": "websocket.close", "code": 1000})


async def websocket_denies(scope, receive, send):
    await send({"type": "websocket.http.response.start", "status": 401, "headers": [(b"x-why", b"no ticket")]})
    await send({"type": "websocket.http.response.body", "body": b"no ", "more_body": True})
    await send({"type": "websocket.http.response.body", "body": b"ticket"})


async def websocket_fails(scope, receive, send):
    raise KeyError("fails at once")


async def websocket_fails_late(scope, receive, send):
    await send({"type": "websocket.accept"})
    raise KeyError("fails late")


async def websocket_fails_when_gone(scope, receive, send):
    await receive()
    await send({"type": "websocket.accept"})
    await receive()
    raise KeyError("fails when gone")


async def websocket_says_nothing(scope, receive, send):
    pass


async def websocket_out_of_turn(scope, receive, send):
    for kind in ("websocket.send", "websocket.http.response.body"):
        with contextlib.suppress(RuntimeError):
            await send({"type": kind, "text": ""})
    await send({"type": "websocket.accept", "subprotocol": "never offered"})
    print("accept has returned", flush=True)
    await receive()
    print("then", (await receive())["code"], flush=True)


async def websocket_hesitates(scope, receive, send):
    await receive()
    print("hesitating", flush=True)
    message = await receive()
    print("hesitated:", message["type"], message["code"], flush=True)
    await send({"type": "websocket.accept"})


async def websocket_lazy(scope, receive, send):
    """Does not take what it gets until it is told so over http."""
    global may_take
    may_take = asyncio.Event()
    await send({"type": "websocket.accept"})
    await receive()
    await may_take.wait()
    total = 0
    while (message := await receive())["type"] == "websocket.receive":
        total += len(message["bytes"])
        if len(message["bytes"]) == 1:
            await send({"type": "websocket.send", "text": str(total)})


async def http_take(scope, receive, send):
    may_take.set()
    await answer(send, b"taking")
'''


@contextlib.contextmanager
def serving(
    app: str = "probe:application", files: dict[str, str] | None = None, **settings: Any
) -> Iterator[RunningServer]:
    """``settings``: of the worker; ``options`` besides ``app``."""
    options = {"app": app, **settings.pop("options", {})}
    listen = settings.pop("listen", "http://127.0.0.1:0")
    sources = files if files is not None else {"probe.py": APPLICATION}
    with running_server(HANDLER, listen=listen, files=sources, options=options, **settings) as server:
        yield server


def curl(server: RunningServer, path: str, *arguments: str) -> tuple[int, dict[str, str], str]:
    """Status, headers by lower-case name, body."""
    command = ["curl", "--silent", "--show-error", "--include", "--max-time", "60", "--header", "Expect:", *arguments]
    heard = subprocess.run(
        [*command, f"http://127.0.0.1:{server.port}{path}"], capture_output=True, text=True, check=True
    ).stdout
    head, _, body = heard.replace("\r\n", "\n").partition("\n\n")
    first, *lines = head.split("\n")
    return (
        int(first.split(" ")[1]),
        {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)},
        body,
    )
