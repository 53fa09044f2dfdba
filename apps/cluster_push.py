"""The manual's cluster push: a web site pushes to browsers that other processes hold, to all of them or to one.

    [worker.channel]
    listen = "unix://channel.sock"
    protocol = "frame"
    handler = "workermand.services.channel.server"
    reloadable = false

    [worker.browsers]
    listen = "websocket://127.0.0.1:4236"
    handler = "apps.cluster_push:Browsers"
    count = 4

    [worker.push]
    listen = "http://127.0.0.1:4237"
    handler = "apps.cluster_push:Push"
    count = 2

    python -m websockets ws://127.0.0.1:4236
    < you are 2-1
    curl http://127.0.0.1:4237/ -d 'news for everybody'          {"processes": 4}
    curl http://127.0.0.1:4237/?to=2-1 -d 'only for you'         {"sent": true}

A browser has the number of its process and its own in there. The processes may be those of several machines: each with
its own numbers, options = { machine = "a", url = "channel://10.0.0.1:2206", secret = "..." }, and all with one channel.
"""

from workermand import Connection, Request, Response, Worker
from workermand.services.channel import Channel, ChannelError


async def connect(worker: Worker) -> Channel:
    options = worker.options
    return await Channel.connect(options.get("url"), secret=options.get("secret", ""))


class Browsers:
    """The WebSocket workers. What is broadcast to them comes to their clients by itself."""

    async def on_worker_start(self, worker: Worker) -> None:
        self.address = f"{worker.options.get('machine', '')}{worker.id}"
        self.clients = worker.connections
        self.channel = await connect(worker)
        await self.channel.on(f"browsers.{self.address}", self.push)

    def push(self, message: list[str]) -> bool:
        """Whether the browser is there, and took it: that goes back to who asked."""
        number, text = message
        browser = self.clients.get(int(number))
        return browser is not None and browser.send(text) is not False

    def on_websocket_connected(self, browser: Connection, request: Request) -> None:
        browser.send(f"you are {self.address}-{browser.id}")


class Push:
    """The web site."""

    async def on_worker_start(self, worker: Worker) -> None:
        self.channel = await connect(worker)

    async def on_message(self, connection: Connection, request: Request) -> None:
        text = request.raw_body.decode(errors="replace")
        to = str(request.get("to", ""))
        if not to:
            connection.send({"processes": await self.channel.broadcast("browsers", text)})
            return
        address, _, number = to.rpartition("-")
        try:
            sent = number.isdecimal() and await self.channel.request(f"browsers.{address}", [number, text])
        except (ChannelError, ValueError):  # no such process
            sent = False
        connection.send({"sent": True} if sent else Response(404).with_body("no such browser\n"))
