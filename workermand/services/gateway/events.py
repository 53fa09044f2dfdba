"""Events: what a business worker does with what its gateways send: the user's functions, one client's in order, and
``Gateway`` within them.

Each client has a lane as long as something of it is under way; its events wait in it for each other, those of different
clients do not. The session comes with the event. What this process has changed and the gateway had not yet applied when
it sent the event is laid over it, so that an event always sees what the one before it has left.
"""

from __future__ import annotations

import asyncio
import contextvars
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, NamedTuple, TypeVar

import msgspec

from workermand import Request, Worker
from workermand.services.gateway import messages, sessions
from workermand.services.gateway.api import Api, Session
from workermand.services.gateway.inner import Gate, Mesh
from workermand.services.gateway.plans import Delivery, Message, Plan
from workermand.services.gateway.sessions import Patch
from workermand.services.links import wire as links
from workermand.services.links.later import Later

T = TypeVar("T")

CALLBACKS: Final = {
    messages.ON_CONNECT: "on_connect",
    messages.ON_WEBSOCKET_CONNECT: "on_websocket_connect",
    messages.ON_MESSAGE: "on_message",
    messages.ON_CLOSE: "on_close",
}
WITH_BODY: Final = (messages.ON_WEBSOCKET_CONNECT, messages.ON_MESSAGE)

_copy_in = msgspec.msgpack.Encoder().encode
_copy_out = msgspec.msgpack.Decoder().decode


class Origin(NamedTuple):
    """Where a client comes from. Workerman: $_SERVER."""

    remote_ip: str
    """Behind trusted proxies the one that they name."""
    remote_port: int
    gateway_port: int
    """The one that it came to."""
    gateway: str = ""
    """The inner address of its gateway."""

    def get_remote_ip(self) -> str:
        """As of a connection: what a Request asks."""
        return self.remote_ip

    def get_remote_port(self) -> int:
        return self.remote_port

    @property
    def is_secure(self) -> bool:
        """What its gateway says nothing of."""
        return False


class Turn:
    """One event, while it is handled."""

    __slots__ = (
        "_before",
        "_encoded",
        "_patches",
        "_session",
        "applied",
        "body",
        "client_id",
        "gate",
        "is_lost",
        "is_over",
        "kind",
        "origin",
    )

    def __init__(self, gate: Gate, message: list[Any]) -> None:
        _op, _number, self.kind, self.client_id, self.body, self._encoded, self.applied, origin = message
        self.gate = gate
        ip, port, gateway_port = origin
        self.origin = Origin(ip, port, gateway_port, gate.uri)
        self.is_over = False
        self.is_lost = False
        """Its link has gone: for the gateway it is nobody's, or somebody else's."""
        self._session: Session | None = None
        self._before: Session = {}
        self._patches: Sequence[Change] = ()

    def begin(self, patches: list[Change]) -> None:
        """``patches``: what the gateway had not applied when it sent this event."""
        self._patches = patches

    @property
    def session(self) -> Session:
        if self._session is None:
            self._session, self._before = self._read(), self._read()
        return self._session

    def _read(self) -> Session:
        session = self.gate.codec.decode(self._encoded)
        for change in self._patches:
            change.apply(session)
        return session

    def replace(self, change: Change) -> None:
        """A session of this event that was changed by name, not through the dict."""
        _ = self.session
        assert self._session is not None
        change.apply(self._session)
        change.apply(self._before)

    def end(self) -> Patch | None:
        """What has changed."""
        self.is_over = True
        if self._session is None or self.kind == messages.ON_CLOSE:
            return None
        return sessions.difference(self._before, self._session)


class Change(NamedTuple):
    """Something that this process has done to a session."""

    stamp: int
    command: str
    packed: bytes
    """Its arguments: whoever applies it gets objects of its own."""

    def apply(self, session: Session) -> None:
        arguments = _copy_out(self.packed)
        if self.command == "patch_session":
            sessions.apply(session, Patch(*arguments))
            return
        (given,) = arguments
        merged = sessions.merge(session, given) if self.command == "update_session" else given
        session.clear()
        session.update(merged)


class Lane:
    """One client, as long as something of it is under way here."""

    __slots__ = ("changes", "turns", "unanswered")

    def __init__(self) -> None:
        self.turns: deque[Turn] = deque()
        """The first is being handled."""
        self.changes: list[Change] = []
        self.unanswered = 0


_current: contextvars.ContextVar[Turn | None] = contextvars.ContextVar("workermand.gateway.turn", default=None)


class Dispatcher:
    """Of one business worker's process. Thread: the one that runs the loop."""

    def __init__(self, worker: Worker, callbacks: Mapping[str, Callable[..., Any]]) -> None:
        """``callbacks``: on_connect and so on, those that there are."""
        self._worker = worker
        self._loop = worker.loop
        self._callbacks = {kind: callbacks.get(name) for kind, name in CALLBACKS.items()}
        self._lanes: dict[tuple[Gate, str], Lane] = {}
        self._done: dict[Gate, list[str]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._idle: asyncio.Future[None] | None = None
        self.handled = 0
        """Events."""

    # ------------------------------------------------------------------ what the mesh says

    def take(self, gate: Gate, message: list[Any]) -> None:
        """One event."""
        try:
            turn = Turn(gate, message)
        except (ValueError, TypeError) as error:
            self._worker.failed("an event of a gateway", None, error)
            return
        key = gate, turn.client_id
        lane = self._lanes.get(key)
        if lane is None:
            lane = self._lanes[key] = Lane()
        lane.turns.append(turn)
        if len(lane.turns) == 1:
            self._go_on(key, lane)

    def changed(self, gate: Gate, stamp: int, command: str, arguments: tuple[Any, ...], outcome: Later[Any]) -> None:
        """A session is being changed by this process."""
        ids, *rest = arguments
        change = Change(stamp, command, _copy_in(rest))
        for id in ids:
            key = gate, id
            lane = self._lanes.get(key)
            if lane is None:
                lane = self._lanes[key] = Lane()
            lane.changes.append(change)
            lane.unanswered += 1
            outcome.add_done_callback(lambda outcome, key=key, lane=lane: self._answered(key, lane, change, outcome))  # type: ignore[misc]
            turn = _current.get()
            if turn is not None and not turn.is_over and turn.gate is gate and turn.client_id == id:
                turn.replace(change)

    def _answered(self, key: tuple[Gate, str], lane: Lane, change: Change, outcome: asyncio.Future[Any]) -> None:
        lane.unanswered -= 1
        if outcome.cancelled() or outcome.exception() is not None:
            lane.changes = [other for other in lane.changes if other is not change]
        self._tidy(key, lane)

    def lost(self, gate: Gate) -> None:
        """Whatever of its events has not begun is somebody else's now, or nobody's."""
        self._done.pop(gate, None)
        for key, lane in list(self._lanes.items()):
            if key[0] is gate:
                while len(lane.turns) > 1:
                    lane.turns.pop()
                for turn in lane.turns:
                    turn.is_lost = True
                lane.changes.clear()  # it has those it answered, and counts anew

    async def idle(self) -> None:
        """Waits until nothing is under way, and the gateways know."""
        if any(lane.turns for lane in self._lanes.values()):
            self._idle = self._loop.create_future()
            await self._idle
        self._flush()

    # ------------------------------------------------------------------ one lane

    def _go_on(self, key: tuple[Gate, str], lane: Lane) -> None:
        """Handles what waits, here as long as nothing has to be awaited."""
        while lane.turns:
            turn = lane.turns[0]
            if lane.changes:
                lane.changes = [change for change in lane.changes if change.stamp > turn.applied]
                turn.begin(lane.changes.copy())
            token = _current.set(turn)
            try:
                waiting = self._call(turn)
                if waiting is not None and asyncio.iscoroutine(waiting):
                    task = self._loop.create_task(self._wait(key, lane, turn, waiting))
                    self._tasks.add(task)
                    task.add_done_callback(self._tasks.discard)
                    return
                self._save(turn)
            except BaseException as error:
                self._worker.failed(CALLBACKS.get(turn.kind, "an event"), None, error)
            finally:
                _current.reset(token)
            self._finish(key, lane, turn)

    def _call(self, turn: Turn) -> Any:
        callback = self._callbacks.get(turn.kind)
        if callback is None:
            return None
        if turn.kind == messages.ON_WEBSOCKET_CONNECT:
            return callback(turn.client_id, _request(turn))
        if turn.kind == messages.ON_MESSAGE:
            return callback(turn.client_id, turn.body)
        return callback(turn.client_id)

    async def _wait(self, key: tuple[Gate, str], lane: Lane, turn: Turn, waiting: Any) -> None:
        try:
            await waiting
            self._save(turn)
        except BaseException as error:
            self._worker.failed(CALLBACKS.get(turn.kind, "an event"), None, error)
            if isinstance(error, asyncio.CancelledError):
                raise
        finally:
            self._finish(key, lane, turn)
        self._go_on(key, lane)

    def _save(self, turn: Turn) -> None:
        patch = turn.end()
        if patch is not None:
            turn.gate.save(turn.client_id, patch, turn.session)

    def _finish(self, key: tuple[Gate, str], lane: Lane, turn: Turn) -> None:
        turn.is_over = True
        lane.turns.popleft()
        self.handled += 1
        if not turn.is_lost:
            if not self._done:
                self._loop.call_soon(self._flush)
            self._done.setdefault(turn.gate, []).append(turn.client_id)
        self._tidy(key, lane)

    def _tidy(self, key: tuple[Gate, str], lane: Lane) -> None:
        if not lane.turns and not lane.unanswered and self._lanes.get(key) is lane:
            del self._lanes[key]
        if self._idle is not None and not self._idle.done() and not any(one.turns for one in self._lanes.values()):
            self._idle.set_result(None)

    def _flush(self) -> None:
        """Once in a turn of the loop: what has been finished in it."""
        done, self._done = self._done, {}
        for gate, ids in done.items():
            gate.link.send(links.pack([messages.DONE, 0, ids]))


def _request(turn: Turn) -> Request:
    method, target, fields = turn.body
    return Request(method, target, fields, turn.origin)


# ---------------------------------------------------------------------------------------------------- in events


class CurrentApi(Api):
    """``Gateway``: the cluster as a business worker has it. Process: a business worker's; thread: its loop's.

    ``session``, ``client_id``, ``origin`` and the methods for the current client are those of the event that the
    calling code handles, also in what it awaits.
    """

    def __init__(self) -> None:
        self._mesh: Mesh | None = None

    def install(self, mesh: Mesh | None) -> None:
        """Called by business.py."""
        self._mesh = mesh

    def run(self, plan: Plan[T]) -> Later[T]:
        if self._mesh is None:
            raise RuntimeError("Gateway: this is no business worker; elsewhere there is GatewayClient")
        return self._mesh.run(plan)

    @property
    def client_id(self) -> str:
        """Whose event it is. Raises RuntimeError outside of events."""
        client_id: str = self._turn.client_id
        return client_id

    @property
    def session(self) -> Session:
        """A dict of this client's own. What the event has changed in it, at any depth, is saved when it has ended,
        unless by an exception. Raises RuntimeError outside of events, and behind one: a task that goes on awaits
        get_session()."""
        turn = self._turn
        if turn.is_over:
            raise RuntimeError("Gateway.session: the event has ended; await Gateway.get_session(client_id)")
        return turn.session

    @property
    def origin(self) -> Origin:
        """Where the client comes from."""
        return self._turn.origin

    @property
    def _turn(self) -> Turn:
        turn = _current.get()
        if turn is None:
            raise RuntimeError("Gateway: there is a current client only within on_connect, on_message and on_close")
        return turn

    def send_to_current_client(self, message: Message, raw: bool = False) -> Later[Delivery]:
        return self.send_to_client(self.client_id, message, raw)

    def close_current_client(self, message: Message | None = None) -> Later[bool]:
        return self.close_client(self.client_id, message)

    def destroy_current_client(self) -> Later[bool]:
        return self.destroy_client(self.client_id)


Gateway = CurrentApi()
