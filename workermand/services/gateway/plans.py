"""Plans: what each call of the API asks of which gateways, and what their answers come to. Pure.

inner.py carries them out on a loop, blocking.py without one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final, Generic, NamedTuple, TypeVar

import msgspec

from workermand.services.gateway import ids
from workermand.services.gateway.table import GROUP, UID

T = TypeVar("T")

Message = Any
"""str goes out as text, bytes as binary; whatever else JSON has (dict, list, number) as its text."""
Keys = str | int | Iterable[str | int]
"""One uid or group, or several. 7 and "7" are one."""


class Lost:
    """In place of an answer, when a gateway gave none."""


LOST: Final = Lost()


class Delivery(NamedTuple):
    """How far a message got. True in an ``if`` when at least one client has taken it."""

    delivered: int
    """Clients whose connection has taken it: what is sent to a connection that is about to break may still be lost."""
    dropped: int
    """Clients whose send buffer was full: they do not read."""
    lost: int
    """Gateways that did not answer: what became of it there is not known."""
    kept: int = 0
    """Uids of send_to_uid() that nobody took it for: it waits for them in the outbox."""

    def __bool__(self) -> bool:
        return self.delivered > 0


class Posted(NamedTuple):
    """What gateways say of a message to uids, when there is an outbox."""

    delivery: Delivery
    missed: list[str]
    """Uids of which nobody took it."""


class Plan(NamedTuple, Generic[T]):
    """One call."""

    what: str
    """The method, for logs."""
    command: str
    arguments: tuple[Any, ...]
    combine: Callable[[list[Any]], T]
    """Of the answers that came: one for each gateway that was asked."""
    clients: tuple[str, ...] | None = None
    """It is asked of the gateways of these clients: each gets its own as the first argument. None: of all,"""
    keys: tuple[str, ...] | None = None
    """but of those where nobody has one of these uids or groups: the others get them as the first argument."""
    kind: str = ""
    """UID or GROUP, of the keys."""
    tolerant: bool = False
    """A gateway that gives no answer gives LOST; else it is an error."""
    keeps: bool = False
    """What nobody takes goes to the outbox, if there is one. The arguments are a message, and whether it is raw."""


# ---------------------------------------------------------------------------------------------------- messages


def send_to_all(
    message: Message, client_id_array: Iterable[str] | None, exclude: Iterable[str], raw: bool
) -> Plan[Delivery]:
    text = encoded(message)
    excluded = clients(exclude)
    if client_id_array is None:
        return Plan("send_to_all", "send_to_all", (excluded, text, raw), delivery, tolerant=True)
    chosen = tuple(id for id in clients(client_id_array) if id not in frozenset(excluded))
    return Plan("send_to_all", "send_to_clients", (text, raw), delivery, chosen, tolerant=True)


def send_to_client(client_id: str, message: Message, raw: bool) -> Plan[Delivery]:
    return Plan(
        "send_to_client", "send_to_clients", (encoded(message), raw), delivery, clients(client_id), tolerant=True
    )


def send_to_uid(uid: Keys, message: Message, raw: bool) -> Plan[Delivery]:
    uids = keys("uid", uid)
    arguments = (encoded(message), raw)
    return Plan("send_to_uid", "send_to_uids", arguments, delivery, None, uids, UID, tolerant=True, keeps=True)


def posting(plan: Plan[Delivery], asked: Sequence[str]) -> Plan[Posted]:
    """The same send_to_uid(), so that it is known which uids nobody took it for. Gateways are asked for ``asked``."""
    uids = plan.keys or ()

    def posted(answers: list[Any]) -> Posted:
        taken = {uid for answer in answers if answer is not LOST for uid in answer[2]}
        return Posted(delivery(answers), [uid for uid in uids if uid not in taken])

    return Plan(plan.what, "post_to_uids", plan.arguments, posted, None, tuple(asked), UID, tolerant=True)


def send_to_group(group: Keys, message: Message, exclude: Iterable[str], raw: bool) -> Plan[Delivery]:
    arguments = (clients(exclude), encoded(message), raw)
    groups = keys("group", group)
    return Plan("send_to_group", "send_to_groups", arguments, delivery, None, groups, GROUP, tolerant=True)


def close_client(client_id: str, message: Message | None) -> Plan[bool]:
    words = None if message is None else encoded(message)
    return Plan("close_client", "close_clients", (words,), any_of, clients(client_id))


def destroy_client(client_id: str) -> Plan[bool]:
    return Plan("destroy_client", "destroy_clients", (), any_of, clients(client_id))


# ---------------------------------------------------------------------------------------------------- uids, groups


def bind_uid(client_id: str, uid: str | int) -> Plan[bool]:
    return Plan("bind_uid", "bind_uid", (key("uid", uid),), any_of, clients(client_id))


def unbind_uid(client_id: str) -> Plan[bool]:
    return Plan("unbind_uid", "unbind_uid", (), any_of, clients(client_id))


def join_group(client_id: str, group: str | int) -> Plan[bool]:
    return Plan("join_group", "join_group", (key("group", group),), any_of, clients(client_id))


def leave_group(client_id: str, group: str | int) -> Plan[bool]:
    return Plan("leave_group", "leave_group", (key("group", group),), any_of, clients(client_id))


def ungroup(group: str | int) -> Plan[int]:
    return Plan("ungroup", "ungroup", (key("group", group),), sum)


# ---------------------------------------------------------------------------------------------------- sessions


def set_session(client_id: str, session: Mapping[Any, Any]) -> Plan[bool]:
    return Plan("set_session", "set_session", (dict(session),), any_of, clients(client_id))


def update_session(client_id: str, update: Mapping[Any, Any]) -> Plan[bool]:
    return Plan("update_session", "update_session", (dict(update),), any_of, clients(client_id))


def patch_session(client_id: str, changed: dict[Any, Any], removed: list[Any]) -> Plan[bool]:
    return Plan("patch_session", "patch_session", (changed, removed), any_of, clients(client_id))


def get_session(client_id: str) -> Plan[dict[Any, Any] | None]:
    def one(answers: list[Any]) -> dict[Any, Any] | None:
        return next((as_dict(session) for answer in answers for session in as_dict(answer).values()), None)

    return Plan("get_session", "get_sessions", (), one, clients(client_id))


# ---------------------------------------------------------------------------------------------------- who is there?


def is_online(client_id: str) -> Plan[bool]:
    return Plan("is_online", "are_online", (), any_of, clients(client_id))


def client_ids_by_uids(uids: Keys) -> Plan[dict[str, list[str]]]:
    wanted = keys("uid", uids)

    def by_uid(answers: list[Any]) -> dict[str, list[str]]:
        return joined(answers, dict.fromkeys(wanted, ()))

    return Plan("batch_get_client_id_by_uid", "clients_of_uids", (list(wanted),), by_uid)


def client_ids_by_uid(uid: str | int) -> Plan[list[str]]:
    wanted = key("uid", uid)
    return Plan(
        "get_client_id_by_uid", "clients_of_uids", ([wanted],), lambda found: joined(found, {wanted: ()})[wanted]
    )


def are_uids_online(uids: Keys) -> Plan[dict[str, bool]]:
    plan = client_ids_by_uids(uids)

    def online(answers: list[Any]) -> dict[str, bool]:
        return {uid: bool(ids) for uid, ids in plan.combine(answers).items()}

    return Plan("is_uids_online", plan.command, plan.arguments, online)


def is_uid_online(uid: str | int) -> Plan[bool]:
    wanted = key("uid", uid)
    return Plan("is_uid_online", "clients_of_uids", ([wanted],), any_of)


def uid_by_client_id(client_id: str) -> Plan[str | None]:
    def one(answers: list[Any]) -> str | None:
        return next((uid for answer in answers for uid in as_dict(answer).values()), None)

    return Plan("get_uid_by_client_id", "uids_of_clients", (), one, clients(client_id))


def count_clients() -> Plan[int]:
    return Plan("get_all_client_id_count", "count", (), sum)


def count_groups(groups: Keys | None) -> Plan[dict[str, int]]:
    wanted = None if groups is None else keys("group", groups)

    def total(answers: list[Any]) -> dict[str, int]:
        counts = dict.fromkeys(wanted or (), 0)
        for answer in answers:
            for group, count in as_dict(answer).items():
                counts[group] = counts.get(group, 0) + count
        return counts

    return Plan(
        "batch_get_client_id_count_by_group", "count_groups", (None if wanted is None else list(wanted),), total
    )


def count_group(group: str | int) -> Plan[int]:
    wanted = key("group", group)
    return Plan(
        "get_client_id_count_by_group",
        "count_groups",
        ([wanted],),
        lambda answers: sum(as_dict(answer).get(wanted, 0) for answer in answers),
    )


def list_clients() -> Plan[list[str]]:
    return Plan("get_all_client_id_list", "list_clients", (), chained)


def list_uids() -> Plan[list[str]]:
    return Plan("get_all_uid_list", "list_uids", (), distinct)


def count_uids() -> Plan[int]:
    return Plan("get_all_uid_count", "list_uids", (), lambda answers: len(distinct(answers)))


def list_groups() -> Plan[list[str]]:
    return Plan("get_all_group_id_list", "list_groups", (), distinct)


def clients_of_groups(groups: Keys) -> Plan[list[str]]:
    """Each once."""
    wanted = list(keys("group", groups))
    return Plan(
        "get_client_id_list_by_group",
        "clients_of_groups",
        (wanted,),
        lambda answers: distinct([ids for answer in answers for ids in as_dict(answer).values()]),
    )


def uids_of_groups(groups: Keys) -> Plan[list[str]]:
    wanted = list(keys("group", groups))
    return Plan(
        "get_uid_list_by_group",
        "uids_of_groups",
        (wanted,),
        lambda answers: distinct([uids for answer in answers for uids in as_dict(answer).values()]),
    )


def count_uids_of_groups(groups: Keys) -> Plan[int]:
    plan = uids_of_groups(groups)
    return Plan("get_uid_count_by_group", plan.command, plan.arguments, lambda answers: len(plan.combine(answers)))


def all_group_uid_counts() -> Plan[dict[str, int]]:
    return Plan(
        "get_all_group_uid_count",
        "uids_of_groups",
        (None,),
        lambda answers: {group: len(uids) for group, uids in joined(answers).items()},
    )


def all_group_uids() -> Plan[dict[str, list[str]]]:
    return Plan("get_all_group_uid_list", "uids_of_groups", (None,), joined)


def all_group_clients() -> Plan[dict[str, list[str]]]:
    return Plan("get_all_group_client_id_list", "clients_of_groups", (None,), joined)


def sessions(groups: Keys | None) -> Plan[dict[str, dict[Any, Any]]]:
    wanted = None if groups is None else list(keys("group", groups))

    def all_of(answers: list[Any]) -> dict[str, dict[Any, Any]]:
        return {id: as_dict(fields[0]) for answer in answers for id, fields in as_dict(answer).items()}

    return Plan("get_all_client_sessions", "select", (["session"], wanted), all_of)


# ---------------------------------------------------------------------------------------------------- arguments


def encoded(message: Message) -> str | bytes:
    """Raises TypeError."""
    if isinstance(message, (str, bytes)):
        return message
    if isinstance(message, (bytearray, memoryview)):
        return bytes(message)
    return msgspec.json.encode(message).decode()


def key(what: str, value: str | int) -> str:
    """Raises TypeError, and ValueError for an empty one."""
    if isinstance(value, bool) or not isinstance(value, (str, int)):
        raise TypeError(f"a {what} is str or int, not {type(value).__name__}")
    if value == "":
        raise ValueError(f"an empty {what}")
    return str(value)


def keys(what: str, value: Keys) -> tuple[str, ...]:
    """Each once."""
    values = [value] if isinstance(value, (str, int)) else value
    return tuple(dict.fromkeys(key(what, one) for one in values))


def clients(value: str | Iterable[str]) -> tuple[str, ...]:
    """Each once; what is no client_id is nobody's."""
    if isinstance(value, str):
        return (value,) if ids.is_id(value) else ()
    return tuple(dict.fromkeys(id for id in value if ids.is_id(id)))


# ---------------------------------------------------------------------------------------------------- answers


def delivery(answers: list[Any]) -> Delivery:
    delivered = dropped = lost = 0
    for answer in answers:
        if answer is LOST:
            lost += 1
        else:
            delivered += answer[0]
            dropped += answer[1]
    return Delivery(delivered, dropped, lost)


def any_of(answers: list[Any]) -> bool:
    return any(answers)


def chained(answers: list[Any]) -> list[str]:
    return [one for answer in answers for one in answer]


def distinct(answers: Sequence[Any]) -> list[str]:
    return list(dict.fromkeys(one for answer in answers for one in answer))


def joined(answers: list[Any], wanted: Mapping[str, Sequence[str]] | None = None) -> dict[str, list[str]]:
    """Lists by key; keys of ``wanted`` are there in any case. Nobody twice in a list."""
    whole: dict[str, dict[str, None]] = {key: {} for key in wanted or ()}
    for answer in answers:
        for key_, values in as_dict(answer).items():
            whole.setdefault(key_, {}).update(dict.fromkeys(values))
    return {key_: list(values) for key_, values in whole.items()}


def as_dict(answer: Any) -> dict[Any, Any]:
    """PHP's empty array is a list."""
    return answer if isinstance(answer, dict) else dict(enumerate(answer or ()))
