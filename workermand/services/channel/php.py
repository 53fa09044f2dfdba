"""What clients of PHP's Channel say, as our own clients would say it, and what ours are told, as PHP is told it.
links/php.py has the door.

To the server a PHP client is one of its clients: PhpClient stands in the place of its connection, takes the frames that
the server sends (wire.py) and makes PHP's of them. Its messages are arrays ``{type, channels, data}``; it gets ``{type:
event or queue, channel, data}``. Nothing is answered: the original has no answers, so that what is refused is logged.

An item of a queue is gone when PHP's server has sent it. Ours waits until the client calls for more: reserve() after a
callback, which PHP's client does by itself, acknowledges the oldest item in its hands; what is still in them when the
connection ends comes back. And no queue gives a second item before the first is acknowledged, where PHP's server sends
a client that watches several queues ever more of them.
"""

from __future__ import annotations

import functools
from collections import deque
from collections.abc import Callable, Iterator
from typing import Annotated, Any, Final, NamedTuple, Protocol, cast

import msgspec

from workermand import Connection, ConnectionStatus, Worker
from workermand.services.channel import wire
from workermand.services.channel.engine import ChannelError
from workermand.services.channel.topics import is_pattern
from workermand.services.links import php
from workermand.services.links import wire as links
from workermand.services.links.errors import ServiceError
from workermand.services.links.php import PhpDoor
from workermand.services.links.serialize import SerializeError, serialize

DEADLINE: Final = 600.0
"""Seconds: PHP's workers do one thing at a time, and some of them take their time."""
RETRIES: Final = 5
RETRY_DELAY: Final = 1.0
NAMES: Final = 10_000
"""Of one message."""
OWN: Final = "$"
"""Names of the facade's own begin with it: who could publish there would speak for Python's processes."""


class Settings(php.Settings, frozen=True, forbid_unknown_fields=True):
    """``options.php``."""

    deadline: Annotated[float, msgspec.Meta(gt=0)] = DEADLINE
    """Seconds that a client may keep an item before another one gets it."""


class Service(Protocol):
    """What is needed of the server: server.Service."""

    def obey(self, client: Connection, message: tuple[Any, ...]) -> None:
        """A message of a client of ours, as wire.decode() gives it."""

    def is_full(self, client: Connection) -> None: ...

    def is_drained(self, client: Connection) -> None: ...

    def gone(self, client: Connection) -> None: ...


async def open_door(worker: Worker, settings: Settings, service: Service) -> PhpDoor:
    """Where they come in. Raises LoadError."""
    translator = Translator()

    def welcome(connection: Connection) -> PhpClient:
        complain = functools.partial(door.complain, connection)
        return PhpClient(service, translator, complain, settings.deadline, connection)

    door = PhpDoor(worker, "channel", settings, welcome)
    await door.open()
    return door


# ---------------------------------------------------------------------------------------------------- to PHP


class Translated(NamedTuple):
    events: list[bytes]
    """PHP's frames."""
    refused: list[str]
    """Events that PHP cannot have, in words."""
    others: list[bytes]
    """What is for one client alone, and still ours: the bodies of frames."""


class Translator:
    """What the server sends to many is translated once: the last of it is remembered."""

    def __init__(self) -> None:
        self._data = b""
        self._translated = Translated([], [], [])

    def __call__(self, data: bytes) -> Translated:
        """``data`` are frames of ours."""
        if data is not self._data:
            self._data, self._translated = data, _translate(data)
        return self._translated


def _translate(data: bytes) -> Translated:
    events, refused, others = translated = Translated([], [], [])
    for body in _bodies(data):
        if wire.op_of(body) != wire.EVENT:
            others.append(body)
            continue
        _op, _number, event, envelope = links.unpack(body)
        try:
            events.append(_frame("event", event, envelope))
        except SerializeError as error:
            refused.append(f"an event of {event}: {error}")
    return translated


def _bodies(data: bytes) -> Iterator[bytes]:
    start = 0
    while start < len(data):
        end = start + int.from_bytes(data[start : start + links.HEAD], "big")
        yield data[start + links.HEAD : end]
        start = end


def _frame(kind: str, channel: str, envelope: bytes) -> bytes:
    """Raises SerializeError: PHP has no such value, or a client has published what is no envelope."""
    try:
        data = wire.unpack_envelope(envelope).data
    except (ServiceError, ValueError) as error:
        raise SerializeError(str(error)) from None
    body = serialize({"type": kind, "channel": channel, "data": data})
    return (len(body) + links.HEAD).to_bytes(links.HEAD, "big") + body


# ---------------------------------------------------------------------------------------------------- from PHP


class Message(msgspec.Struct):
    type: str
    channels: Any = ()
    data: Any = None


class PhpClient:
    """One of them: to the door its guest, to the server its connection."""

    def __init__(
        self,
        service: Service,
        translator: Translator,
        complain: Callable[[str], None],
        deadline: float,
        connection: Connection,
    ) -> None:
        self._service = service
        self._translator = translator
        self._complain = complain
        self._deadline = deadline
        self._connection = connection
        self._watched: dict[str, bool] = {}
        """By queue: whether reserve() has been called since."""
        self._held: deque[tuple[str, str]] = deque()
        """Queue and id of the items in its hands, the oldest first."""
        self._has_just_watched = False

    def hear(self, message: Any) -> None:
        """Raises ChannelError for what is refused."""
        try:
            read = msgspec.convert(message, Message, builtin_types=(bytes,))
        except msgspec.ValidationError as error:
            raise ChannelError(f"no message of a channel's client: {error}") from None
        has_just_watched, self._has_just_watched = self._has_just_watched, read.type == "watch"
        names, refused = _names(read.channels)
        match read.type:
            case "subscribe":
                self._say(wire.SUBSCRIBE, names)
            case "unsubscribe":
                self._say(wire.UNSUBSCRIBE, names)
            case "publish" | "publishLoop":
                self._say(wire.PUBLISH, names, wire.pack_envelope(read.data), read.type == "publishLoop")
            case "enqueue":
                self._say(wire.ENQUEUE, names, wire.pack_envelope(read.data), 0.0)
            case "watch":
                for name in names:
                    self._watched.setdefault(name, False)
            case "unwatch":
                self._unwatch(names)
            case "reserve":
                self._reserve(acknowledges=not has_just_watched)
            case _:
                raise ChannelError(f'no message of a channel\'s client: type "{read.type}"')
        if refused:
            raise ChannelError(f"{read.type}: {'; '.join(refused[:10])}")

    def full(self) -> None:
        self._service.is_full(self._as_connection)

    def drained(self) -> None:
        self._service.is_drained(self._as_connection)

    def gone(self) -> None:
        self._service.gone(self._as_connection)

    @property
    def _as_connection(self) -> Connection:
        """It has what the server uses of one, see below."""
        return cast(Connection, self)

    def _say(self, op: int, *rest: Any) -> None:
        """The op is the request's number, too: an answer says by it what was asked."""
        if not isinstance(rest[0], list) or rest[0]:
            self._service.obey(self._as_connection, (op, op, *rest))

    def _unwatch(self, queues: list[str]) -> None:
        for queue in queues:
            if self._watched.pop(queue, False):
                self._say(wire.UNWATCH, queue)

    def _reserve(self, acknowledges: bool) -> None:
        """The one that follows a watch() is that watch's own: no callback has ended."""
        if acknowledges and self._held:
            self._say(wire.ACKNOWLEDGE, *self._held.popleft())
        for queue in [queue for queue, is_open in self._watched.items() if not is_open]:
            self._watched[queue] = True
            self._say(wire.WATCH, queue, 1, self._deadline, RETRIES, RETRY_DELAY)

    # ------------------------------------------------------------------ what the server uses of a connection

    def send(self, data: bytes, raw: bool = False) -> bool | None:
        """Frames of ours; ``raw`` unset: what is in one."""
        if not raw:
            data = (len(data) + links.HEAD).to_bytes(links.HEAD, "big") + data
        events, refused, others = self._translator(data)
        for words in refused:
            self._complain(words)
        items = list(self._items(others))
        frames = [*events, *(frame for _, frame in items)]
        if not frames:
            return True
        sent = self._connection.send(b"".join(frames), raw=True)
        if sent is not False:
            self._held += [item for item, _ in items]
        return sent

    def _items(self, bodies: list[bytes]) -> Iterator[tuple[tuple[str, str], bytes]]:
        """Queue and id of each, and its frame. Answers are for clients that wait for some; refusals are logged."""
        for body in bodies:
            op, number, *rest = links.unpack(body)
            if op == links.FAIL:
                self._complain(f"{VERBS.get(number, 'a message')}: {rest[0]}")
            elif op == wire.ITEM:
                queue, id, _attempt, envelope = rest
                try:
                    yield (queue, id), _frame("queue", queue, envelope)
                except SerializeError as error:
                    self._complain(f"an item of {queue}: {error}")
                    # Not now: the server is in the middle of handing it out.
                    self._connection.worker.loop.call_soon(self._say, wire.REFUSE, queue, id, None, True)

    @property
    def status(self) -> ConnectionStatus:
        return self._connection.status

    @property
    def max_send_buffer_size(self) -> int:
        return self._connection.max_send_buffer_size

    def get_send_buffer_size(self) -> int:
        return self._connection.get_send_buffer_size()

    def get_remote_address(self) -> str:
        return self._connection.get_remote_address()

    def close(self, data: Any = None, raw: bool = False) -> None:
        """Last words in our wire are none of PHP's."""
        self._connection.close()

    def destroy(self) -> None:
        self._connection.destroy()


VERBS: Final = {wire.SUBSCRIBE: "subscribe", wire.ENQUEUE: "enqueue", wire.WATCH: "watch", wire.PUBLISH: "publish"}


def _names(channels: Any) -> tuple[list[str], list[str]]:
    """Those that are good, and what is wrong with the others. PHP makes an integer of a name like "7"."""
    if isinstance(channels, dict):
        channels = list(channels.values())
    elif not isinstance(channels, (list, tuple)):
        channels = [channels]
    names: dict[str, None] = {}
    refused: list[str] = []
    for name in channels[:NAMES]:
        if isinstance(name, int) and not isinstance(name, bool):
            name = str(name)
        if words := wire.why_not(name):
            refused.append(words)
        elif name.startswith(OWN):
            refused.append(f'{name}: names that begin with "{OWN}" are not for PHP clients')
        elif is_pattern(name):
            refused.append(f"{name}: PHP clients have no patterns")
        else:
            names[name] = None
    if len(channels) > NAMES:
        refused.append(f"more than {NAMES} names")
    return list(names), refused
