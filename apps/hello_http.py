"""A web page: what is sent is the answer, a str as HTML, a dict as JSON.

workermand run http://127.0.0.1:8080 apps.hello_http
curl 'http://127.0.0.1:8080/?name=Anne'
curl http://127.0.0.1:8080/who
"""

import html

from workermand import Connection, Request, Response


def on_message(connection: Connection, request: Request) -> None:
    if request.path == "/":
        connection.send(f"<h1>Hello, {html.escape(str(request.get('name', 'world')))}</h1>\n")
    elif request.path == "/who":
        connection.send({"ip": request.remote_ip, "agent": request.header("User-Agent")})
    else:
        connection.send(Response(404, {"Content-Type": "text/plain; charset=utf-8"}, "There is no such page.\n"))
