"""busblocking: its thread, and what forks. More of it: test_blocking.py."""

from __future__ import annotations

import os

import pytest

from tests.services.gateway.conftest import Transport, cluster
from tests.services.servers import Server, nats_server
from workermand.services.gateway import BlockingGatewayClient
from workermand.services.links.errors import Unauthorized, Unreachable

pytestmark = pytest.mark.real


def test_it_may_be_closed_and_called_again_and_forked(nats: Server) -> None:
    bus = Transport(nats).bus
    with cluster(bus=bus):
        gateway = BlockingGatewayClient(bus=bus)
        gateway.close()  # what was never opened
        for _ in range(2):
            assert gateway.get_all_client_id_count() == 0
            pid = os.fork()
            if not pid:
                os._exit(7 if gateway.get_all_client_id_count() == 0 else 1)
            assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 7
            gateway.close()


def test_nobody_there() -> None:
    gateway = BlockingGatewayClient(bus="nats://127.0.0.1:1", timeout=0.3)
    for _ in range(2):
        with pytest.raises(Unreachable, match=r"no nats at 127\.0\.0\.1:1 within 0\.3 s"):
            gateway.get_all_client_id_count()
    gateway.close()
    with nats_server("--user", "us", "--pass", "swordfish") as server:
        gateway = BlockingGatewayClient(bus=server.url)
        with pytest.raises(Unauthorized):
            gateway.get_all_client_id_count()
        gateway.close()
