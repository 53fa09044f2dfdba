"""A worker without a listener, for what must be done every so often. Its print() is in the journal at once.

    [worker.clock]
    handler = "apps.clock"
    options = { every = 10 }     # seconds

With `count = 2` there are two processes and each prints: what must happen once is done where `worker.id` is 0.
"""

import time

from workermand import Timer, Worker


def on_worker_start(worker: Worker) -> None:
    Timer.add(worker.options.get("every", 10), tell, (worker,))


def tell(worker: Worker) -> None:
    print(f"{worker.name}: it is {time.strftime('%H:%M:%S')}")
