"""Many clients that connect at once: `python -m tests.system.crowd HOST PORT NUMBER`.

Every one connects, sends a line, gets its echo and leaves. All connections are begun before any is read.
"""

from __future__ import annotations

import resource
import selectors
import socket
import sys
import time

DEADLINE = 240.0


def main() -> int:
    host, port, number = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    selector = selectors.EpollSelector()
    for index in range(number):
        client = socket.socket()
        client.setblocking(False)
        client.connect_ex((host, port))
        selector.register(client, selectors.EVENT_WRITE, data=b"client %d\n" % index)
    answered = lost = 0
    deadline = time.monotonic() + DEADLINE
    while answered + lost < number and time.monotonic() < deadline:
        for key, mask in selector.select(1.0):
            client, line = key.fileobj, key.data
            assert isinstance(client, socket.socket)
            try:
                if mask & selectors.EVENT_WRITE:
                    client.send(line)
                    selector.modify(client, selectors.EVENT_READ, data=line)
                    continue
                good = client.recv(100) == line
            except OSError:
                good = False
            selector.unregister(client)
            client.close()
            answered += good
            lost += not good
    print(f"{answered} answered, {number - answered} lost")
    return 0


if __name__ == "__main__":
    sys.exit(main())
