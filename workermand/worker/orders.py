"""The child's end of the link: what the master says comes in, what must not be lost goes out.

A message that the full link refuses waits here until it has room, in order; only a Status may be dropped (``push``).
Questions (Listen, Server) get numbers and their answers find back. What a message means is runtime.py's business.
"""

from __future__ import annotations

import asyncio
import collections
import contextlib
import os
import select
import time
from collections.abc import Callable, Iterable

from workermand.link import Link, LinkClosed, Listening, Message, ServerAnswer

LAST_CHANCE = 0.5
"""Seconds that a dying process waits for a full link to take its last messages."""

Answer = Listening | ServerAnswer
Then = Callable[[Answer, list[int]], None]


class Orders:
    """Process: the child; thread: the one that runs the loop."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        link: Link,
        obey: Callable[[Message, list[int]], None],
        orphaned: Callable[[], None],
    ) -> None:
        self._loop = loop
        self._link = link
        self._obey = obey
        self._orphaned = orphaned
        self._waiting: collections.deque[Message] = collections.deque()
        self._questions: dict[int, Then] = {}
        self._last_question = 0

    def start(self) -> None:
        self._loop.add_reader(self._link.fileno(), self._receive)

    def send(self, message: Message) -> None:
        """What must arrive. Never blocks; what goes to a dead master is forgotten."""
        self._waiting.append(message)
        if len(self._waiting) == 1:
            self._flush()
            if self._waiting:
                self._loop.add_writer(self._link.fileno(), self._writable)

    def push(self, message: Message) -> None:
        """What the next second brings anew: dropped when the link is full."""
        if not self._waiting:
            with contextlib.suppress(LinkClosed):
                self._link.send(message)

    def ask(self, question: Callable[[int], Message], then: Then) -> None:
        """Sends ``question(number)``; ``then`` gets the answer and its descriptors, which it must close."""
        self._last_question += 1
        self._questions[self._last_question] = then
        self.send(question(self._last_question))

    def deliver(self) -> None:
        """The loop has ended: a last chance for what waits."""
        deadline = time.monotonic() + LAST_CHANCE
        poll = select.poll()
        poll.register(self._link.fileno(), select.POLLOUT)
        self._flush()
        while self._waiting and poll.poll(max(0.0, deadline - time.monotonic()) * 1000):
            self._flush()

    def _writable(self) -> None:
        self._flush()
        if not self._waiting:
            self._loop.remove_writer(self._link.fileno())

    def _flush(self) -> None:
        try:
            while self._waiting and self._link.send(self._waiting[0]):
                self._waiting.popleft()
        except LinkClosed:
            self._waiting.clear()

    def _receive(self) -> None:
        try:
            received = self._link.receive()
        except LinkClosed:
            self._loop.remove_reader(self._link.fileno())
            self._orphaned()
            return
        for message, fds in received:
            if isinstance(message, Answer):
                self._questions.pop(message.request)(message, fds)
            else:
                self._obey(message, fds)


def close_all(fds: Iterable[int]) -> None:
    for fd in fds:
        os.close(fd)
