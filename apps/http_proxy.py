"""An HTTP proxy: requests with a whole URL are passed on, CONNECT makes a tunnel for what must not be read on the way.

[worker.proxy]
listen = "tcp://127.0.0.1:3128"              # who reaches it reaches whatever this machine reaches
handler = "apps.http_proxy"
options = { connect_ports = [443] }          # of CONNECT; a mail server's port does not belong there

curl --proxy http://127.0.0.1:3128 http://example.com/
curl --proxy http://127.0.0.1:3128 https://example.com/

A raw listener, because http:// is for servers. The head alone is looked at; each request has a connection of its own.
"""

import re

from workermand import AsyncTcpConnection, ConfigError, Connection, SendError, Timer

LONGEST_HEAD, SECONDS = 32 * 1024, 10
LINE = re.compile(rb"(?:CONNECT ([^/?#\s]+:([0-9]+))|([A-Z]+) http://([^/?#\s]+)([^#\s]*)) HTTP/1\.[01]", re.IGNORECASE)
FIELD = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+):[^\r\n\0]*")
HOP_BY_HOP = {b"connection", b"host", b"keep-alive", b"proxy-authorization", b"proxy-connection", b"te", b"upgrade"}
"""Fields that are not passed on (RFC 9110 7.6.1), besides those that Connection names."""


def on_connect(client: Connection) -> None:
    client.context = b""
    client.deadline = Timer.add(SECONDS, refuse, (client, "408 Request Timeout"), persistent=False)


def on_message(client: Connection, data: bytes) -> None:
    client.context += data
    head, end, rest = client.context.partition(b"\r\n\r\n")
    if len(head) > LONGEST_HEAD:
        refuse(client, "431 Request Header Fields Too Large")
    elif end:
        client.context = b""
        take(client, head, rest)


def take(client: Connection, head: bytes, rest: bytes) -> None:
    line, *fields = head.split(b"\r\n")
    request = LINE.fullmatch(line)
    if request is None or not all(map(FIELD.fullmatch, fields)):
        refuse(client, "400 Bad Request")
    elif request[1] and request[2].decode() not in map(str, client.worker.options.get("connect_ports", [443])):
        refuse(client, "403 Forbidden")
    elif request[1]:
        dial(client, request[1], rest, "HTTP/1.1 200 Connection established\r\n\r\n")
    else:
        _, _, method, host, path = request.groups()
        pairs = [(field.partition(b":")[0].lower(), field) for field in fields]
        named = b",".join(field.partition(b":")[2] for name, field in pairs if name == b"connection")
        dropped = HOP_BY_HOP | {name.strip().lower() for name in named.split(b",")}
        kept = [field for name, field in pairs if name not in dropped]
        line = method + b" " + (b"" if path.startswith(b"/") else b"/") + path + b" HTTP/1.1"
        added = [b"Host: " + host, b"Via: 1.1 workermand", b"Connection: close"]
        where = host if re.search(rb":[0-9]+$", host) else host + b":80"
        dial(client, where, b"\r\n".join([line, *added, *kept, b"", rest]))


def on_close(client: Connection) -> None:
    Timer.delete(client.deadline)


def dial(client: Connection, where: bytes, first: bytes, answer: str = "") -> None:
    try:
        upstream = AsyncTcpConnection(f"tcp://{where.decode('latin-1')}")
    except ConfigError:
        refuse(client, "400 Bad Request")
        return
    Timer.delete(client.deadline)
    client.pipe(upstream)
    upstream.pipe(client)
    upstream.on_connect = lambda _upstream: client.send(answer)
    upstream.on_error = lambda _, code, __: answer_failure(client, code)
    upstream.connect()
    upstream.send(first)


def answer_failure(client: Connection, code: SendError) -> None:
    if code is SendError.CONNECT_FAIL:
        refuse(client, "502 Bad Gateway")


def refuse(client: Connection, status: str) -> None:
    client.end(f"HTTP/1.1 {status}\r\nConnection: close\r\nContent-Length: 0\r\n\r\n")
