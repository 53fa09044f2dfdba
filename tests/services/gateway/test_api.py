"""api: every method of Workerman's Gateway is there. What they do: test_client.py."""

from __future__ import annotations

import inspect

from workermand.services.gateway import Gateway, GatewayClient
from workermand.services.gateway.api import Api

WORKERMANS = [
    "sendToAll",
    "sendToClient",
    "isOnline",
    "bindUid",
    "unbindUid",
    "isUidOnline",
    "isUidsOnline",
    "getClientIdByUid",
    "batchGetClientIdByUid",
    "getUidByClientId",
    "sendToUid",
    "joinGroup",
    "leaveGroup",
    "ungroup",
    "sendToGroup",
    "getClientIdCountByGroup",
    "getClientCountByGroup",
    "batchGetClientIdCountByGroup",
    "getClientIdListByGroup",
    "getClientSessionsByGroup",
    "getAllClientIdCount",
    "getAllClientCount",
    "getAllClientIdList",
    "getAllClientSessions",
    "getUidListByGroup",
    "getUidCountByGroup",
    "getAllUidList",
    "getAllUidCount",
    "getAllGroupIdList",
    "getAllGroupUidList",
    "getAllGroupUidCount",
    "getAllGroupClientIdList",
    "getAllGroupClientIdCount",
    "setSession",
    "updateSession",
    "getSession",
    "closeClient",
    "destroyClient",
]
CURRENT = ["sendToCurrentClient", "closeCurrentClient", "destroyCurrentClient"]


def snake(name: str) -> str:
    return "".join(f"_{letter.lower()}" if letter.isupper() else letter for letter in name)


def test_all_names_are_there() -> None:
    for name in WORKERMANS:
        assert callable(getattr(GatewayClient, snake(name)))
        assert callable(getattr(Gateway, snake(name)))
    for name in CURRENT:
        assert callable(getattr(Gateway, snake(name)))
        assert not hasattr(GatewayClient, snake(name))


def test_nothing_is_a_coroutine_function() -> None:
    """Sends, binds and joins may be called from sync callbacks."""
    methods = [method for name, method in vars(Api).items() if not name.startswith("_")]
    assert len(methods) >= len(WORKERMANS)
    assert not any(map(inspect.iscoroutinefunction, methods))
