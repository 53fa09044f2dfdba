"""The manual's asynchronous tasks: a WebSocket worker hands heavy jobs to a pool of task workers and goes on serving.

    [worker.front]
    listen = "websocket://127.0.0.1:8282"
    handler = "apps.async_task:Front"
    options = { tasks = "text://127.0.0.1:12345", seconds = 60 }

    [worker.task]
    listen = "text://127.0.0.1:12345"
    handler = "apps.async_task:Task"
    count = 4

    python -m websockets ws://127.0.0.1:8282
    > {"id": 1, "below": 1000000}                    how many primes are there?
    < {"id": 1, "below": 1000000, "primes": 78498}

Each job has a connection of its own, so that the kernel gives it to a task worker that has nothing to do; four jobs are
worked on at once, the others wait. The answers come in the order in which they are ready: the id tells them apart.
"""

import json

from workermand import AsyncTcpConnection, Connection, SendError, Timer


class Front:
    """The WebSocket worker: never blocked."""

    def on_message(self, browser: Connection, words: str) -> None:
        options = browser.worker.options
        task = AsyncTcpConnection(options["tasks"])
        task.context = None  # the answer

        def answered(task: AsyncTcpConnection, answer: str) -> None:
            task.context = answer
            task.close()

        def failed(task: AsyncTcpConnection, code: SendError, message: str) -> None:
            print(message)

        def ended(task: AsyncTcpConnection) -> None:
            Timer.delete(timer)
            browser.send(task.context or json.dumps({"job": words, "error": "no answer"}))

        task.on_message, task.on_error, task.on_close = answered, failed, ended
        timer = Timer.add(options.get("seconds", 60), task.destroy, persistent=False)
        task.send(words.replace("\n", " "))  # a line is a message
        task.connect()


class Task:
    """A task worker: it may take its time."""

    def on_message(self, front: Connection, words: str) -> None:
        try:
            job = json.loads(words)
            answer = {**job, "primes": self.primes(int(job["below"]))}
        except (ValueError, KeyError, TypeError) as error:
            answer = {"job": words, "error": f"{type(error).__name__}: {error}"}
        front.send(json.dumps(answer))

    def primes(self, below: int) -> int:
        """How many there are."""
        if not 2 < below <= 100_000_000:
            raise ValueError("below must be between 3 and 100,000,000")
        sieve = bytearray([1]) * below
        sieve[:2] = b"\0\0"
        for number in range(2, int(below**0.5) + 1):
            if sieve[number]:
                sieve[number * number :: number] = bytes(len(range(number * number, below, number)))
        return sum(sieve)
