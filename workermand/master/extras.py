"""Addresses that handlers ask for at run time: worker.listen("text://127.0.0.1:5678").

The master opens and keeps the socket, hands it to every child that asks and so to the next generation too, and closes
it when no child of the worker accepts there any more, and none is on its way who may.
"""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Collection, Iterable
from pathlib import Path

import msgspec

from workermand import address
from workermand.errors import ConfigError
from workermand.link import Listen, Listening, Unlisten
from workermand.master.child import Child
from workermand.master.plan import Address
from workermand.master.slots import Slot
from workermand.master.sockets import Sockets
from workermand.spec import ListenSpec

log = logging.getLogger(__name__)

PRIVILEGED = 1024


class Extras:
    """(worker, address) -> the children that asked. Process: the master."""

    def __init__(self, sockets: Sockets) -> None:
        self._sockets = sockets
        self._askers: dict[tuple[str, Address], set[Child]] = {}

    def addresses(self) -> frozenset[Address]:
        """They are no worker's by the file: a reload leaves them alone."""
        return frozenset(address for _worker, address in self._askers)

    def listen(self, child: Child, message: Listen) -> None:
        try:
            listen = self._open(child, message.uri)
        except ConfigError as error:
            child.tell(Listening(message.request, message.uri, str(error)))
            return
        bound = self._sockets.get(listen.address)
        assert bound is not None
        self._askers.setdefault((child.worker.name, listen.address), set()).add(child)
        child.tell(Listening(message.request, message.uri), [sock.fileno() for sock in bound.sockets])

    def unlisten(self, child: Child, message: Unlisten) -> None:
        with contextlib.suppress(ConfigError):  # its listen() has failed for the same reason
            listen = _parse(child, message.uri)
            self._askers.get((child.worker.name, listen.address), set()).discard(child)

    def sweep(self, slots: Iterable[Slot], in_file: Collection[Address]) -> None:
        """After a READY, a DRAINING, an exit or an unlisten: close what nobody accepts on. A worker with an empty or a
        starting slot keeps its addresses: the child to come may ask. ``in_file``: addresses that a reload has made the
        TOML's, which owns them from then on. ``slots``: those that are wanted."""
        mine = list(slots)
        for key in list(self._askers):
            worker, opened = key
            self._askers[key] = {child for child in self._askers[key] if child.accepting}
            awaited = any(slot.worker == worker and not slot.serving for slot in mine)
            coming = any(slot.worker == worker and slot.incoming is not None for slot in mine)
            if opened in in_file:
                del self._askers[key]
            elif not (self._askers[key] or awaited or coming):
                del self._askers[key]
                self._sockets.close(opened)
                log.info("worker %s: nobody listens on %s any more: closed", worker, opened)

    def _open(self, child: Child, uri: str) -> ListenSpec:
        name, listen = child.worker.name, _parse(child, uri)
        if (name, listen.address) in self._askers:
            return listen
        if self._sockets.get(listen.address) is not None:
            raise ConfigError(f"worker.{name}: listen()", f"{uri} is open already, for another listener")
        if child.worker.user is not None and os.geteuid() == 0:
            _allow(child, listen)
        self._sockets.open(msgspec.structs.replace(child.worker, listen=(listen,), reuse_port=False))
        log.info("worker %s: listening on %s", name, uri)
        return listen


def _parse(child: Child, uri: str) -> ListenSpec:
    server = child.server
    schemes = tuple(server.protocols)
    return address.parse(uri, run_dir=server.run_dir, worker_name=child.worker.name, schemes=schemes)


def _allow(child: Child, listen: ListenSpec) -> None:
    """A worker with a user of its own must not get through the master what that user could not do."""
    where = f"worker.{child.worker.name}: listen()"
    if listen.transport != "unix" and listen.port < PRIVILEGED:
        raise ConfigError(
            where,
            f"port {listen.port} is below {PRIVILEGED}",
            "name it under `listen` in the TOML, or take a higher one",
        )
    own = Path(child.server.run_dir, child.worker.name)
    if listen.transport == "unix" and own not in Path(os.path.normpath(listen.path)).parents:
        raise ConfigError(where, f"{listen.path} is outside {own}", f"use a path below {own}")
    if listen.transport == "unix":
        try:
            own.mkdir(mode=0o755, exist_ok=True)
        except OSError as error:
            raise ConfigError(where, f"cannot make {own}: {error.strerror}") from error
