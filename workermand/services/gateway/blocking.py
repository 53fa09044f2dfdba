"""BlockingGatewayClient: the cluster for programs without an event loop: Django, Flask, scripts, cron jobs.

    gateway = BlockingGatewayClient(register="register://127.0.0.1:1236", secret="...")
    sent = gateway.send_to_uid(7, "Your order has left.")

The methods are those of api.py, and return the result itself. One such object may serve a whole program: connections
are kept, and made anew when they broke.
"""

from __future__ import annotations

import logging
import ssl
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any, Final, TypeVar

from workermand.services.gateway import ids, messages, plans, registry, transport
from workermand.services.gateway.api import Session
from workermand.services.gateway.commands import CHANGE_SESSIONS
from workermand.services.gateway.inner import address_of
from workermand.services.gateway.messages import Place
from workermand.services.gateway.plans import LOST, Delivery, Keys, Message, Plan
from workermand.services.links.blocking import BlockingLink
from workermand.services.links.errors import ServiceError, TimedOut, Unreachable

logger = logging.getLogger(__name__)

T = TypeVar("T")

FRESH: Final = 1.0
"""Seconds that the Registers' answer is believed."""
SLOW: Final = 0.5
"""Seconds: a gateway that fails after more than that is left alone for"""
PAUSE: Final = 5.0
"""seconds: one that stands still must not hold up every page of a site."""


class BlockingGatewayClient:
    """Process: any, outside of the daemon above all: inside of one its calls would hold up the loop. Thread: any; one
    call at a time. Raises what api.py says; Unreachable, TimedOut and Unauthorized from the call itself."""

    def __init__(
        self,
        register: str | Iterable[str] = "",
        secret: str = "",
        *,
        bus: str = "",
        timeout: float = 10.0,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        """As GatewayClient has it. Nothing is connected before the first call. Raises ConfigError."""
        transport.refuse_beside(bus, register, secret, tls)
        self._bus = transport.thread(bus, timeout) if bus else None
        servers = [] if bus else registry.servers(register, secret)
        self._secret = servers[0].secret if servers else ""
        self._timeout = timeout
        self._tls = tls
        self._registers = [
            BlockingLink(server.address, messages.REGISTER, secret=server.secret, tls=tls, timeout=timeout)
            for server in servers
        ]
        self._gates: dict[Place, BlockingLink] = {}
        self._outboxes: dict[BlockingLink, tuple[int, bool]] = {}
        """Of each Register: the connection on which it was asked, and whether it keeps one."""
        self._away: dict[BlockingLink, float] = {}
        """Until when each is left alone."""
        self._asked = 0.0
        self._lock = threading.RLock()

    def close(self) -> None:
        if self._bus is not None:
            self._bus.close()
        with self._lock:
            for link in [*self._registers, *self._gates.values()]:
                link.close()
            self._gates.clear()
            self._away.clear()
            self._asked = 0.0

    def __enter__(self) -> BlockingGatewayClient:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # ------------------------------------------------------------------ plans

    def _run(self, plan: Plan[T]) -> T:
        if self._bus is not None:
            result: T = self._bus.run(plan)
            return result
        with self._lock:
            self._look()
            if plan.keeps and (outboxes := [link for link, (_, keeps) in self._outboxes.items() if keeps]):
                delivery: Any = self._post(plan, outboxes)
                return delivery  # type: ignore[no-any-return]
            return self._run_on_gates(plan)

    def _post(self, plan: Plan[Any], outboxes: list[BlockingLink]) -> Delivery:
        """What nobody takes goes to the first outbox that takes it."""
        delivery, missed = self._run_on_gates(plans.posting(plan, plan.keys or ()))
        for link in outboxes if missed else ():
            try:
                return delivery._replace(kept=link.request(messages.PUT, missed, *plan.arguments))
            except ServiceError as error:
                logger.warning("outbox: a message for %s: %s", ", ".join(missed[:3]), error)
        return delivery

    def _run_on_gates(self, plan: Plan[T]) -> T:
        """All are asked before the first answer is waited for."""
        deadline = time.monotonic() + self._timeout
        asked = []
        for link, arguments in self._calls(plan):
            stamp = (0,) if plan.command in CHANGE_SESSIONS else ()
            op = messages.CHANGE if stamp else messages.CALL
            ask = partial(link.ask, op, *stamp, plan.command, arguments, deadline=deadline)
            asked.append((link, self._try(plan, link, ask)))
        return plan.combine(
            [
                number if number is LOST else self._try(plan, link, partial(link.answer, number, deadline=deadline))
                for link, number in asked
            ]
        )

    def _try(self, plan: Plan[Any], link: BlockingLink, step: Callable[[], Any]) -> Any:
        """LOST when it has failed, if the plan is content with that."""
        began = time.monotonic()
        try:
            if began < self._away.get(link, 0.0):
                raise Unreachable(f"the gateway at {link.address} has not answered a moment ago")
            return step()
        except (Unreachable, TimedOut):
            if time.monotonic() - began > SLOW:
                self._away[link] = time.monotonic() + PAUSE
            if plan.tolerant:
                return LOST
            raise

    def _calls(self, plan: Plan[Any]) -> list[tuple[BlockingLink, tuple[Any, ...]]]:
        if plan.clients is not None:
            shares: dict[Place, list[str]] = {}
            for id in plan.clients:
                for place in self._gates:
                    if place.prefix in (id[: ids.TAG], id[: ids.PHP_PREFIX]):
                        shares.setdefault(place, []).append(id)
            return [(self._gates[place], (share, *plan.arguments)) for place, share in shares.items()]
        first = () if plan.keys is None else (list(plan.keys),)
        return [(link, (*first, *plan.arguments)) for link in self._gates.values()]

    def _look(self) -> None:
        """Which gateways are there? One Register that answers will do; of several the answers are taken together."""
        if time.monotonic() - self._asked < FRESH and self._asked:
            return
        places: set[Place] = set()
        answered, failure = False, None
        for register in self._registers:
            try:
                places.update(messages.places(register.request(messages.LIST)))
                answered = True
                self._look_for_outbox(register)
            except (Unreachable, TimedOut) as error:
                failure = error
        if not answered:
            if self._gates:  # what they have said last still holds
                return
            raise failure or ServiceError("no Register")
        self._asked = time.monotonic()
        for place in self._gates.keys() - places:
            link = self._gates.pop(place)
            link.close()
            self._away.pop(link, None)
        for place in places - self._gates.keys():
            if place.uri:
                self._gates[place] = BlockingLink(
                    address_of(place),
                    messages.service(place.prefix),
                    secret=self._secret,
                    tls=self._tls,
                    timeout=self._timeout,
                )

    def _look_for_outbox(self, register: BlockingLink) -> None:
        """Once for each connection."""
        if self._outboxes.get(register, (0, False))[0] != register.connects:
            try:
                keeps = register.request(messages.OUTBOX) is True
            except (Unreachable, TimedOut):
                raise
            except ServiceError:  # of an earlier release
                keeps = False
            self._outboxes[register] = register.connects, keeps

    # ------------------------------------------------------------------ messages

    def send_to_all(
        self,
        message: Message,
        client_id_array: Iterable[str] | None = None,
        exclude_client_id: Iterable[str] = (),
        raw: bool = False,
    ) -> Delivery:
        """To all clients, or those of ``client_id_array``; an empty one is nobody."""
        return self._run(plans.send_to_all(message, client_id_array, exclude_client_id, raw))

    def send_to_client(self, client_id: str, message: Message, raw: bool = False) -> Delivery:
        return self._run(plans.send_to_client(client_id, message, raw))

    def send_to_uid(self, uid: Keys, message: Message, raw: bool = False) -> Delivery:
        """To all clients with this uid, or with one of these. What nobody takes goes to the outbox, if there is one."""
        return self._run(plans.send_to_uid(uid, message, raw))

    def send_to_group(
        self, group: Keys, message: Message, exclude_client_id: Iterable[str] = (), raw: bool = False
    ) -> Delivery:
        """To all clients in this group, or in one of these: each gets it once from its gateway."""
        return self._run(plans.send_to_group(group, message, exclude_client_id, raw))

    def close_client(self, client_id: str, message: Message | None = None) -> bool:
        """Sends last words, then closes. False: it was not there."""
        return self._run(plans.close_client(client_id, message))

    def destroy_client(self, client_id: str) -> bool:
        """At once; what is unsent is lost. Workerman: destoryClient()."""
        return self._run(plans.destroy_client(client_id))

    # ------------------------------------------------------------------ uids and groups

    def bind_uid(self, client_id: str, uid: str | int) -> bool:
        """A client has one uid, the last one; a uid has any number of clients. False: the client is not there."""
        return self._run(plans.bind_uid(client_id, uid))

    def unbind_uid(self, client_id: str, uid: str | int | None = None) -> bool:
        """Whatever uid it has; ``uid`` is for those who know Workerman's, which ignores it too."""
        return self._run(plans.unbind_uid(client_id))

    def join_group(self, client_id: str, group: str | int) -> bool:
        """It leaves when it goes. False: the client is not there."""
        return self._run(plans.join_group(client_id, group))

    def leave_group(self, client_id: str, group: str | int) -> bool:
        return self._run(plans.leave_group(client_id, group))

    def ungroup(self, group: str | int) -> int:
        """Nobody is in it any more. How many were."""
        return self._run(plans.ungroup(group))

    # ------------------------------------------------------------------ sessions

    def set_session(self, client_id: str, session: Mapping[Any, Any]) -> bool:
        """In place of the former one. False: the client is not there."""
        return self._run(plans.set_session(client_id, session))

    def update_session(self, client_id: str, session: Mapping[Any, Any]) -> bool:
        """Laid over the former one; dicts in dicts are merged as well."""
        return self._run(plans.update_session(client_id, session))

    def get_session(self, client_id: str) -> Session | None:
        """None: the client is not there."""
        return self._run(plans.get_session(client_id))

    # ------------------------------------------------------------------ who is there?

    def is_online(self, client_id: str) -> bool:
        return self._run(plans.is_online(client_id))

    def is_uid_online(self, uid: str | int) -> bool:
        return self._run(plans.is_uid_online(uid))

    def is_uids_online(self, uids: Keys) -> dict[str, bool]:
        return self._run(plans.are_uids_online(uids))

    def get_client_id_by_uid(self, uid: str | int) -> list[str]:
        return self._run(plans.client_ids_by_uid(uid))

    def batch_get_client_id_by_uid(self, uids: Keys) -> dict[str, list[str]]:
        return self._run(plans.client_ids_by_uids(uids))

    def get_uid_by_client_id(self, client_id: str) -> str | None:
        """None: it has none, or is not there."""
        return self._run(plans.uid_by_client_id(client_id))

    def get_client_id_count_by_group(self, group: str | int = "") -> int:
        """ "": of all clients."""
        return self._run(plans.count_group(group) if group != "" else plans.count_clients())

    get_client_count_by_group = get_client_id_count_by_group

    def batch_get_client_id_count_by_group(self, groups: Keys) -> dict[str, int]:
        return self._run(plans.count_groups(groups))

    def get_client_id_list_by_group(self, group: Keys) -> list[str]:
        return self._run(plans.clients_of_groups(group))

    def get_client_sessions_by_group(self, group: Keys) -> dict[str, Session]:
        """By client_id."""
        return self._run(plans.sessions(group))

    def get_all_client_id_count(self) -> int:
        return self._run(plans.count_clients())

    get_all_client_count = get_all_client_id_count

    def get_all_client_id_list(self) -> list[str]:
        return self._run(plans.list_clients())

    def get_all_client_sessions(self, group: Keys = "") -> dict[str, Session]:
        """By client_id. All at once: of many clients that is much."""
        return self._run(plans.sessions(None if group == "" else group))

    def get_uid_list_by_group(self, group: Keys) -> list[str]:
        return self._run(plans.uids_of_groups(group))

    def get_uid_count_by_group(self, group: Keys) -> int:
        return self._run(plans.count_uids_of_groups(group))

    def get_all_uid_list(self) -> list[str]:
        return self._run(plans.list_uids())

    def get_all_uid_count(self) -> int:
        return self._run(plans.count_uids())

    def get_all_group_id_list(self) -> list[str]:
        return self._run(plans.list_groups())

    def get_all_group_uid_list(self) -> dict[str, list[str]]:
        """Of groups in which somebody has a uid."""
        return self._run(plans.all_group_uids())

    def get_all_group_uid_count(self) -> dict[str, int]:
        return self._run(plans.all_group_uid_counts())

    def get_all_group_client_id_list(self) -> dict[str, list[str]]:
        return self._run(plans.all_group_clients())

    def get_all_group_client_id_count(self) -> dict[str, int]:
        return self._run(plans.count_groups(None))
