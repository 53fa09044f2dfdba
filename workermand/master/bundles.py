"""What `tls` of each worker names, as the master has read it: sealed memfds, one a worker, handed to its children.

Read at the start and at every reload, whether the settings have changed or not: renewed certificates have the names of
those before them. What a reload has read is in force with its Commit. No key stays in the master's own memory, and no
child gets another worker's.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
from collections.abc import Iterable
from dataclasses import dataclass

import msgspec

from workermand import certificates
from workermand.errors import ConfigError
from workermand.spec import WorkerSpec

log = logging.getLogger(__name__)

SEALS = fcntl.F_SEAL_WRITE | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_SEAL
"""A child must not be able to change what the next one gets."""


@dataclass(frozen=True, slots=True)
class Bundle:
    """Of one worker."""

    fd: int
    expires: float
    """Unix time."""
    file: str
    """The certificate that expires then."""


class Bundles:
    """Process: the master."""

    def __init__(self) -> None:
        self._in_force: dict[str, Bundle] = {}
        self._coming: dict[str, Bundle] = {}

    def read(self, workers: Iterable[WorkerSpec]) -> None:
        """They come into force with ``commit``. Raises ConfigError; then there are none."""
        self.drop()
        try:
            for worker in workers:
                if worker.tls is not None:
                    self._coming[worker.name] = _read(worker)
        except ConfigError:
            self.drop()
            raise

    def commit(self, workers: Iterable[str]) -> None:
        """What was read, and of ``workers`` what was not read anew."""
        kept = {name: bundle for name, bundle in self._in_force.items() if name in set(workers)}
        former, self._in_force, self._coming = self._in_force, {**kept, **self._coming}, {}
        _close(former[name] for name in former if former[name] is not self._in_force.get(name))

    def drop(self) -> None:
        """What was read and not committed."""
        _close(self._coming.values())
        self._coming = {}

    def close(self) -> None:
        self.drop()
        self.commit(())

    def fd(self, worker: str, *, coming: bool = False) -> int | None:
        """``coming``: for a child of a change that may not be committed yet."""
        bundle = (self._coming.get(worker) if coming else None) or self._in_force.get(worker)
        return None if bundle is None else bundle.fd

    def note(self, worker: str) -> str:
        """For the status: "" unless a certificate expires soon."""
        bundle = self._in_force.get(worker)
        return "" if bundle is None else certificates.warning(bundle.expires, bundle.file)


def _read(worker: WorkerSpec) -> Bundle:
    assert worker.tls is not None
    files = certificates.read(f"worker.{worker.name}.tls", worker.tls)
    expires, file = certificates.expires(worker.tls, files)
    if warning := certificates.warning(expires, file):
        log.warning("worker %s: %s", worker.name, warning)
    fd = os.memfd_create("workermand-certificates", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    with open(fd, "wb", closefd=False) as memory:
        memory.write(msgspec.msgpack.encode(files))
    fcntl.fcntl(fd, fcntl.F_ADD_SEALS, SEALS)
    return Bundle(fd, expires, file)


def _close(bundles: Iterable[Bundle]) -> None:
    for bundle in bundles:
        with contextlib.suppress(OSError):
            os.close(bundle.fd)
