"""Commands: what a gateway does when it is asked to, by a business worker or any other program that may.

Each is a method, called by its name with what came on the wire, which is held to its annotations first. They know the
table and connections that can send; who asked, and how the answer goes back, is for peers.py and php/ to know.
"""

from __future__ import annotations

import inspect
import logging
import typing
from collections.abc import Callable, Iterable
from typing import Any, Final

import msgspec

from workermand import Prepared
from workermand.services.gateway import sessions
from workermand.services.gateway.sessions import Codec, Patch
from workermand.services.gateway.table import GROUP, UID, Client, Table
from workermand.services.links.errors import ServiceError

logger = logging.getLogger(__name__)

Message = Any
"""str or bytes, text or binary where the client's protocol tells them apart: checked where it is sent."""
Sent = tuple[int, int]
"""Clients that took it, and clients that did not, because their send buffer was full."""
Post = Callable[[list[str], str | bytes, bool], tuple[int, int, list[str]]]
EMPTY: Final = msgspec.Raw(b"\x80")
FIELDS: Final = ("uid", "groups", "session")


class Commands:
    """Of one gateway process. Thread: the one that runs the loop."""

    def __init__(self, table: Table, codec: Codec) -> None:
        self._table = table
        self.codec = codec
        self.delivered = 0
        self.dropped = 0
        """Messages to clients, by what became of them."""
        self.post: Post
        """CatchUp's."""

    def run(self, name: str, arguments: list[Any]) -> Any:
        """The result. Raises ServiceError for what is no command, or not one's arguments."""
        if (known := COMMANDS.get(name)) is None:
            raise ServiceError(f"no command {name[:40]!r}: is this gateway older than who asks it?")
        function, kinds = known
        try:
            checked = msgspec.structs.astuple(msgspec.convert(arguments, kinds))
        except msgspec.ValidationError as error:
            raise ServiceError(f"{name}: {error}") from None
        try:
            return function(self, *checked)
        except sessions.SessionError as error:
            raise ServiceError(f"{name}: {error}") from None

    # ------------------------------------------------------------------ messages

    def send_to_clients(self, ids: list[str], message: Message, raw: bool) -> Sent:
        clients = self._table.clients
        return self.send([clients[id] for id in dict.fromkeys(ids) if id in clients], message, raw)

    def send_to_all(self, exclude: list[str], message: Message, raw: bool) -> Sent:
        excluded = frozenset(exclude)
        return self.send([one for one in self._table.clients.values() if one.id not in excluded], message, raw)

    def send_to_uids(self, uids: list[str], message: Message, raw: bool) -> Sent:
        return self.send(list(self._table.having(UID, uids)), message, raw)

    def post_to_uids(self, uids: list[str], message: Message, raw: bool) -> tuple[int, int, list[str]]:
        """send_to_uids() in a cluster with an outbox: with the uids of which somebody took it."""
        _check(message)
        return self.post(uids, message, raw)

    def send_to_groups(self, groups: list[str], exclude: list[str], message: Message, raw: bool) -> Sent:
        excluded = frozenset(exclude)
        members = self._table.having(GROUP, groups)
        return self.send([one for one in members if one.id not in excluded], message, raw)

    def send(self, clients: list[Client], message: Any, raw: bool) -> Sent:
        """Encoded once for all WebSockets. What one client's protocol refuses is dropped for this one alone."""
        _check(message)
        if raw:
            message = message.encode() if isinstance(message, str) else message
        prepared: Any = None
        refusal: BaseException | None = None
        delivered = 0
        for client in clients:
            connection = client.connection
            connection.cork()
            try:
                if raw:
                    taken = connection.send(message, raw=True)
                elif len(clients) > 1 and connection.protocol.name == "websocket":
                    prepared = prepared or Prepared(message)
                    taken = connection.send(prepared)
                else:
                    taken = connection.send(message)
            except BaseException as error:
                refusal = error
            else:
                delivered += taken is not False
        if refusal is not None:
            _log(refusal)
        dropped = len(clients) - delivered
        self.delivered += delivered
        self.dropped += dropped
        return delivered, dropped

    def close_clients(self, ids: list[str], message: Message) -> int:
        """With last words, or without."""
        if message is not None:
            _check(message)

        def close(client: Client) -> None:
            try:
                client.connection.close(message)
            except BaseException as error:
                _log(error)
                client.connection.close()

        return self._each(ids, close)

    def destroy_clients(self, ids: list[str]) -> int:
        return self._each(ids, lambda client: client.connection.destroy())

    def _each(self, ids: Iterable[str], do: Callable[[Client], object]) -> int:
        found = [self._table.clients[id] for id in ids if id in self._table.clients]
        for client in found:
            do(client)
        return len(found)

    # ------------------------------------------------------------------ uids and groups

    def bind_uid(self, ids: list[str], uid: str) -> int:
        _not_empty("uid", uid)
        return sum(self._table.bind(id, uid) for id in ids)

    def unbind_uid(self, ids: list[str]) -> int:
        return sum(map(self._table.unbind, ids))

    def join_group(self, ids: list[str], group: str) -> int:
        _not_empty("group", group)
        return sum(self._table.join(id, group) for id in ids)

    def leave_group(self, ids: list[str], group: str) -> int:
        return sum(self._table.leave(id, group) for id in ids)

    def ungroup(self, group: str) -> int:
        return self._table.ungroup(group)

    # ------------------------------------------------------------------ sessions

    def set_session(self, ids: list[str], session: dict[Any, Any]) -> int:
        encoded = self.codec.encode(session)
        return self._each(ids, lambda client: setattr(client, "session", encoded))

    def update_session(self, ids: list[str], update: dict[Any, Any]) -> int:
        def merge(client: Client) -> None:
            client.session = self.codec.encode(sessions.merge(self.codec.decode(client.session), update))

        return self._each(ids, merge)

    def patch_session(self, ids: list[str], changed: dict[Any, Any], removed: list[Any]) -> int:
        def patch(client: Client) -> None:
            session = self.codec.decode(client.session)
            sessions.apply(session, Patch(changed, removed))
            client.session = self.codec.encode(session)

        return self._each(ids, patch)

    def get_sessions(self, ids: list[str]) -> dict[str, Any]:
        clients = self._table.clients
        return {id: self._session_of(clients[id]) for id in ids if id in clients}

    def _session_of(self, client: Client) -> Any:
        """For the wire."""
        if self.codec is sessions.PACKED:
            return msgspec.Raw(client.session) if client.session else EMPTY
        return self.codec.decode(client.session)

    # ------------------------------------------------------------------ who is there?

    def are_online(self, ids: list[str]) -> list[str]:
        """Those who are."""
        return [id for id in ids if id in self._table.clients]

    def uids_of_clients(self, ids: list[str]) -> dict[str, str | None]:
        clients = self._table.clients
        return {id: clients[id].uid for id in ids if id in clients}

    def clients_of_uids(self, uids: list[str]) -> dict[str, list[str]]:
        index = self._table.uids
        return {uid: list(index[uid]) for uid in uids if uid in index}

    def count(self) -> int:
        return len(self._table)

    def count_groups(self, groups: list[str] | None) -> dict[str, int]:
        """None: all of them."""
        index = self._table.groups
        return {group: len(index[group]) for group in (index if groups is None else groups) if group in index}

    def list_groups(self) -> list[str]:
        return list(self._table.groups)

    def list_uids(self) -> list[str]:
        return list(self._table.uids)

    def uids_of_groups(self, groups: list[str] | None) -> dict[str, list[str]]:
        """None: of all of them. Those of whom somebody has a uid."""
        index = self._table.groups
        found = {}
        for group in index if groups is None else groups:
            if uids := {client.uid: None for client in index.get(group, {}).values() if client.uid is not None}:
                found[group] = list(uids)
        return found

    def clients_of_groups(self, groups: list[str] | None) -> dict[str, list[str]]:
        """None: of all of them."""
        index = self._table.groups
        return {group: list(index[group]) for group in (index if groups is None else groups) if group in index}

    def list_clients(self) -> list[str]:
        return list(self._table.clients)

    def select(self, fields: list[str], groups: list[str] | None) -> dict[str, list[Any]]:
        """Of each client, those of ``uid``, ``groups`` and ``session`` that are asked for, in this order.
        With ``groups``: of their members alone."""
        if unknown := set(fields).difference(FIELDS):
            raise ServiceError(f"select: no field {', '.join(map(repr, sorted(unknown)))}")
        if groups is not None:
            found = list(self._table.having(GROUP, groups))
        else:
            found = list(self._table.clients.values())
        return {client.id: [self._field(client, field) for field in fields] for client in found}

    def _field(self, client: Client, field: str) -> Any:
        if field == "session":
            return self._session_of(client)
        return client.uid if field == "uid" else sorted(client.groups)


def _check(message: Any) -> None:
    if not isinstance(message, (str, bytes)):
        raise ServiceError(f"a message is str or bytes, not {type(message).__name__}")


def _log(refusal: BaseException) -> None:
    logger.error("a client's protocol refuses a message: %r", refusal)


def _not_empty(what: str, key: str) -> None:
    if not key:
        raise ServiceError(f"an empty {what}")


def _kinds(function: Callable[..., Any]) -> Any:
    """What its arguments have to be."""
    hints = typing.get_type_hints(function)
    fields = [(name, hints[name]) for name in list(inspect.signature(function).parameters)[1:]]
    # A Struct, which msgspec has looked through before: a tuple's type costs 1.5 us more, each time.
    return msgspec.defstruct(function.__name__, fields, array_like=True, forbid_unknown_fields=True)


COMMANDS: Final = {
    name: (method, _kinds(method))
    for name, method in vars(Commands).items()
    if inspect.isfunction(method) and not name.startswith("_") and name not in ("run", "send")
}
"""By name: the method, and the kinds of its arguments."""
CHANGE_SESSIONS: Final = frozenset({"set_session", "update_session", "patch_session"})
WATCHABLE: Final = {"send_to_uids": UID, "post_to_uids": UID, "send_to_groups": GROUP}
"""What may be asked for with ``watch``: the kind of the keys in the first argument."""
