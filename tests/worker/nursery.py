"""A master's stand-in for tests of worker.process: a bare process that forks children on request.

Like the master it has imported the runtime, runs no loop and no thread, forks with all signals masked, and tells how
each child ended. A test drives the children itself, over their links. Run as a program by the fixture ``nursery``
(see test_process.py), it takes one request a packet: the spec in msgpack, the link and the sockets as descriptors.
"""

from __future__ import annotations

import gc
import os
import signal
import socket
import sys
from typing import Any

import msgspec

from workermand import log
from workermand.link import Link
from workermand.spec import ListenSpec, LogSpec, ServerSpec, WorkerSpec
from workermand.worker import process


class Request(msgspec.Struct):
    server: ServerSpec
    worker: WorkerSpec
    slot: int
    master_pid: int | None
    """None: the nursery's own."""
    probe: bool
    """Tell what process.probe says, in the place of the exit status."""


def serve(control: socket.socket) -> None:
    """Answers each request with the child's pid, and later with (pid, wait status)."""
    while True:
        data, fds, _flags, _address = socket.recv_fds(control, 1 << 16, 32)
        if not data:
            return
        if data == b"wait":
            pid, status = os.wait()
            control.send(msgspec.msgpack.encode((pid, status)))
            continue
        request = msgspec.msgpack.decode(data, type=Request)
        nursery = os.getpid()
        before = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        pid = os.fork()
        if pid == 0:
            control.close()
            become(request, fds, request.master_pid or nursery)
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        for fd in fds:
            os.close(fd)
        control.send(msgspec.msgpack.encode(pid))


def become(request: Request, fds: list[int], master_pid: int) -> None:
    """In the child. ``fds``: stdout and stderr, the link, then one socket for each listen."""
    stdout, link_fd, *listening = fds
    os.dup2(stdout, 1)
    os.dup2(stdout, 2)
    os.close(stdout)
    link = Link(socket.socket(fileno=link_fd))
    if request.probe:
        error, remarks = process.probe(request.server, request.worker)
        os.write(1, (error or f"fine{' '.join(remarks)}").encode())
        os._exit(0)
    listeners: list[tuple[ListenSpec, list[socket.socket]]] = [
        (listen, [socket.socket(fileno=fd)]) for listen, fd in zip(request.worker.listen, listening, strict=True)
    ]
    process.run(request.server, request.worker, request.slot, listeners, link, generation=1, master_pid=master_pid)


def main(argv: list[Any]) -> None:
    # As the master does: its own handlers must not be the children's.
    log.setup(LogSpec())
    gc.collect()
    gc.freeze()
    signal.signal(signal.SIGHUP, lambda _signum, _frame: None)
    serve(socket.socket(fileno=int(argv[1])))


if __name__ == "__main__":
    main(sys.argv)
