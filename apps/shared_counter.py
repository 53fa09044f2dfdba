"""A counter that all processes share, and a page that says how often it has been called: the manual's GlobalData.

    [worker.globaldata]
    listen = "unix://globaldata.sock"
    protocol = "frame"
    handler = "workermand.services.globaldata.server"
    reloadable = false

    [worker.counter]
    listen = "http://127.0.0.1:2351"
    handler = "apps.shared_counter"
    count = 4

    curl http://127.0.0.1:2351/cats              {"page": "cats", "visits": 1, "process": 2}
    curl http://127.0.0.1:2351/?top=3            {"cats": 1}
    curl -X PUT http://127.0.0.1:2351/cats -d 5

Whichever process answers, the numbers are one after the other. PUT corrects one, unless somebody has called the page in
that moment: then the answer is 409, and nothing is lost.
"""

from workermand import Connection, Request, Response, Worker
from workermand.services.globaldata import GlobalData

PREFIX = "visits."


async def on_worker_start(worker: Worker) -> None:
    worker.data = await GlobalData.connect(worker.options.get("url"))  # None: the server of this daemon


async def on_message(connection: Connection, request: Request) -> None:
    data: GlobalData = connection.worker.data
    page = request.path.strip("/")
    if not page:
        connection.send(await top(data, int(str(request.get("top", "10")))))
    elif request.method == "PUT":
        connection.send(await correct(data, page, int(request.raw_body)))
    else:
        visits = await visit(data, PREFIX + page)
        connection.send({"page": page, "visits": visits, "process": connection.worker.id})


async def visit(data: GlobalData, key: str) -> int:
    """increment() wants a number that is there; add() puts one if there is none, and only the first of many does."""
    visits = await data.increment(key)
    while visits is None:
        await data.add(key, 0)
        visits = await data.increment(key)
    return int(visits)


async def top(data: GlobalData, count: int) -> dict[str, int]:
    """The pages that were called most."""
    pages = await data.get_many(await data.keys(PREFIX))
    best = sorted(pages.items(), key=lambda page: (-page[1], page[0]))[:count]
    return {key.removeprefix(PREFIX): visits for key, visits in best}


async def correct(data: GlobalData, page: str, visits: int) -> Response:
    """Another number, but only in place of the one that was read: nobody's visit is lost in between."""
    held = await data.get_versioned(PREFIX + page)
    version = 0 if held is None else held[1]
    if await data.cas_version(PREFIX + page, version, visits):
        return Response(204)
    return Response(409).with_body("somebody was faster: try again\n")
