"""What an ASGI application is told of a request: its scope, as asgi.readthedocs.io (3.0) has it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any
from urllib.parse import unquote_to_bytes

from workermand import Connection, ConnectionLost, Request

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Application = Callable[[Scope, Receive, Send], Awaitable[None]]

ASGI = {"version": "3.0", "spec_version": "2.4"}
LIFESPAN = {"version": "3.0", "spec_version": "2.0"}


_DISCONNECTED = {"ClientDisconnect", "WebSocketDisconnect", "RequestAborted"}
"""What frameworks raise when they have been told that the client has gone."""


def says_client_has_gone(error: BaseException) -> bool:
    """An application that ends with it has done nothing wrong."""
    return isinstance(error, ConnectionLost) or type(error).__name__ in _DISCONNECTED


def http_scope(request: Request, root_path: str, state: dict[str, Any]) -> Scope:
    return {
        "type": "http",
        "method": request.method,
        "scheme": "https" if request.is_secure else "http",
        "extensions": {"http.response.pathsend": {}},
        **_common(request, root_path, state),
    }


def websocket_scope(request: Request, root_path: str, state: dict[str, Any]) -> Scope:
    offered = str(request.header("sec-websocket-protocol", ""))
    return {
        "type": "websocket",
        "scheme": "wss" if request.is_secure else "ws",
        "subprotocols": [word.strip() for word in offered.split(",") if word.strip()],
        "extensions": {"websocket.http.response": {}},
        **_common(request, root_path, state),
    }


def _common(request: Request, root_path: str, state: dict[str, Any]) -> Scope:
    connection: Connection = request.connection
    ends: Ends | None = getattr(connection, "asgi_ends", None)
    if ends is None:
        ends = connection.asgi_ends = Ends(connection)
    path = request.path.encode("latin-1")
    fields = request.fields
    return {
        "asgi": ASGI.copy(),
        "http_version": request.version,
        "path": root_path + unquote_to_bytes(path).decode("utf-8", "replace"),
        "raw_path": root_path.encode() + path,
        "query_string": request.query_string.encode("latin-1"),
        "root_path": root_path,
        "headers": [
            (name.lower(), value.rstrip(b" \t")) for name, value in zip(fields[::2], fields[1::2], strict=True)
        ],
        "client": _client(ends, request),
        "server": ends.server,
        "state": state.copy(),
    }


class Ends:
    """The two ends of a connection, which are the same for all of its requests."""

    def __init__(self, connection: Connection) -> None:
        self.ip, self.port = connection.get_remote_ip(), connection.get_remote_port()
        """"" and 0 of a unix socket."""
        ip = connection.get_local_ip()
        self.server = (ip, connection.get_local_port()) if ip else (connection.get_local_address(), None)
        """Of a unix socket its path."""


def _client(ends: Ends, request: Request) -> tuple[str, int] | None:
    """Who it is behind trusted proxies; their port is not his."""
    ip = request.remote_ip if request.trusted else ends.ip
    return (ip, ends.port if ip == ends.ip else 0) if ip else None
