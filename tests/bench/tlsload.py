#!/usr/bin/env python3
"""loadgen's part over TLS: tlsload.py PORT CONNECTIONS DEPTH SECONDS.

Says "connected" when all handshakes are done, waits for a line, and prints how many messages it has exchanged: lines of
64 bytes, DEPTH of them in flight on every connection. Its own CPU is nobody's concern.
"""

import select
import socket
import ssl
import sys
import time

port, connections, depth, seconds = int(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), float(sys.argv[4])
context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
context.check_hostname = False
context.verify_mode = ssl.CERT_NONE
batch = (b"x" * 63 + b"\n") * depth
poll = select.epoll()
clients, missing = {}, {}
for _ in range(connections):
    client = context.wrap_socket(socket.create_connection(("127.0.0.1", port)))
    client.setblocking(False)
    poll.register(client, select.EPOLLIN)
    clients[client.fileno()], missing[client.fileno()] = client, len(batch)
print("connected", flush=True)
sys.stdin.readline()
for client in clients.values():
    client.send(batch)
rounds = 0
end = time.monotonic() + seconds
while time.monotonic() < end:
    for fd, _ in poll.poll(1):
        try:
            missing[fd] -= len(clients[fd].recv(65536))
        except ssl.SSLWantReadError:
            continue
        if not missing[fd]:
            rounds += 1
            missing[fd] = len(batch)
            clients[fd].send(batch)
print(rounds * depth)
