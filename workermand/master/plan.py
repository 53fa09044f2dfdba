"""What to do to get from the running children to the wanted settings, as a list of steps. Pure: nothing happens here.

A plan has two parts around Commit. Before it the new is built beside the old: addresses are opened and one child of
every changed worker proves that its code loads; whatever fails there is dropped and nothing has changed. After it the
slots are handed over one by one, and a failure keeps the old children that are left. rollout.py executes the steps;
the log shows them before they are executed.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import msgspec

from workermand.spec import ServerSpec, WorkerSpec

DEFERRED = ("listen", "handler", "user", "group", "env", "reuse_port")
"""Settings that a living process cannot change: a worker that is not reloadable waits for `restart NAME` with them."""

Address = tuple[str, str, int | str]


@dataclass(frozen=True, slots=True)
class Step:
    worker: str

    def __str__(self) -> str:
        return f"{type(self).__name__.lower()} {self.worker}"


@dataclass(frozen=True, slots=True)
class SlotStep(Step):
    slot: int

    def __str__(self) -> str:
        return f"{type(self).__name__.lower()} {self.worker}#{self.slot}"


class Open(Step):
    """Open the addresses of this worker that are not open yet; adjust backlog and modes of those that are."""


class Spawn(SlotStep):
    """Fork a child for the slot, beside the one that serves there."""


class AwaitReady(SlotStep):
    """Wait until the spawned child is READY."""


class Handover(SlotStep):
    """The new child is the slot's; the old one stops accepting (this is waited for) and drains behind our back."""


class Retire(SlotStep):
    """The slot is not wanted any more: its child stops accepting and drains."""


class End(SlotStep):
    """Stop first: wait until the slot's child is gone (what is not reloadable never runs twice)."""


class Refresh(SlotStep):
    """The child stays; it gets the new settings and on_worker_reload."""


@dataclass(frozen=True, slots=True)
class Commit:
    """From here on the new settings are the daemon's."""

    def __str__(self) -> str:
        return "commit"


@dataclass(frozen=True, slots=True)
class Close:
    """Close a listening address that no worker has any more."""

    address: Address

    def __str__(self) -> str:
        return f"close {':'.join(str(part) for part in self.address if part != '')}"


AnyStep = Step | Commit | Close


@dataclass(frozen=True, slots=True)
class Running:
    """What the planner knows of the daemon: its settings, its occupied slots, its open addresses."""

    workers: Mapping[str, WorkerSpec]
    slots: Mapping[str, frozenset[int]]
    addresses: frozenset[Address] = frozenset()

    def occupied(self, worker: str) -> frozenset[int]:
        return self.slots.get(worker, frozenset())


@dataclass(frozen=True, slots=True)
class Plan:
    steps: tuple[AnyStep, ...]
    workers: dict[str, WorkerSpec]
    """The settings in force after Commit."""
    deferred: dict[str, WorkerSpec]
    """Settings from the file that wait for `restart NAME`."""

    @property
    def waits_for_restart(self) -> list[str]:
        """What a reload tells its caller."""
        return [
            f"{name}: the changed {', '.join(changed_deferred(self.workers[name], wanted))} waits for"
            f" `workermanctl restart {name}`"
            for name, wanted in self.deferred.items()
        ]


def changed_deferred(running: WorkerSpec, wanted: WorkerSpec) -> list[str]:
    changed = [field for field in DEFERRED if getattr(running, field) != getattr(wanted, field)]
    return [*changed, "tls"] if _tls_begins_or_ends(running, wanted) else changed


def _tls_begins_or_ends(running: WorkerSpec, wanted: WorkerSpec) -> bool:
    """Other certificates a living process can take; listeners that are encrypted from now on it cannot have."""
    return (running.tls is None) != (wanted.tls is None)


def settle(running: WorkerSpec | None, wanted: WorkerSpec) -> WorkerSpec:
    """The settings that can take effect now: all of them, unless the process stays."""
    if running is None or wanted.reloadable:
        return wanted
    kept = {field: getattr(running, field) for field in DEFERRED}
    if _tls_begins_or_ends(running, wanted):
        kept["tls"] = running.tls
    return msgspec.structs.replace(wanted, **kept)


def reload(running: Running, target: ServerSpec) -> Plan:
    """Every reloadable worker's code counts as changed; the others keep their processes."""
    workers = {name: settle(running.workers.get(name), wanted) for name, wanted in target.workers.items()}
    deferred = {name: target.workers[name] for name, spec in workers.items() if spec != target.workers[name]}
    proofs = [SlotStep(name, 0) for name, spec in workers.items() if name not in running.workers or spec.reloadable]
    steps: list[AnyStep] = [Open(name) for name in workers]
    steps += [Spawn(proof.worker, 0) for proof in proofs]
    steps += [AwaitReady(proof.worker, 0) for proof in proofs]
    steps.append(Commit())
    for name, spec in workers.items():
        stays = name in running.workers and not spec.reloadable
        steps += _keep(name, spec, running) if stays else _roll(name, spec, running)
    for name in running.workers.keys() - workers.keys():
        steps += _retire(name, running.occupied(name))
    steps += _close(running, workers)
    return Plan(tuple(steps), workers, deferred)


def restart(running: Running, names: list[str], wanted: Mapping[str, WorkerSpec]) -> Plan:
    """New processes for these workers, with what a reload had to leave waiting: reloadable ones overlapped, the others
    stop-first."""
    workers = {**running.workers, **{name: wanted.get(name, running.workers[name]) for name in names}}
    steps: list[AnyStep] = [Open(name) for name in names]
    steps.append(Commit())
    for name in names:
        for slot in range(workers[name].count):
            steps += replace_slot(name, slot, overlapped=workers[name].reloadable)
        steps += _retire(name, running.occupied(name) - frozenset(range(workers[name].count)))
    steps += _close(running, workers)
    return Plan(tuple(steps), workers, {name: spec for name, spec in wanted.items() if name not in names})


def scale(running: Running, name: str, count: int, wanted: Mapping[str, WorkerSpec]) -> Plan:
    """More or fewer slots of one worker; no living child is replaced."""
    spec = msgspec.structs.replace(running.workers[name], count=count)
    return Plan(
        (Open(name), Commit(), *_fit(name, spec, running)),
        {**running.workers, name: spec},
        dict(wanted),
    )


def recycle(running: Running, name: str, slot: int, wanted: Mapping[str, WorkerSpec]) -> Plan:
    """One fresh child for a slot whose child has reached a limit."""
    steps = replace_slot(name, slot, overlapped=running.workers[name].reloadable)
    return Plan(tuple(steps), dict(running.workers), dict(wanted))


def replace_slot(name: str, slot: int, *, overlapped: bool) -> list[AnyStep]:
    first: list[AnyStep] = [] if overlapped else [End(name, slot)]
    return [*first, Spawn(name, slot), AwaitReady(name, slot), Handover(name, slot)]


def _roll(name: str, spec: WorkerSpec, running: Running) -> Iterator[AnyStep]:
    """Slot 0 is READY already: it has proved the code."""
    yield Handover(name, 0)
    for slot in range(1, spec.count):
        yield from replace_slot(name, slot, overlapped=True)
    yield from _retire(name, running.occupied(name) - frozenset(range(spec.count)))


def _keep(name: str, spec: WorkerSpec, running: Running) -> Iterator[AnyStep]:
    for slot in sorted(running.occupied(name) & frozenset(range(spec.count))):
        yield Refresh(name, slot)
    yield from _fit(name, spec, running)


def _fit(name: str, spec: WorkerSpec, running: Running) -> Iterator[AnyStep]:
    added = sorted(frozenset(range(spec.count)) - running.occupied(name))
    for slot in added:
        yield Spawn(name, slot)
    for slot in added:
        yield AwaitReady(name, slot)
        yield Handover(name, slot)
    yield from _retire(name, running.occupied(name) - frozenset(range(spec.count)))


def _retire(name: str, slots: frozenset[int]) -> Iterator[AnyStep]:
    for slot in sorted(slots):
        yield Retire(name, slot)


def _close(running: Running, workers: Mapping[str, WorkerSpec]) -> Iterator[AnyStep]:
    """Last of all: nobody accepts there any more."""
    kept = {listen.address for spec in workers.values() for listen in spec.listen}
    for address in sorted(running.addresses - kept, key=str):
        yield Close(address)
