"""Events for clusters under test: clients come in, talk, and take a census. A module for business workers."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any

from workermand.services.gateway import Gateway

SENDS: dict[str, Callable[[str, str], Any]] = {
    "client": Gateway.send_to_client,
    "uid": Gateway.send_to_uid,
    "group": Gateway.send_to_group,
    "all": lambda _to, message: Gateway.send_to_all(message),
}


def on_connect(client_id: str) -> None:
    Gateway.send_to_client(client_id, f"id {client_id}")


async def on_message(client_id: str, message: str) -> None:
    verb, _, rest = message.partition(" ")
    if verb == "number":
        Gateway.send_to_client(client_id, message)
    elif verb == "enter":
        uid, *groups = rest.split()
        bound = Gateway.bind_uid(client_id, uid)
        await asyncio.gather(bound, *(Gateway.join_group(client_id, group) for group in groups))
        Gateway.send_to_client(client_id, "entered")
    elif verb == "do":
        method, argument = rest.split()
        await getattr(Gateway, method)(client_id, argument)
        Gateway.send_to_client(client_id, "done")
    elif verb == "tell":
        kind, to, words = rest.split(maxsplit=2)
        SENDS[kind](to, f"heard {kind} {to} {words}")
    elif verb == "census":
        try:
            found = json.dumps(await census(), sort_keys=True)
        except Exception as error:
            found = json.dumps(f"{type(error).__name__}: {error}")
        Gateway.send_to_client(client_id, f"census {rest} {found}")


async def census() -> dict[str, Any]:
    """Who is there, by everything that can be asked."""
    clients = await Gateway.get_all_client_id_list()
    uids = await Gateway.batch_get_client_id_by_uid(await Gateway.get_all_uid_list())
    groups = await Gateway.get_all_group_client_id_list()
    return {
        "count": await Gateway.get_all_client_id_count(),
        "counts": await Gateway.get_all_group_client_id_count(),
        "clients": sorted(clients),
        "uids": {uid: sorted(ids) for uid, ids in uids.items()},
        "groups": {group: sorted(ids) for group, ids in groups.items()},
    }
