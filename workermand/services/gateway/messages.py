"""What the parts of a cluster say to each other, on links: MessagePack arrays, see links/wire.py. Pure.

To a Register, service "register":

    [ANNOUNCE, n, gateway, ping]        I am this gateway while this link lives, and something comes every ping seconds
    [LIST, n]                   its gateways now
    [WATCH, n]                  [GATEWAYS, 0, gateways] at once, behind the answer, and whenever they change

To a Register that may keep an outbox:

    [OUTBOX, n]                 whether it does; then to an announced gateway [KEPT, 0, uids] when letters are new there
    [PUT, n, uids, message, raw]        a letter for each: how many are safe now
    [TAKE, n, uid]              [[number, time, message, raw], ...], and whether these are all: the oldest, in order
    [ACKNOWLEDGE, n, numbers]   these have been delivered: how many of them were still there
    [LOOK, n, uids]             those for which there is something

To a gateway, service "gateway 0123abcd", with its prefix:

    [ENLIST, n, key, ping]      I handle events from now on, and say something every ping seconds
    [LEAVE, n]                  I take no more: behind the answer comes none
    [DONE, 0, ids]              events that have been handled, one client_id for each
    [CALL, n, name, arguments, watch]   commands.py; with ``watch`` NEWS are sent of these uids or groups
    [CHANGE, n, stamp, name, arguments] the same of those that change a session; stamps grow
    [UNWATCH, 0, kind, key]     no more of this one
    [CLAIM, 0, client_id]       this client was offered to business workers on a bus, and I have got it

From a gateway:

    [EVENT, 0, kind, client_id, body, session, applied, origin]
    [NEWS, 0, kind, key, present]       of a uid or group that was asked for with ``watch``

In EVENT ``body`` is None, the message (str or bytes), or of a WebSocket's handshake [method, target, fields];
``session`` is encoded; ``applied`` is the stamp of the last CHANGE of this link in it; ``origin`` is
[ip, port, the port it came to].
"""

from __future__ import annotations

from typing import Any, Final, NamedTuple

import msgspec

from workermand.services.links import wire as links
from workermand.services.links.errors import ServiceError

REGISTER: Final = "register"
"""The service of Door and Link; that of gateways is service()."""

ANNOUNCE: Final = links.FIRST
WATCH: Final = links.FIRST + 1
GATEWAYS: Final = links.FIRST + 2
LIST: Final = links.FIRST + 3
OUTBOX: Final = links.FIRST + 4
PUT: Final = links.FIRST + 5
TAKE: Final = links.FIRST + 6
ACKNOWLEDGE: Final = links.FIRST + 7
LOOK: Final = links.FIRST + 8
KEPT: Final = links.FIRST + 9
OF_OUTBOX: Final = frozenset({PUT, TAKE, ACKNOWLEDGE, LOOK})

ENLIST: Final = links.FIRST
LEAVE: Final = links.FIRST + 1
DONE: Final = links.FIRST + 2
CALL: Final = links.FIRST + 3
EVENT: Final = links.FIRST + 4
NEWS: Final = links.FIRST + 5
UNWATCH: Final = links.FIRST + 6
CHANGE: Final = links.FIRST + 7
CLAIM: Final = links.FIRST + 8

ON_CONNECT: Final = 1
ON_MESSAGE: Final = 3
ON_CLOSE: Final = 4
ON_WEBSOCKET_CONNECT: Final = 205
"""Kinds of events, numbered as in GatewayWorker."""


class Place(NamedTuple):
    """One gateway, as a Register knows it."""

    uri: str
    """Of its inner listener, "tcp://127.0.0.1:2000"; "" for one in PHP."""
    prefix: str
    """What the client_ids of its clients begin with."""
    php: str = ""
    """ "127.0.0.1:2900", where PHP programs reach it, and then its sessions are PHP's; "" for nowhere."""


def service(prefix: str) -> str:
    """Of the gateway with this prefix, so that nobody takes it for the one that was at its address before: whoever has
    not heard of that one's end would have two gateways there, and send everything twice."""
    return f"gateway {prefix}"


def places(said: Any) -> list[Place]:
    """Raises ServiceError."""
    try:
        return msgspec.convert(said, list[Place])
    except msgspec.ValidationError as error:
        raise ServiceError(f"no list of gateways: {error}") from None


def place(said: Any) -> Place:
    """Raises ServiceError."""
    try:
        found = msgspec.convert(said, Place)
    except msgspec.ValidationError as error:
        raise ServiceError(f"no gateway: {error}") from None
    if not found.uri and not found.php:
        raise ServiceError("a gateway without an address")
    return found
