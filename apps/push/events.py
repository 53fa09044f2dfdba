"""The events of the push cluster: a page is told its client_id. It hands it to the site, which knows who is logged in
there, and binds the two (site.py, flask_site.py, django_site.py).

Pages say nothing over the WebSocket: what they have to say goes to the site.
"""

from workermand.services.gateway import Gateway


async def on_connect(client_id: str) -> None:
    await Gateway.send_to_client(client_id, {"type": "init", "client_id": client_id})


def on_message(client_id: str, message: str | bytes) -> None:
    """Answers to the gateway's pings."""
