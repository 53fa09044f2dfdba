"""The site of apps.push with Flask: what knows who is logged in is the framework, what holds the pages is the cluster.

    pip install flask
    PUSH_REGISTER=register://127.0.0.1:1236 flask --app apps.push.flask_site run

or in a worker of the same daemon, handler = "workermand.services.asgi", options = { app = "apps.push.flask_site:app" }.
The six steps: push.js has them.
"""

import os
import secrets
from pathlib import Path

from flask import Flask, Response, request, send_file, session
from flask.typing import ResponseReturnValue

from apps.push import page
from workermand.services.gateway import BlockingGatewayClient

app = Flask(__name__)
app.secret_key = os.environ.get("SECRET_KEY") or secrets.token_hex()
app.config["SESSION_COOKIE_SAMESITE"] = "Lax"
gateways = BlockingGatewayClient(register=os.environ.get("PUSH_REGISTER", ""), secret=os.environ.get("PUSH_SECRET", ""))


@app.get("/")
def visit() -> ResponseReturnValue:
    session.update({field: request.args[field] for field in ("uid", "group") if field in request.args})
    return page.page(session.get("uid", ""))


@app.get("/push.js")
def script() -> Response:
    return send_file(Path(__file__).parent / "push.js")


@app.post("/bind")
def bind() -> ResponseReturnValue:
    if not session.get("uid"):
        return "log in first\n", 403
    client_id = request.form.get("client_id", "")
    is_there = gateways.bind_uid(client_id, session["uid"])
    if session.get("group"):
        gateways.join_group(client_id, session["group"])
    return {"bound": is_there}, 200 if is_there else 404


@app.post("/push")
def push() -> ResponseReturnValue:
    if not page.may_push(request.headers.get("Authorization")):
        return "Authorization: Bearer TOKEN is missing\n", 401
    try:
        uid, group, message = page.read(request.form)
    except page.Mistake as mistake:
        return f"{mistake}\n", 400
    if uid:
        sent = gateways.send_to_uid(uid, message)
    elif group:
        sent = gateways.send_to_group(group, message)
    else:
        sent = gateways.send_to_all(message)
    return {"delivered": sent.delivered}
