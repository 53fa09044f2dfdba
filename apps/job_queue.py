"""Jobs that must be done: taken in by a web page, kept on disk, done by other processes, tried again, shown on a board.

    [worker.channel]
    listen = "unix://channel.sock"
    protocol = "frame"
    handler = "workermand.services.channel.server"
    reloadable = false
    options = { persist = true }

    [worker.page]
    listen = "http://127.0.0.1:4239"
    handler = "apps.job_queue:Page"

    [worker.mailer]
    handler = "apps.job_queue:Mailer"
    count = 4
    options = { retries = 2, retry_delay = 5 }

    [worker.board]
    listen = "websocket://127.0.0.1:4240"
    handler = "apps.job_queue:Board"
    count = 2

    curl http://127.0.0.1:4239/mails -d '{"to": "anne@example.com"}'       202: it is on disk, and will be sent
    curl http://127.0.0.1:4239/dead                                        what could not be sent in three attempts
    curl http://127.0.0.1:4239/replay -X POST                              all of that once more
    python -m websockets ws://127.0.0.1:4240
    < {"sent": "anne@example.com", "by": 3}

At least once: a mailer that is killed after it has sent a mail, and before it has said so, leaves it to another one.
"""

import json

from workermand import Connection, Request, Response, Worker
from workermand.services.channel import Channel

QUEUE = "mails"


class Page:
    async def on_worker_start(self, worker: Worker) -> None:
        self.channel = await Channel.connect(worker.options.get("url"))

    async def on_message(self, connection: Connection, request: Request) -> None:
        if request.path == "/mails" and request.method == "POST":
            try:
                mail = json.loads(request.raw_body)
            except ValueError as error:
                connection.send(Response(400).with_body(f"{error}\n"))
                return
            await self.channel.enqueue(QUEUE, mail)
            connection.send(Response(202))
        elif request.path == "/dead":
            letters = await self.channel.dead_letters(QUEUE)
            connection.send([{"id": job.id, "attempts": job.attempt, "mail": job.data} for job in letters])
        elif request.path == "/replay" and request.method == "POST":
            connection.send({"replayed": await self.channel.replay(QUEUE)})
        else:
            connection.send(Response(404))


class Mailer:
    """It listens nowhere."""

    async def on_worker_start(self, worker: Worker) -> None:
        self.worker = worker
        self.channel = await Channel.connect(worker.options.get("url"))
        retries, retry_delay = worker.options.get("retries", 2), worker.options.get("retry_delay", 5)
        await self.channel.watch(QUEUE, self.deliver, retries=retries, retry_delay=retry_delay)

    async def deliver(self, mail: dict[str, str]) -> None:
        """When this returns, the mail is gone from the queue; when it raises, it comes back."""
        await self.send(mail["to"])
        self.channel.broadcast("board", json.dumps({"sent": mail["to"], "by": self.worker.id}))

    async def send(self, address: str) -> None:
        """Here a real one would speak to a mail server."""
        if "@" not in address:
            raise ValueError(f"{address} is no address")


class Board:
    """Its clients are told by broadcast."""

    async def on_worker_start(self, worker: Worker) -> None:
        await Channel.connect(worker.options.get("url"))
