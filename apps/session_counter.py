"""A page that counts how often this browser has been here. Try: curl -b jar -c jar http://127.0.0.1:2350/"""

from workermand import Connection, Request, Response


def on_message(connection: Connection, request: Request) -> None:
    session = request.session
    if request.path == "/forget":
        session.flush()
        connection.send(Response.redirect("/"))
        return
    session["visits"] = session.get("visits", 0) + 1
    connection.send(f"<p>Visits: {session['visits']}. <a href=/forget>Forget me</a></p>\n")
