"""The gateway cluster: Gateway processes hold the clients and are never reloaded, business workers run the user's
events and reload freely, Registers introduce them, and any program pushes. Workerman: GatewayWorker and GatewayClient.

    from workermand.services.gateway import Gateway                 in the events of a business worker
    from workermand.services.gateway import GatewayClient           in any asyncio program
    from workermand.services.gateway import BlockingGatewayClient   in any other
"""

from workermand.services.gateway.blocking import BlockingGatewayClient
from workermand.services.gateway.client import GatewayClient
from workermand.services.gateway.events import Gateway, Origin
from workermand.services.gateway.plans import Delivery

__all__ = ["BlockingGatewayClient", "Delivery", "Gateway", "GatewayClient", "Origin"]
