"""Mesh: the links of one process to all gateways, and how the plans of the API go over them.

It knows the gateways from a Registry, and connects to each. Whatever is asked of one gateway goes over one link, so
that it is done there in the order in which it was called for. A send to a uid or a group goes to all gateways the first
time, with the wish to be told whether somebody has it there; from then on only where somebody has.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final, Protocol, TypeVar

from workermand.services.gateway import ids, messages, sessions
from workermand.services.gateway.commands import CHANGE_SESSIONS
from workermand.services.gateway.keeping import Kept
from workermand.services.gateway.messages import Place
from workermand.services.gateway.outbox.posting import Outboxes, Poster
from workermand.services.gateway.php import registry as phpregistry
from workermand.services.gateway.php.link import PhpLink
from workermand.services.gateway.php.registry import PhpRegistry
from workermand.services.gateway.php.registry import Settings as Php
from workermand.services.gateway.plans import LOST, Plan
from workermand.services.gateway.registry import Registry
from workermand.services.gateway.table import GROUP, UID
from workermand.services.links import address
from workermand.services.links import wire as links
from workermand.services.links.address import Address, Server
from workermand.services.links.errors import ServiceError
from workermand.services.links.later import Later

logger = logging.getLogger(__name__)

T = TypeVar("T")

WATCHED: Final = 10_000
"""Uids and groups, of each gateway, of which this process knows whether somebody has them."""

GIVES: Final = {"bind_uid": UID, "join_group": GROUP}
"""Commands that give somebody a uid or a group: its kind."""

Asked = tuple["Gate", tuple[Any, ...], Sequence[str]]
"""A gateway, the arguments for it, and of which keys it shall tell news."""
OnEvent = Callable[["Gate", list[Any]], None]
OnChange = Callable[["Gate", int, str, tuple[Any, ...], Later[Any]], None]
"""A session is about to be changed: the stamp, the command and its arguments, its outcome."""


class Line(Protocol):
    """A link to one gateway, which comes back by itself."""

    @property
    def up(self) -> bool: ...
    def request(
        self, op: int, *rest: Any, timeout: float | None = None, outcome: Later[Any] | None = None
    ) -> Later[Any]: ...
    def send(self, frame: bytes) -> bool: ...
    async def tried(self) -> None: ...
    async def close(self) -> None: ...


class Finder(Protocol):
    """What knows which gateways there are."""

    places: set[Place]

    async def first(self) -> None: ...
    async def close(self) -> None: ...


class Gate:
    """One gateway. Thread: the one that runs the loop."""

    def __init__(self, mesh: Mesh, place: Place) -> None:
        self.place = place
        self.codec = sessions.PHP if place.php else sessions.PACKED
        """How it writes sessions."""
        self._mesh = mesh
        self._stamps = itertools.count(1)
        self._known: OrderedDict[tuple[str, str], bool] = OrderedDict()
        """Whether somebody there has a key, the one asked for last at the end. What is not here is not known."""
        self._given: dict[tuple[str, str], int] = {}
        """Keys that this process gives to somebody there, and how often just now."""
        self.link: Line = mesh.connect(place, on_message=self._hear, on_up=lambda: mesh.on_up(self), on_down=self._down)

    def __repr__(self) -> str:
        return f"<gateway at {self.uri}>"

    @property
    def uri(self) -> str:
        """Its inner address."""
        return self.place.uri or f"tcp://{self.place.php}"

    def call(self, command: str, arguments: tuple[Any, ...], outcome: Outcome[Any], watch: Sequence[str] = ()) -> None:
        """See commands.py."""
        if command in CHANGE_SESSIONS:
            self.change(command, arguments).add_done_callback(outcome.follow)
        elif watch:
            self.link.request(messages.CALL, command, arguments, watch, outcome=outcome)
        elif command in GIVES:
            self._give((GIVES[command], arguments[1]), command, arguments).add_done_callback(outcome.follow)
        else:
            self.link.request(messages.CALL, command, arguments, outcome=outcome)

    def save(self, client_id: str, patch: sessions.Patch, session: dict[Any, Any]) -> None:
        """What an event has changed of its client's session, and all of it. PHP knows no patches."""
        if self.place.uri:
            self.change("patch_session", ([client_id], *patch))
        elif patch.removed or any(isinstance(value, (dict, list)) for value in patch.changed.values()):
            self.change("set_session", ([client_id], session))
        else:
            self.change("update_session", ([client_id], patch.changed))

    def _give(self, key: tuple[str, str], command: str, arguments: tuple[Any, ...]) -> Later[Any]:
        """Somebody there gets this key: what is sent to it right behind this must not pass him over, whatever news are
        on their way."""
        self._given[key] = self._given.get(key, 0) + 1

        def known(_later: asyncio.Future[Any]) -> None:
            self._given[key] -= 1
            if not self._given[key]:
                del self._given[key]

        later = self.link.request(messages.CALL, command, arguments)
        later.add_done_callback(known)
        return later

    def change(self, command: str, arguments: tuple[Any, ...]) -> Later[Any]:
        """Of a session. Who waits for the plan may give up; what becomes of the change is followed all the same."""
        stamp = next(self._stamps)
        later = self.link.request(messages.CHANGE, stamp, command, arguments)
        self._mesh.on_change(self, stamp, command, arguments, later)
        return later

    def wanted(self, kind: str, keys: Iterable[str]) -> tuple[list[str], list[str]]:
        """Of these keys, those that somebody there may have, and those of which nothing is known: from now on they are
        taken for present, until the gateway says no."""
        known = self._known
        maybe, unknown = [], []
        for key in keys:
            present = known.get((kind, key))
            if present is None:
                unknown.append(key)
                if self.link.up:
                    self._learn(kind, key)
            else:
                known.move_to_end((kind, key))
            if present is not False or (kind, key) in self._given:
                maybe.append(key)
        return maybe, unknown

    def _learn(self, kind: str, key: str) -> None:
        self._known[kind, key] = True
        if len(self._known) > WATCHED:
            key_, _present = self._known.popitem(last=False)
            self._forget(*key_)

    def _forget(self, kind: str, key: str) -> None:
        """It need not tell of this one any more."""
        self.link.send(links.pack([messages.UNWATCH, 0, kind, key]))

    def _hear(self, message: list[Any]) -> None:
        match message:
            case [messages.NEWS, _, str(kind), str(key), bool(present)]:
                if (kind, key) in self._known:
                    self._known[kind, key] = present
            case [messages.EVENT, *_]:
                self._mesh.on_event(self, message)

    def _down(self) -> None:
        self._known.clear()
        self._mesh.on_down(self)
        self._mesh.has_gone_down(self)


class Mesh:
    """Of one process. Thread: the one that runs the loop."""

    def __init__(
        self,
        registers: list[Server],
        *,
        php: Php | None = None,
        tls: Any = None,
        ping: float = 5.0,
        timeout: float = 10.0,
        send_buffer: int = 16 * 1024 * 1024,
        on_event: OnEvent = lambda gate, message: None,
        on_change: OnChange = lambda gate, stamp, command, arguments, outcome: None,
        on_up: Callable[[Gate], None] = lambda gate: None,
        on_down: Callable[[Gate], None] = lambda gate: None,
    ) -> None:
        """``php``: gateways in PHP are joined as well. ``timeout``: seconds for every call. Raises ConfigError."""
        self.gates: dict[Place, Gate] = {}
        self.on_event = on_event
        self.on_change = on_change
        self.on_up = on_up
        self.on_down = on_down
        self._options = {
            "secret": registers[0].secret if registers else "",
            "tls": tls,
            "ping": ping,
            "timeout": timeout,
            "send_buffer": send_buffer,
        }
        self._by_prefix: dict[str, list[Gate]] = {}
        self._endings: set[asyncio.Task[None]] = set()
        self._closed = False
        outboxes = Outboxes()
        self._outboxes = outboxes.ways
        self._poster = Poster(outboxes)
        self._php = php
        self._passed_over = False
        self._registries = self._find(registers, outboxes, tls, ping)

    async def ready(self, patience: float) -> bool:
        """Waits for a Register's answer, and until each gateway of it was tried. False: not within ``patience``
        seconds; then it goes on in the background. Raises Unauthorized."""
        try:
            async with asyncio.timeout(patience):
                await asyncio.gather(*(registry.first() for registry in self._registries))
                await asyncio.gather(*(gate.link.tried() for gate in self.gates.values()))
        except TimeoutError:
            return False
        return True

    def volunteer(self, *, yes: bool) -> None:
        """Takes clients that are offered, or no more of them: on a bus."""

    async def close(self) -> None:
        await self._poster.idle()
        self._closed = True
        await asyncio.gather(*(registry.close() for registry in self._registries))
        await asyncio.gather(*(gate.link.close() for gate in self.gates.values()), *self._endings)
        self.gates.clear()
        self._by_prefix.clear()

    # ------------------------------------------------------------------ the gateways

    def gates_of(self, client_id: str) -> list[Gate]:
        """Where this client is: at most one, unless two have made up the same tag."""
        by_prefix = self._by_prefix
        return [
            *by_prefix.get(client_id[: ids.TAG], ()),
            *by_prefix.get(client_id[: ids.PHP_PREFIX], ()),
        ]

    def has_gone_down(self, gate: Gate) -> None:
        """If no Register knows it, for good."""
        if gate.place not in self._places():
            self._drop(gate)

    def _places(self) -> set[Place]:
        """Those to be connected to, as the Registers say."""
        said = set().union(*(registry.places for registry in self._registries))
        ours = {place.php for place in said if place.uri}  # PHP's Registers know them too
        return {place for place in said if place.uri or (place.php not in ours and self._joins(place))}

    def _joins(self, place: Place) -> bool:
        """A gateway in PHP."""
        if self._php is not None and place.prefix:
            return True
        if not self._passed_over:
            self._passed_over = True
            why = "an address that is not IPv4" if self._php else "options.php of who is to join it are missing"
            logger.warning("the gateway in PHP at %s is passed over: %s", place.php, why)
        return False

    def _update(self, _said: set[Place]) -> None:
        places = self._places()
        for place in places:
            if place not in self.gates:
                gate = self.gates[place] = self._make(place)
                self._by_prefix.setdefault(place.prefix, []).append(gate)
        ours = {place.php for place in places if place.uri}
        for gate in list(self.gates.values()):
            if gate.place not in places and (not gate.link.up or (not gate.place.uri and gate.place.php in ours)):
                self._drop(gate)

    def _make(self, place: Place) -> Gate:
        return Gate(self, place)

    def _find(self, registers: list[Server], outboxes: Outboxes, tls: Any, ping: float) -> list[Finder]:
        found: list[Finder] = []
        if self._php is not None and (named := phpregistry.addresses(self._php)):
            found.append(PhpRegistry(named, self._php.secret_key, on_places=self._update))
        if registers or not found:
            found.append(Registry(registers, on_places=self._update, outboxes=outboxes, tls=tls, ping=ping))
        return found

    def connect(self, place: Place, **callbacks: Any) -> Line:
        """A link for a gate: on_message, on_up and on_down as Kept has them."""
        if place.uri or self._php is None:
            return Kept(address_of(place), messages.service(place.prefix), **callbacks, **self._options)
        options = {**self._options, "secret": self._php.secret_key, "tls": None}
        return Kept(address_of(place), "gateway in PHP", kind=PhpLink, **callbacks, **options)

    def _drop(self, gate: Gate) -> None:
        if self._closed or self.gates.pop(gate.place, None) is None:
            return
        self._by_prefix[gate.place.prefix].remove(gate)
        if not self._by_prefix[gate.place.prefix]:
            del self._by_prefix[gate.place.prefix]
        ending = asyncio.get_running_loop().create_task(gate.link.close())
        self._endings.add(ending)
        ending.add_done_callback(self._endings.discard)

    # ------------------------------------------------------------------ plans

    def run(self, plan: Plan[T]) -> Later[T]:
        """Sends what there is to send before it returns."""
        if self._outboxes and plan.keeps:
            return self._poster.post(plan, self.run)
        asked = self._asked(plan)
        outcome = Outcome(plan, len(asked))
        self._send(plan, asked, outcome)
        return outcome

    def _asked(self, plan: Plan[Any]) -> list[Asked]:
        if plan.clients is not None:
            shares: dict[Gate, list[str]] = {}
            for id in plan.clients:
                for gate in self.gates_of(id):
                    shares.setdefault(gate, []).append(id)
            return [(gate, (share, *plan.arguments), ()) for gate, share in shares.items()]
        if plan.keys is not None:
            wanted = [(gate, *gate.wanted(plan.kind, plan.keys)) for gate in self.gates.values()]
            return [(gate, (maybe, *plan.arguments), unknown) for gate, maybe, unknown in wanted if maybe]
        return [(gate, plan.arguments, ()) for gate in self.gates.values()]

    def _send(self, plan: Plan[Any], asked: list[Asked], outcome: Outcome[Any]) -> None:
        for gate, arguments, watch in asked:
            gate.call(plan.command, arguments, outcome, watch)


class Outcome(Later[T]):
    """What a plan comes to. Each gateway that was asked fulfils it with its answer, or fails it; the last decides."""

    __slots__ = ("_answers", "_missing", "_plan")

    def __init__(self, plan: Plan[T], missing: int) -> None:
        super().__init__(plan.what)
        self._plan = plan
        self._missing = missing
        self._answers: list[Any] = []
        if not missing:
            self._settle()

    def fulfil(self, answer: Any) -> None:
        self._answers.append(answer)
        self._missing -= 1
        if not self._missing:
            self._settle()

    def fail(self, error: Exception) -> None:
        """At once, unless a gateway less is none too few."""
        if self._plan.tolerant and isinstance(error, ServiceError):
            self.fulfil(LOST)
        else:
            super().fail(error)

    def follow(self, call: asyncio.Future[Any]) -> None:
        """When it has ended."""
        error = call.exception()
        if error is None:
            self.fulfil(call.result())
        else:
            assert isinstance(error, Exception)
            self.fail(error)

    def _settle(self) -> None:
        try:
            value = self._plan.combine(self._answers)
        except Exception as error:
            super().fail(ServiceError(f"{self.what}: an answer that is none: {error!r}"))
        else:
            super().fulfil(value)


def address_of(place: Place) -> Address:
    """Where its inner listener is."""
    return address.parse(place.uri or f"tcp://{place.php}", "tcp", 0)[0]
