"""Who does not log in within 30 seconds is closed. The timer is made with the connection and deleted by the login.

workermand run text://127.0.0.1:2351 apps.auth_timeout
telnet 127.0.0.1 2351        then: login sesame
"""

import hmac

from workermand import Connection, Timer

SECONDS = 30
"""The option "login_within" overrides it."""


def on_connect(connection: Connection) -> None:
    within = connection.worker.options.get("login_within", SECONDS)
    connection.context = Timer.add(within, connection.close, ("too late",), persistent=False)


def on_message(connection: Connection, data: str) -> None:
    if connection.context is None:
        connection.send(data)
        return
    password = connection.worker.options.get("password", "sesame")
    if hmac.compare_digest(data.encode(errors="replace"), f"login {password}".encode()):
        cancel(connection)
        connection.send("welcome")
    else:
        connection.close("no")


def on_close(connection: Connection) -> None:
    cancel(connection)


def cancel(connection: Connection) -> None:
    if connection.context is not None:
        Timer.delete(connection.context)
        connection.context = None
