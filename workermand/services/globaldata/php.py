"""What clients of PHP's GlobalData ask for, done to our table. links/php.py has the door.

Each request is an array ``{cmd, key, ...}`` and has one answer, a serialized value. Its meaning is the original's: null
is as good as nothing, increment makes 0 of what is no number, cas sends a checksum of the old value. An array keeps
the order of its keys, as PHP has it. Every verb is one step, as those of Python's clients are.
"""

from __future__ import annotations

import functools
import hashlib
import re
from typing import Any, Final, Protocol

import msgspec

from workermand import Connection, Worker
from workermand.services.globaldata import wire
from workermand.services.globaldata.engine import GlobalDataError
from workermand.services.globaldata.table import Table
from workermand.services.links import wire as links
from workermand.services.links.php import PhpDoor, Settings
from workermand.services.links.serialize import GREATEST, SMALLEST, SerializeError, serialize

SPACE: Final = r"[ \t\n\r\v\f]*"
NUMERIC: Final = re.compile(rf"{SPACE}([+-]?(?:[0-9]+(\.[0-9]*)?|(\.[0-9]+))([eE][+-]?[0-9]+)?){SPACE}")
"""PHP's is_numeric(); the groups after the first are there when it is a float."""
OWN: Final = "$"
"""Keys of the clients' own begin with it: who holds a lock stands there."""
LONGEST_NUMBER: Final = 1100
"""Characters."""

_encode = msgspec.msgpack.Encoder().encode  # in the order of the keys: what wire.pack_value sorts has lost it


class Request(msgspec.Struct, tag_field="cmd"):
    """Every one has a key: PHP makes an integer of one like "7"."""

    key: str | int

    def run(self, table: Table, now: float) -> Any:
        """What PHP is answered. Raises GlobalDataError and SerializeError."""
        raise NotImplementedError

    @property
    def name(self) -> str:
        return str(self.key)

    def held(self, table: Table, now: float) -> Any:
        """None stands for nothing, too."""
        entry = table.get(self.name, now)
        return None if entry is None else _unpack(entry.value)


class Get(Request, tag="get"):
    def run(self, table: Table, now: float) -> Any:
        return self.held(table, now)


class Set(Request, tag="set"):
    value: Any = None

    def run(self, table: Table, now: float) -> bool:
        if self.value is None:
            table.delete(self.name, None, now)
        else:
            table.set(self.name, _encode(self.value), None, now)
        return True


class Add(Set, tag="add"):
    def run(self, table: Table, now: float) -> bool:
        return self.held(table, now) is None and super().run(table, now)


class Delete(Request, tag="delete"):
    def run(self, table: Table, now: float) -> bool:
        table.delete(self.name, None, now)
        return True


class Increment(Request, tag="increment"):
    step: int | float | str = 1

    def run(self, table: Table, now: float) -> int | float | bool:
        entry = table.get(self.name, now)
        held = None if entry is None else _unpack(entry.value)
        if entry is None or held is None:
            return False
        if (step := _number(self.step)) is None:
            raise GlobalDataError(f'increment: the step "{self.step}" is no number')
        number = _sum(_number(held) or 0, step)
        table.cas_version(self.name, entry.version, _encode(number), now)
        return number


class Cas(Set, tag="cas"):
    md5: str = ""

    def run(self, table: Table, now: float) -> bool:
        entry = table.get(self.name, now)
        try:
            held = serialize(None if entry is None else _unpack(entry.value))
        except SerializeError:  # no PHP client has ever seen it
            return False
        if hashlib.md5(held, usedforsecurity=False).hexdigest() != self.md5:
            return False
        if self.value is None or entry is None:
            return super().run(table, now)
        return table.cas_version(self.name, entry.version, _encode(self.value), now) != 0


AnyRequest = Get | Set | Add | Delete | Increment | Cas
KINDS: Final = {"get": Get, "set": Set, "add": Add, "delete": Delete, "increment": Increment, "cas": Cas}


def _unpack(packed: bytes) -> Any:
    """Raises SerializeError: a client has set what is no value."""
    try:
        return wire.unpack_value(packed)
    except (GlobalDataError, ValueError) as error:
        raise SerializeError(str(error)) from None


def _number(value: Any) -> int | float | None:
    """PHP's is_numeric(), and what it then counts as."""
    if isinstance(value, str) and len(value) <= LONGEST_NUMBER and (match := NUMERIC.fullmatch(value)):
        is_integer = not any(match.groups()[1:])
        value = int(match[1]) if is_integer else float(match[1])
    if isinstance(value, int) and not isinstance(value, bool):
        return value if SMALLEST <= value <= GREATEST else float(value)
    return value if isinstance(value, float) else None


def _sum(one: int | float, other: int | float) -> int | float:
    """PHP's integers become floats when they outgrow 64 bits."""
    result = one + other
    return result if isinstance(result, float) or SMALLEST <= result <= GREATEST else float(one) + float(other)


# ---------------------------------------------------------------------------------------------------- a client


class Runnable(Protocol):
    """What the server needs of a request."""

    def run(self, table: Table, now: float) -> Any: ...


class Keeper(Protocol):
    """What is needed of the server: server.Service."""

    def execute(self, request: Runnable) -> Any:
        """Does it now. Raises GlobalDataError."""

    def say(self, connection: Connection, frame: bytes) -> None:
        """When all that it rests upon is safe."""


async def open_door(worker: Worker, settings: Settings, keeper: Keeper) -> PhpDoor:
    """Where they come in. Raises LoadError."""
    door = PhpDoor(worker, wire.SERVICE, settings, functools.partial(PhpClient, keeper), closes=True)
    await door.open()
    return door


class PhpClient:
    """One of them. It waits for each answer: one that cannot be given ends the connection, and its next call
    connects again."""

    def __init__(self, keeper: Keeper, connection: Connection) -> None:
        self._keeper = keeper
        self._connection = connection

    def hear(self, message: Any) -> None:
        """Raises WorkermandError for what cannot be done."""
        try:
            request = msgspec.convert(message, _kind(message), builtin_types=(bytes,))
        except msgspec.ValidationError as error:
            raise GlobalDataError(f"bad request: {error}") from None
        if request.name.startswith(OWN):
            raise GlobalDataError(f'{request.name}: keys that begin with "{OWN}" are not for PHP clients')
        self._keeper.say(self._connection, _frame(serialize(self._keeper.execute(request))))

    def full(self) -> None:
        """It does not read its answers: it may ask no more."""
        self._connection.pause_recv()

    def drained(self) -> None:
        self._connection.resume_recv()

    def gone(self) -> None:
        """It holds nothing."""


def _kind(message: Any) -> Any:
    """Of a request: one, not a union of all, which msgspec makes anew for each call, 16 us in place of one."""
    command = message.get("cmd") if isinstance(message, dict) else None
    return KINDS.get(command, AnyRequest) if isinstance(command, str) else AnyRequest


def _frame(body: bytes) -> bytes:
    return (len(body) + links.HEAD).to_bytes(links.HEAD, "big") + body
