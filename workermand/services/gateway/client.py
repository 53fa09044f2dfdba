"""GatewayClient: the cluster for any asyncio program, and for any worker that is none of its own. Workerman's
GatewayClient.

    async with GatewayClient(register="register://127.0.0.1:1236", secret="...") as gateway:
        sent = await gateway.send_to_uid(7, "Your order has left.")

In a worker of the same daemon it needs neither. blocking.py is for programs without a loop.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

from workermand.services.gateway import transport
from workermand.services.gateway.api import Api
from workermand.services.gateway.inner import Mesh
from workermand.services.gateway.php import registry as phpregistry
from workermand.services.gateway.plans import Plan
from workermand.services.links.errors import Unreachable
from workermand.services.links.later import Later

T = TypeVar("T")


class GatewayClient(Api):
    """Process: any; thread: the one that runs the loop. It connects with connect() or ``async with``, and again by
    itself whenever it has to."""

    def __init__(
        self,
        register: str | Iterable[str] = "",
        secret: str = "",
        *,
        bus: str = "",
        timeout: float = 10.0,
        tls: Any = None,
        ping: float = 5.0,
        php: Mapping[str, Any] | None = None,
    ) -> None:
        """``register``: "register://host:port", several in one or in a list; "" for that of this daemon. ``bus``: of a
        cluster whose links go over nats, "nats://host:4222/name"; then there is none of register, secret, tls and php.
        ``timeout``: seconds for connect(), and for each call. ``tls``: as of AsyncTcpConnection. ``ping``: seconds; a
        gateway that is silent for two of them is connected to anew. ``php``: {"secret_key": ..., "register":
        "text://host:port"} as a business worker has it, for gateways in PHP. Raises ConfigError."""
        transport.refuse_beside(bus, register, secret, tls, php)
        joins = phpregistry.settings(php)
        self._bus = bus
        self._servers = [] if bus else phpregistry.ours(register, secret, joins)
        self._named = [*(server.address for server in self._servers), *phpregistry.addresses(joins)]
        self._timeout = timeout
        self._options: dict[str, Any] = {"tls": tls, "ping": ping, "timeout": timeout, "php": joins}
        self._mesh: Mesh | None = None

    async def connect(self) -> None:
        """Returns when a Register has answered and each of its gateways was tried. Raises Unreachable, Unauthorized."""
        if self._mesh is None:
            self._mesh = transport.mesh(self._bus, self._servers, **self._options)
            try:
                is_ready = await self._mesh.ready(self._timeout)
            except BaseException:
                await self.close()
                raise
            if not is_ready:
                await self.close()
                what = f"register at {', '.join(map(str, self._named))}" if self._named else "nats"
                raise Unreachable(f"no {what} within {self._timeout:g} s")

    async def close(self) -> None:
        mesh, self._mesh = self._mesh, None
        if mesh is not None:
            await mesh.close()

    async def __aenter__(self) -> GatewayClient:
        await self.connect()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    def run(self, plan: Plan[T]) -> Later[T]:
        """RuntimeError before connect()."""
        if self._mesh is None:
            raise RuntimeError("GatewayClient: await connect() first, or use it in `async with`")
        return self._mesh.run(plan)
