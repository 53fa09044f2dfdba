"""What the gateways and business workers of a cluster hold, as figures of their status: a module for ``hooks``, and for
``events`` to borrow from.
"""

from __future__ import annotations

import gc
from typing import Any

from workermand import Timer, Worker

PERIOD = 2.0
"""Seconds between two looks."""


def on_worker_start(worker: Worker) -> None:
    Timer.add(PERIOD, look, (worker,))


def look(worker: Worker) -> None:
    """``objects`` are all that the collector knows, once it has been."""
    found = of_a_gateway(worker.gateway) if hasattr(worker, "gateway") else of_a_business_worker(worker.business)
    gc.collect()
    worker.figures |= {**found, "objects": len(gc.get_objects()), "looks": worker.figures.get("looks", 0) + 1}


def of_a_gateway(service: Any) -> dict[str, int]:
    table, router, peers = service.table, service.router, service.inside.peers
    return {
        "table": len(table.clients) + len(table.uids) + len(table.groups),
        "streams": len(router.streams) + sum(len(mate.streams) for mate in router.mates.values()),
        "waiting": len(router.homeless) + sum(map(len, router._crowded.values())),
        "watchers": sum(map(len, peers._watchers.values())),
        "watched": sum(map(len, peers._watched.values())),
        "lost": router.lost + router.dropped,
    }


def of_a_business_worker(business: Any) -> dict[str, int]:
    dispatcher, gates = business._dispatcher, business._mesh.gates.values()
    return {
        "lanes": len(dispatcher._lanes) + len(dispatcher._done),
        "tasks": len(dispatcher._tasks),
        "known": sum(len(gate._known) for gate in gates),
        "asked": sum(len(gate.link._link._waiting) for gate in gates),
    }
