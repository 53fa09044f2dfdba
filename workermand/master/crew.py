"""The children: forking them into their slots, hearing what they say, burying them, and filling what is empty.

What an event does to one child is child.TABLE; what it means for its slot is here.
"""

from __future__ import annotations

import logging
import os
import selectors
import time
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any

from workermand.errors import ExitCode
from workermand.link import (
    MAX_FDS,
    Adopt,
    Connections,
    Draining,
    LinkClosed,
    Listen,
    Listening,
    Message,
    Ready,
    Recycle,
    Server,
    Status,
    Unlisten,
    Words,
)  # fmt: skip
from workermand.master.child import Child, Event, Phase
from workermand.master.exits import Exits
from workermand.master.extras import Extras
from workermand.master.rollout import Failed
from workermand.master.slots import Slot
from workermand.master.status import State
from workermand.spec import ServerSpec

if TYPE_CHECKING:
    from workermand.master.master import Master

log = logging.getLogger(__name__)

FORK_RETRY = 1.0
"""Seconds until the next try when there is no process to be had."""


class Crew:
    """Every slot and every child. Process: the master."""

    def __init__(self, master: Master) -> None:
        self.exits = Exits()
        self.extras = Extras(master.sockets)
        self.proved: set[str] = set()
        """Workers that have had a READY child."""
        self._master = master
        self._slots: dict[tuple[str, int], Slot] = {}
        self._pidfds: dict[int, Child] = {}
        self._links: dict[int, Child] = {}

    # ------------------------------------------------------------------ who there is

    def slots(self) -> list[Slot]:
        """In the order of the file."""
        order = {name: position for position, name in enumerate(self._master.spec.workers)}
        return sorted(self._slots.values(), key=lambda slot: (order.get(slot.worker, len(order)), slot.index))

    def slot(self, worker: str, index: int) -> Slot:
        return self._slots.setdefault((worker, index), Slot(worker, index))

    def children(self) -> Iterator[Child]:
        for slot in self._slots.values():
            yield from slot.children()

    def missing(self) -> list[Slot]:
        """The slots that ought to serve and do not."""
        return [slot for slot in self.slots() if self._wants(slot) and not slot.serving]

    def occupied(self) -> dict[str, frozenset[int]]:
        """Worker -> the indexes of its slots that have a child."""
        taken: dict[str, frozenset[int]] = {}
        for slot in self._slots.values():
            if self._wants(slot) and slot.current is not None:
                taken[slot.worker] = taken.get(slot.worker, frozenset()) | {slot.index}
        return taken

    def handle_all(self, event: Event, **details: Any) -> None:
        for child in list(self.children()):
            child.handle(event, **details)

    def _slot_of(self, child: Child) -> Slot:
        return self.slot(child.worker.name, child.slot)

    def _wants(self, slot: Slot) -> bool:
        worker = self._master.spec.workers.get(slot.worker)
        return worker is not None and slot.index < worker.count

    # ------------------------------------------------------------------ the loop's part

    def owns(self, fd: int) -> bool:
        return fd in self._pidfds or fd in self._links

    def turn(self, fds: Iterable[int]) -> None:
        """Exits first: their last words are read with them."""
        mine = [fd for fd in fds if self.owns(fd)]
        for fd in mine:
            if fd in self._pidfds:
                self._exited(self._pidfds[fd])
        for fd in mine:
            if fd in self._links:
                self._listen_to(self._links[fd])

    def next_deadline(self) -> float | None:
        due = [child.next_deadline() for child in self.children()]
        due += [slot.next_start for slot in self._slots.values() if self._is_fillable(slot)]
        return min((d for d in due if d is not None), default=None)

    def tick(self, now: float) -> None:
        for child in list(self.children()):
            child.tick(now)

    def fill(self, now: float) -> None:
        """A child for every empty slot whose time has come; slots that nobody wants are forgotten when empty."""
        for key, slot in list(self._slots.items()):
            if not self._wants(slot) and next(slot.children(), None) is None:
                del self._slots[key]
            elif self._is_fillable(slot) and slot.next_start is not None and now >= slot.next_start:
                self.start(slot)

    def flush(self) -> None:
        """What a full link could not take is sent when it can."""
        for fd, child in self._links.items():
            child.flush()
            events = selectors.EVENT_READ | (selectors.EVENT_WRITE if child.has_unsent else 0)
            if self._master.selector.get_key(fd).events != events:
                self._master.selector.modify(fd, events)

    # ------------------------------------------------------------------ birth

    def start(self, slot: Slot) -> None:
        slot.next_start = None
        try:
            slot.current = self._fork(slot, self._master.spec)
        except Failed as error:
            log.error("%s", error)
            slot.next_start = time.monotonic() + FORK_RETRY

    def spawn(self, slot: Slot, server: ServerSpec) -> Child:
        """For a rollout: a child beside the one that serves. Raises Failed."""
        slot.incoming = self._fork(slot, server)
        return slot.incoming

    def start_what_is_left(self) -> None:
        """After a rollout that failed half way: an empty slot gets its child by the clock again."""
        for slot in self._slots.values():
            if self._is_fillable(slot) and slot.next_start is None:
                slot.next_start = time.monotonic()

    def _is_fillable(self, slot: Slot) -> bool:
        """Empty, and there may be a child in it."""
        if slot.current is not None or slot.incoming is not None or not self._wants(slot):
            return False
        if self._master.state is State.STOPPING:
            return False
        if self._master.state is State.STARTING and slot.worker not in self.proved and slot.crashes:
            return False  # first it must turn out whether this worker can start at all
        # What is not reloadable never runs twice in one slot.
        return not slot.draining or self._master.spec.workers[slot.worker].reloadable

    def _fork(self, slot: Slot, server: ServerSpec) -> Child:
        master = self._master
        worker = server.workers[slot.worker]
        child = Child(server, worker, slot.index, master.changes.generation_of(server))
        child.certificates = master.bundles.fd(worker.name, coming=server is not master.spec)
        try:
            child.fork(master.sockets.share(worker, slot.index), master.outputs.descriptors())
        except OSError as error:
            raise Failed(f"cannot fork for {slot}: {error.strerror}") from error
        assert child.link is not None
        self._pidfds[child.pidfd] = child
        self._links[child.link.fileno()] = child
        master.selector.register(child.pidfd, selectors.EVENT_READ)
        master.selector.register(child.link.fileno(), selectors.EVENT_READ)
        return child

    # ------------------------------------------------------------------ death

    def _exited(self, child: Child) -> None:
        if not child.reap():
            return
        self._listen_to(child)  # its last words
        slot = self._slot_of(child)
        unasked = slot.current is child
        reason = self.exits.record(child)
        log.log(
            logging.WARNING if unasked else logging.INFO,
            "%s ended: %s%s", child, reason, "\n" + child.words.text.rstrip() if child.words.text else "",
        )  # fmt: skip
        self._unwatch(child)
        child.handle(Event.EXITED)
        slot.forget(child)
        if unasked:
            self._schedule(slot, child)
        if self._master.state is State.STARTING and child.worker.name not in self.proved:
            self._failed_to_start(child, reason)
        self._sweep_extras()

    def _failed_to_start(self, child: Child, reason: str) -> None:
        """At the first start systemd must see that a worker cannot work; later old children or the back-off help."""
        name = child.worker.name
        if any(c.phase is Phase.STARTING for c in self.children() if c.worker.name == name):
            return
        log.error("worker %s cannot start: %s", name, f"{reason} after {child.leaving}" if child.leaving else reason)
        code = os.waitstatus_to_exitcode(child.wait_status or 0)
        self._master.stop("fast", exit_code=code if code > 0 else ExitCode.FAILED)

    def _schedule(self, slot: Slot, child: Child) -> None:
        if (delay := slot.schedule(child)) > 0:
            log.warning("%s: crash %d in a row, next start in %.1f s", slot, slot.crashes, delay)
            self.share_out()

    def _unwatch(self, child: Child) -> None:
        del self._pidfds[child.pidfd]
        self._master.selector.unregister(child.pidfd)
        self._forget_link(child)

    def _forget_link(self, child: Child) -> None:
        if child.link is not None and child.link.fileno() in self._links:
            del self._links[child.link.fileno()]
            self._master.selector.unregister(child.link.fileno())

    # ------------------------------------------------------------------ what children say

    def _listen_to(self, child: Child) -> None:
        if child.link is None:
            return
        try:
            messages = child.link.receive()
        except LinkClosed:
            self._forget_link(child)  # its exit comes through the pidfd
            return
        for message, fds in messages:
            for fd in fds:  # a child has nothing to pass us
                os.close(fd)
            if hear := HEAR.get(type(message)):
                hear(self, child, message)
            else:
                log.error("can't happen: %s says %s", child, type(message).__name__)

    def _ready(self, child: Child, _message: Ready) -> None:
        child.handle(Event.READY)
        self.proved.add(child.worker.name)
        log.info("%s ready after %.2f s", child, time.monotonic() - child.started)
        self.share_out()
        self._sweep_extras()

    def _words(self, child: Child, message: Words) -> None:
        child.words = message

    def _draining(self, child: Child, message: Draining) -> None:
        """Told to, it says so; or it leaves of its own accord, and its slot is free."""
        slot = self._slot_of(child)
        if child.phase in (Phase.STARTING, Phase.RUNNING):
            child.leaving = message.reason
            log.info("%s leaves: %s", child, message.reason)
        child.handle(Event.DRAINING)
        if slot.current is child:
            slot.dismiss(child)
            self._schedule(slot, child)
        self._sweep_extras()

    def _recycle(self, child: Child, message: Recycle) -> None:
        if self._slot_of(child).current is child:
            child.recycle = message.reason
            self._master.changes.ask("recycle", child.worker.name, child.slot)

    def _status(self, child: Child, message: Status) -> None:
        child.hear(message)
        self._master.desk.hear(child, message)

    def _connections(self, child: Child, message: Connections) -> None:
        self._master.desk.hear(child, message)

    def _listen(self, child: Child, message: Listen) -> None:
        if self._master.state is State.STOPPING:
            child.tell(Listening(message.request, message.uri, "the daemon is stopping"))
        else:
            self.extras.listen(child, message)

    def _unlisten(self, child: Child, message: Unlisten) -> None:
        self.extras.unlisten(child, message)
        self._sweep_extras()

    def _sweep_extras(self) -> None:
        in_file = {listen.address for worker in self._master.spec.workers.values() for listen in worker.listen}
        self.extras.sweep([slot for slot in self._slots.values() if self._wants(slot)], in_file)

    def _server(self, child: Child, message: Server) -> None:
        self._master.desk.serve_child(child, message)

    # ------------------------------------------------------------------ reuse_port

    def share_out(self) -> None:
        """No socket of a reuse_port group may be without a child that accepts there: the kernel sends it clients. A
        slot that waits for its next start has its own looked after by another."""
        for slot in self._slots.values():
            worker = self._master.spec.workers.get(slot.worker)
            if worker is None or not worker.reuse_port or not self._wants(slot):
                continue
            others = (s.current for s in self._slots.values() if s.worker == slot.worker and s.serving)
            child = slot.current or next(others, None)
            if child is None:
                continue
            for listen, socks in self._master.sockets.share(worker, slot.index):
                missing = [sock.fileno() for sock in socks if sock.fileno() not in child.holds]
                child.holds.update(missing)
                for start in range(0, len(missing), MAX_FDS):
                    child.tell(Adopt(listen.uri), missing[start : start + MAX_FDS])


HEAR: dict[type[Message], Callable[[Crew, Child, Any], None]] = {
    Ready: Crew._ready,
    Words: Crew._words,
    Draining: Crew._draining,
    Recycle: Crew._recycle,
    Status: Crew._status,
    Connections: Crew._connections,
    Listen: Crew._listen,
    Unlisten: Crew._unlisten,
    Server: Crew._server,
}
