"""What commands.py does in a gateway of ours, asked of one in PHP: each becomes packages of wire.py. Pure.

PHP answers questions, and nothing else. So each command asks, on the same connection, beside what it does, whom it
finds: that is its result. What changes a session asks behind it: when that is answered, it has been changed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final, NamedTuple

from workermand import WorkermandError
from workermand.services.gateway import ids, sessions, wire
from workermand.services.gateway.commands import FIELDS, Message, Sent
from workermand.services.gateway.plans import as_dict
from workermand.services.gateway.wire import Command, Package
from workermand.services.links.errors import ServiceError, Unsupported
from workermand.services.links.serialize import serialize

QUESTIONS: Final = frozenset(
    {
        Command.IS_ONLINE,
        Command.GET_SESSION_BY_CLIENT_ID,
        Command.GET_CLIENT_COUNT_BY_GROUP,
        Command.GET_GROUP_ID_LIST,
        Command.SELECT,
    }
)
"""Those that every version answers: who asks another one waits for ever."""
IS_ALIVE: Final = Package(Command.GET_SESSION_BY_CLIENT_ID)
"""A session of nobody. The answer is null, as no other one is but a session that is not there."""


class OutOfStep(WorkermandError):
    """An answer that belongs to another question."""


class Asked(NamedTuple):
    """One command."""

    packages: Sequence[Package]
    read: Callable[[list[Any]], Any]
    """Its result, of the answers to the questions among the packages. Raises OutOfStep, and SessionError."""

    @property
    def questions(self) -> int:
        return sum(package.command in QUESTIONS for package in self.packages)


Found = tuple[list[Package], Callable[[list[Any]], list[int]]]
"""What is asked, and which connections its answers name."""


class PhpCommands:
    """Of one gateway, whose client_ids begin with ``prefix``."""

    def __init__(self, prefix: str) -> None:
        self._prefix = prefix

    def ask(self, name: str, arguments: Sequence[Any]) -> Asked:
        """Raises ServiceError."""
        if (command := COMMANDS.get(name)) is None:
            raise Unsupported(f"a gateway in PHP has nothing for {name}")
        try:
            return command(self, *arguments)
        except sessions.SessionError as error:
            raise ServiceError(f"{name}: {error}") from None

    # ------------------------------------------------------------------ messages

    def send_to_clients(self, ids: list[str], message: Message, raw: bool) -> Asked:
        numbers = self._numbers(ids)
        asked, found = self._present(numbers)
        if len(numbers) == 1:
            package = _message(Command.SEND_TO_ONE, message, raw, connection=numbers[0])
        else:
            package = _message(Command.SEND_TO_ALL, message, raw, {"connections": _map(numbers)})
        return Asked([*asked, package], lambda answers: _sent(len(found(answers))))

    def send_to_all(self, exclude: list[str], message: Message, raw: bool) -> Asked:
        if not (excluded := self._numbers(exclude)):
            package = _message(Command.SEND_TO_ALL, message, raw)
            return Asked([_count(""), package], lambda answers: _sent(_int(answers[0])))
        package = _message(Command.SEND_TO_ALL, message, raw, {"exclude": _map(excluded)})
        asked, found = self._present(excluded)
        read = lambda answers: _sent(_int(answers[0]) - len(found(answers[1:])))  # noqa: E731
        return Asked([_count(""), *asked, package], read)

    def send_to_uids(self, uids: list[str], message: Message, raw: bool) -> Asked:
        package = _message(Command.SEND_TO_UID, message, raw, uids)
        return Asked([_select([], {"uid": uids}), package], lambda answers: _sent(len(_rows(answers[0]))))

    def post_to_uids(self, uids: list[str], message: Message, raw: bool) -> Asked:
        def read(rows: dict[int, Any]) -> tuple[int, int, list[str]]:
            found = [_uid(row) for row in rows.values()]
            return *_sent(len(found)), [uid for uid in uids if uid in found]

        package = _message(Command.SEND_TO_UID, message, raw, uids)
        return Asked([_select(["uid"], {"uid": uids}), package], lambda answers: read(_rows(answers[0])))

    def send_to_groups(self, groups: list[str], exclude: list[str], message: Message, raw: bool) -> Asked:
        """Who is in two of them gets it twice, and is counted twice: so it is in PHP."""
        excluded = self._numbers(exclude)
        extra = {"group": groups, "exclude": _map(excluded) if excluded else None}
        package = _message(Command.SEND_TO_GROUP, message, raw, extra)
        counts = [_count(group) for group in groups]
        if not excluded:
            return Asked([*counts, package], lambda answers: _sent(sum(map(_int, answers))))

        def read(answers: list[Any]) -> Sent:
            *members, without = answers
            left_out = (len(set(groups) & set(_groups(row))) for row in _rows(without).values())
            return _sent(sum(map(_int, members)) - sum(left_out))

        return Asked([*counts, _select(["groups"], {"connection_id": _map(excluded)}), package], read)

    def close_clients(self, ids: list[str], message: Message) -> Asked:
        words = (b"N;", 0) if message is None else (_bytes(message), wire.SCALAR)
        return self._first_asked(ids, lambda number: Package(Command.KICK, words[0], b"", number, words[1]))

    def destroy_clients(self, ids: list[str]) -> Asked:
        return self._first_asked(ids, lambda number: Package(Command.DESTROY, connection=number))

    # ------------------------------------------------------------------ uids and groups

    def bind_uid(self, ids: list[str], uid: str) -> Asked:
        key = _key("uid", uid)
        return self._first_asked(ids, lambda number: Package(Command.BIND_UID, b"", key, number))

    def unbind_uid(self, ids: list[str]) -> Asked:
        return self._first_asked(ids, lambda number: Package(Command.UNBIND_UID, connection=number))

    def join_group(self, ids: list[str], group: str) -> Asked:
        key = _key("group", group)
        return self._first_asked(ids, lambda number: Package(Command.JOIN_GROUP, b"", key, number))

    def leave_group(self, ids: list[str], group: str) -> Asked:
        key = _key("group", group)
        return self._first_asked(ids, lambda number: Package(Command.LEAVE_GROUP, b"", key, number))

    def ungroup(self, group: str) -> Asked:
        packages = [_count(group), Package(Command.UNGROUP, extra=_key("group", group))]
        return Asked(packages, lambda answers: _int(answers[0]))

    # ------------------------------------------------------------------ sessions

    def set_session(self, ids: list[str], session: dict[Any, Any]) -> Asked:
        return self._change(Command.SET_SESSION, ids, sessions.PHP.encode(session))

    def update_session(self, ids: list[str], update: dict[Any, Any]) -> Asked:
        return self._change(Command.UPDATE_SESSION, ids, sessions.PHP.encode(update) or serialize({}))

    def _change(self, command: Command, ids: list[str], session: bytes) -> Asked:
        numbers = self._numbers(ids)
        asked, found = self._present(numbers)
        done = [Package(command, b"", session, number) for number in numbers]
        return Asked([*done, *asked], lambda answers: len(found(answers)))

    def get_sessions(self, ids: list[str]) -> Asked:
        numbers = self._numbers(ids)

        def read(answers: list[Any]) -> dict[str, Any]:
            found = zip(numbers, answers, strict=True)
            return {self._id(number): _rows(session) for number, session in found if session is not None}

        return Asked([Package(Command.GET_SESSION_BY_CLIENT_ID, connection=number) for number in numbers], read)

    # ------------------------------------------------------------------ who is there?

    def are_online(self, ids: list[str]) -> Asked:
        asked, found = self._present(self._numbers(ids))
        return Asked(asked, lambda answers: list(map(self._id, found(answers))))

    def uids_of_clients(self, ids: list[str]) -> Asked:
        asked = _select(["uid"], {"connection_id": _map(self._numbers(ids))})
        return self._selected(asked, lambda rows: {self._id(number): _uid(row) for number, row in rows.items()})

    def clients_of_uids(self, uids: list[str]) -> Asked:
        def read(rows: dict[int, Any]) -> dict[str, list[str]]:
            return _gathered((uid, self._id(number)) for number, row in rows.items() if (uid := _uid(row)) is not None)

        return self._selected(_select(["uid"], {"uid": uids}), read)

    def count(self) -> Asked:
        return Asked([_count("")], lambda answers: _int(answers[0]))

    def count_groups(self, groups: list[str] | None) -> Asked:
        if groups is None:
            return self._selected(
                _select(["groups"], {}), lambda rows: {group: len(them) for group, them in self._members(rows).items()}
            )

        def read(answers: list[Any]) -> dict[str, int]:
            return {group: count for group, answer in zip(groups, answers, strict=True) if (count := _int(answer))}

        return Asked([_count(group) for group in groups], read)

    def list_groups(self) -> Asked:
        read = lambda answers: [str(group) for group in _rows(answers[0]).values()]  # noqa: E731
        return Asked([Package(Command.GET_GROUP_ID_LIST)], read)

    def list_uids(self) -> Asked:
        def read(rows: dict[int, Any]) -> list[str]:
            return list(dict.fromkeys(uid for row in rows.values() if (uid := _uid(row)) is not None))

        return self._selected(_select(["uid"], {}), read)

    def uids_of_groups(self, groups: list[str] | None) -> Asked:
        def read(rows: dict[int, Any]) -> dict[str, list[str]]:
            named = [(uid, row) for row in rows.values() if (uid := _uid(row)) is not None]
            return _gathered((group, uid) for uid, row in named for group in _groups(row) if _is_in(group, groups))

        return self._selected(_select(["uid", "groups"], _where(groups)), read)

    def clients_of_groups(self, groups: list[str] | None) -> Asked:
        return self._selected(_select(["groups"], _where(groups)), lambda rows: self._members(rows, groups))

    def list_clients(self) -> Asked:
        # Without any field PHP names nobody.
        return self._selected(_select(["uid"], {}), lambda rows: list(map(self._id, rows)))

    def select(self, fields: list[str], groups: list[str] | None) -> Asked:
        if unknown := set(fields).difference(FIELDS):
            raise ServiceError(f"select: no field {', '.join(map(repr, sorted(unknown)))}")

        def read(rows: dict[int, Any]) -> dict[str, list[Any]]:
            return {self._id(number): [READ[field](row) for field in fields] for number, row in rows.items()}

        return self._selected(_select(fields or ["uid"], _where(groups)), read)

    # ------------------------------------------------------------------ what they share

    def _numbers(self, given: Iterable[str]) -> list[int]:
        return [int(id[ids.PHP_PREFIX :], 16) for id in given if len(id) == ids.LENGTH and id.startswith(self._prefix)]

    def _id(self, number: int) -> str:
        return f"{self._prefix}{number:08x}"

    def _present(self, numbers: list[int]) -> Found:
        if not numbers:
            return [], lambda answers: []
        if len(numbers) == 1:
            return (
                [Package(Command.IS_ONLINE, connection=numbers[0])],
                lambda answers: numbers if _int(answers[0]) else [],
            )
        return [_select([], {"connection_id": _map(numbers)})], lambda answers: list(_rows(answers[0]))

    def _first_asked(self, ids: list[str], package: Callable[[int], Package]) -> Asked:
        numbers = self._numbers(ids)
        asked, found = self._present(numbers)
        return Asked([*asked, *map(package, numbers)], lambda answers: len(found(answers)))

    def _selected(self, asked: Package, read: Callable[[dict[int, Any]], Any]) -> Asked:
        return Asked([asked], lambda answers: read(_rows(answers[0])))

    def _members(self, rows: dict[int, Any], groups: list[str] | None = None) -> dict[str, list[str]]:
        return _gathered(
            (group, self._id(number)) for number, row in rows.items() for group in _groups(row) if _is_in(group, groups)
        )


COMMANDS: Final[dict[str, Callable[..., Asked]]] = {
    name: method for name, method in vars(PhpCommands).items() if not name.startswith("_") and name != "ask"
}
"""By name."""


# ---------------------------------------------------------------------------------------------------- packages


def _message(command: Command, message: Message, raw: bool, extra: Any = None, connection: int = 0) -> Package:
    flags = wire.SCALAR | wire.NOT_ENCODED if raw else wire.SCALAR
    return Package(command, _bytes(message), b"" if extra is None else wire.json_bytes(extra), connection, flags)


def _bytes(message: Message) -> bytes:
    return message.encode() if isinstance(message, str) else bytes(message)


def _key(what: str, key: str) -> bytes:
    if key in ("", "0"):
        raise ServiceError(f'"{key}" is an empty {what} to PHP')
    return key.encode()


def _count(group: str) -> Package:
    """ "": of all clients."""
    return Package(Command.GET_CLIENT_COUNT_BY_GROUP, extra=group.encode())


def _select(fields: list[str], where: dict[str, Any]) -> Package:
    return Package(Command.SELECT, extra=wire.json_bytes({"fields": fields, "where": where or []}))


def _where(groups: list[str] | None) -> dict[str, Any]:
    return {} if groups is None else {"groups": groups}


def _map(numbers: list[int]) -> dict[int, int]:
    return {number: number for number in numbers}


# ---------------------------------------------------------------------------------------------------- answers


def _sent(clients: int) -> Sent:
    """PHP tells of none that was dropped."""
    return max(0, clients), 0


def _int(answer: Any) -> int:
    if type(answer) is not int:
        raise OutOfStep("a number was asked for")
    return answer


def _rows(answer: Any) -> dict[Any, Any]:
    if not isinstance(answer, (dict, list)):
        raise OutOfStep("an array was asked for")
    return as_dict(answer)


def _uid(row: Any) -> str | None:
    uid = as_dict(row).get("uid")
    return None if uid is None else str(uid)


def _groups(row: Any) -> list[str]:
    return sorted(str(group) for group in as_dict(as_dict(row).get("groups")).values())


def _session(row: Any) -> dict[Any, Any]:
    session = as_dict(row).get("session") or b""
    return sessions.PHP.decode(session.encode() if isinstance(session, str) else session)


READ: Final[dict[str, Callable[[Any], Any]]] = {"uid": _uid, "groups": _groups, "session": _session}


def _is_in(group: str, groups: list[str] | None) -> bool:
    return groups is None or group in groups


def _gathered(pairs: Iterable[tuple[str, str]]) -> dict[str, list[str]]:
    found: dict[str, dict[str, None]] = {}
    for key, value in pairs:
        found.setdefault(key, {})[value] = None
    return {key: list(values) for key, values in found.items()}
