"""Web messages, as Workerman's web-msg-sender: a page that waits for them, and an endpoint for whoever sends them.

    [worker.register]
    listen = "frame://127.0.0.1:1236"
    handler = "workermand.services.gateway.register"
    reloadable = false

    [worker.gateway]
    listen = "websocket://0.0.0.0:7273"
    handler = "workermand.services.gateway.gateway"
    reloadable = false
    options = { start_port = 2400, ping_interval = 10, ping_data = '{"type": "ping"}' }

    [worker.business]
    handler = "workermand.services.gateway.business"
    options = { events = "apps.push.events" }

    [worker.site]
    listen = "http://127.0.0.1:8085"
    handler = "apps.push.site"

    http://127.0.0.1:8085/?uid=anne&group=news in a browser
    curl -d to=uid -d name=anne -d content=hello http://127.0.0.1:8085/push         {"delivered": 1}
    curl -d to=group -d name=news -d content=hello http://127.0.0.1:8085/push
    curl -d to=all -d content=hello http://127.0.0.1:8085/push

Who is who this site does not ask: the first line of the page's query says it. Yours has a login there.
"""

from pathlib import Path

from apps.push import page
from workermand import Connection, Request, Response, Worker
from workermand.services.gateway import GatewayClient

SCRIPT = Path(__file__).parent / "push.js"


async def on_worker_start(worker: Worker) -> None:
    worker.gateways = GatewayClient(**worker.options)  # register and secret, unless they are this daemon's own
    await worker.gateways.connect()


async def on_worker_stop(worker: Worker) -> None:
    await worker.gateways.close()


async def on_message(connection: Connection, request: Request) -> None:
    gateways: GatewayClient = connection.worker.gateways
    match (request.method, request.path):
        case ("GET", "/"):
            answer = visit(request)
        case ("GET", "/push.js"):
            answer = Response().with_file(str(SCRIPT))
        case ("POST", "/bind"):
            answer = await bind(gateways, request)
        case ("POST", "/push"):
            answer = await push(gateways, request)
        case _:
            answer = Response(404, body="there is /, /bind and /push\n")
    connection.send(answer)


def visit(request: Request) -> Response:
    for field in ("uid", "group"):
        if isinstance(value := request.get(field), str):
            request.session[field] = value  # of a site of yours: by the login
    return Response(200, {"Content-Type": "text/html; charset=utf-8"}, page.page(request.session.get("uid", "")))


async def bind(gateways: GatewayClient, request: Request) -> Response:
    """The page has been told its client_id by a gateway, and nobody else has: so it is the visitor's."""
    uid, group = request.session.get("uid"), request.session.get("group")
    if not uid:
        return Response(403, body="log in first\n")
    client_id = str(request.post("client_id", ""))
    is_there = await gateways.bind_uid(client_id, uid)
    if group:
        await gateways.join_group(client_id, group)
    return Response.json({"bound": is_there}, 200 if is_there else 404)


async def push(gateways: GatewayClient, request: Request) -> Response:
    if not page.may_push(request.header("authorization")):
        return Response(401, {"WWW-Authenticate": "Bearer"}, "Authorization: Bearer TOKEN is missing\n")
    try:
        uid, group, message = page.read(request.post())
    except page.Mistake as mistake:
        return Response(400, body=f"{mistake}\n")
    if uid:
        sent = await gateways.send_to_uid(uid, message)
    elif group:
        sent = await gateways.send_to_group(group, message)
    else:
        sent = await gateways.send_to_all(message)
    return Response.json({"delivered": sent.delivered})
