"""BlockingGatewayClient: the same calls without a loop."""

from __future__ import annotations

import contextlib
import inspect
import os
import signal
import threading

import pytest

from tests.conftest import wait_until
from tests.services.gateway.conftest import Transport, cluster, register_of
from tests.services.gateway.test_client import people
from workermand.services.gateway import BlockingGatewayClient, Delivery
from workermand.services.gateway.api import Api
from workermand.services.links.errors import ServiceError, Unauthorized, Unreachable


def test_it_has_what_the_other_has() -> None:
    for name, method in vars(Api).items():
        if not name.startswith("_") and name != "run":
            ours = inspect.signature(getattr(BlockingGatewayClient, name))
            assert ours.parameters == inspect.signature(method).parameters


def test_calls_on_two_gateways(transport: Transport) -> None:
    with transport.cluster(gateways=2, secret="swordfish") as server, contextlib.ExitStack() as stack:
        clients = people(server, stack, 2, 4)
        a, b, c = list(clients)[:3]
        everybody = sorted(clients)
        gateway = stack.enter_context(BlockingGatewayClient(**transport.to(server, "swordfish")))
        assert gateway.get_all_client_id_count() == len(clients)
        assert sorted(gateway.get_all_client_id_list()) == everybody
        assert gateway.bind_uid(a, 7) is True
        assert gateway.bind_uid(b, 7) is True
        assert gateway.get_uid_by_client_id(a) == "7"
        assert sorted(gateway.get_client_id_by_uid(7)) == sorted([a, b])
        assert gateway.is_uids_online([7, 8]) == {"7": True, "8": False}
        assert all(gateway.join_group(id, "g") for id in everybody)
        assert gateway.get_client_id_count_by_group("g") == len(clients)
        assert gateway.set_session(a, {"x": 1}) is True
        assert gateway.update_session(a, {"y": 2}) is True
        assert gateway.get_session(a) == {"x": 1, "y": 2}
        assert gateway.get_session("0" * 20) is None
        assert gateway.send_to_uid(7, "to 7") == Delivery(2, 0, 0)
        assert gateway.send_to_group("g", "to g", [c]) == Delivery(len(clients) - 1, 0, 0)
        assert gateway.send_to_client(c, {"to": "c"}) == Delivery(1, 0, 0)
        assert not gateway.send_to_client("0" * 20, "x")
        assert [clients[a].hear() for _ in range(2)] == ["to 7", "to g"]
        assert clients[c].hear() == '{"to":"c"}'
        assert gateway.close_client(c, "bye") is True
        assert clients[c].hear() == "bye"
        with pytest.raises(TypeError, match="a uid is str or int"):
            gateway.bind_uid(a, None)  # type: ignore[arg-type]


def test_any_thread_may_call(transport: Transport) -> None:
    with transport.cluster() as server, contextlib.ExitStack() as stack:
        clients = people(server, stack, 1, 2)
        gateway = stack.enter_context(BlockingGatewayClient(**transport.to(server)))
        counts: list[int] = []
        threads = [threading.Thread(target=lambda: counts.append(gateway.get_all_client_id_count())) for _ in range(10)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert counts == [len(clients)] * 10


def test_a_gateway_that_is_killed_comes_back(transport: Transport) -> None:
    with transport.cluster() as server, contextlib.ExitStack() as stack:
        people(server, stack, 1, 1)
        gateway = stack.enter_context(BlockingGatewayClient(**transport.to(server)))
        assert gateway.get_all_client_id_count() == 1
        (pid,) = [one["pid"] for one in server.status()["processes"] if one["worker"] == "gateway"]
        os.kill(pid, signal.SIGKILL)
        wait_until("it sees the new one", lambda: gateway.send_to_all("x") == Delivery(0, 0, 0))
        people(server, stack, 1, 1)
        wait_until("with its client", lambda: gateway.send_to_all("x") == Delivery(1, 0, 0))


def test_a_register_that_is_lost_is_not_missed() -> None:
    with cluster() as server, contextlib.ExitStack() as stack:
        people(server, stack, 1, 1)
        lost = "register://127.0.0.1:1"
        gateway = stack.enter_context(BlockingGatewayClient([lost, register_of(server)]))
        assert gateway.get_all_client_id_count() == 1
        with pytest.raises(Unreachable, match="refused"):
            BlockingGatewayClient(lost).get_all_client_id_count()


def test_secrets() -> None:
    with cluster(secret="swordfish") as server:
        with pytest.raises(Unauthorized, match="wrong secret"):
            BlockingGatewayClient(register_of(server), "wrong").get_all_client_id_count()
        with pytest.raises(ServiceError, match="asks for a secret"):
            BlockingGatewayClient(register_of(server)).get_all_client_id_count()
