"""The events of the tests: a client says what shall be called, and gets the result. A module for business workers."""

from __future__ import annotations

import ast
import asyncio
import os
from typing import Any

from workermand import Request
from workermand.services.gateway import Gateway


async def on_connect(client_id: str) -> None:
    Gateway.session["connects"] = Gateway.session.get("connects", 0) + 1
    Gateway.send_to_client(client_id, f"id {client_id}")


async def on_websocket_connect(client_id: str, request: Request) -> None:
    line = f"path {request.path} room {request.get('room_id')} cookie {request.cookie('a')} from {request.remote_ip}"
    Gateway.send_to_current_client(line)


async def on_message(client_id: str, message: str) -> None:
    verb, _, rest = message.partition(" ")
    if verb == "call":
        name, _, rest = rest.partition(" ")
        arguments: list[Any] = list(ast.literal_eval(f"({rest},)")) if rest else []
        try:
            result = await getattr(Gateway, name)(*arguments)
        except Exception as error:
            result = error
        Gateway.send_to_current_client(repr(result))
    elif verb == "pid":
        Gateway.send_to_current_client(str(os.getpid()))
    elif verb == "count":
        # What the one before has left must be there, however long it takes to be saved.
        number = Gateway.session.get("count", 0)
        if rest:
            print("counting")
            await asyncio.sleep(float(rest))
        Gateway.session["count"] = number + 1
        Gateway.send_to_current_client(f"{number + 1} {os.getpid()}")
    elif verb == "session":
        Gateway.send_to_current_client(repr(Gateway.session))
    elif verb == "origin":
        Gateway.send_to_current_client(repr(tuple(Gateway.origin)))
    elif verb == "raise":
        Gateway.session["lost"] = True
        raise ValueError(rest)
    else:
        Gateway.send_to_current_client(message.upper())


def on_close(client_id: str) -> None:
    Gateway.send_to_group("watchers", f"gone {client_id} {Gateway.session.get('name')}")
