"""transport: a bus, or Registers, and what contradicts it."""

from __future__ import annotations

import re
from typing import Any

import pytest

from tests.services.gateway.conftest import cluster
from workermand import ConfigError
from workermand.services.gateway import BlockingGatewayClient, GatewayClient
from workermand.testing import ServerFailed

BUS = "nats://127.0.0.1:1"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"register": "register://a"}, "options.register: there is options.bus, too: on a bus there are no Registers"),
        ({"secret": "x"}, "options.secret: there is options.bus, too: on a bus it is nats that lets in"),
        ({"tls": True}, "options.tls: there is options.bus, too: on a bus it is tls://host"),
        (
            {"php": {"start_port": 1}},
            "options.php: there is options.bus, too: PHP programs find gateways by a Register",
        ),
        ({"bus": "redis://x"}, 'options.bus: bus: "redis://...": expected nats:// or tls:// and a host'),
        ({"bus": "nats://x/a b"}, 'options.bus: bus: "/a b" is no name of a cluster'),
        ({"bus": 7}, "options.bus: expected str"),
    ],
)
def test_options_of_gateways_that_cannot_be(options: dict[str, Any], words: str) -> None:
    with pytest.raises(ServerFailed, match=re.escape(words)), cluster(bus=BUS, gateway=options):
        pass


def test_options_of_business_workers_that_cannot_be() -> None:
    words = "worker business: options.secret: there is options.bus, too"
    with pytest.raises(ServerFailed, match=words), cluster(worker={"bus": BUS, "secret": "x"}):
        pass


@pytest.mark.parametrize("kind", [GatewayClient, BlockingGatewayClient])
@pytest.mark.parametrize("given", [{"register": "register://a"}, {"secret": "x"}, {"tls": object()}])
def test_clients_are_told_one_or_the_other(kind: Any, given: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=f"there is {next(iter(given))}, too: on a bus"):
        kind(bus=BUS, **given)
