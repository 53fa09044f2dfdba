"""apps.auth_timeout: a login in time, a wrong one, none at all."""

from __future__ import annotations

from workermand.testing import running_server


def test_who_has_logged_in_stays_and_who_has_not_goes() -> None:
    options = {"login_within": 2, "password": "open"}
    with (
        running_server("apps.auth_timeout", options=options) as server,
        server.connect() as first,
        server.connect() as wrong,
        server.connect() as silent,
        first.makefile("r") as answers,
    ):
        first.sendall(b"login open\n")
        assert answers.readline() == "welcome\n"
        wrong.sendall(b"login sesame\nhello\n")
        assert wrong.makefile("r").read() == "no\n"
        # The silent one's timer is younger than the first one's: where this has fired, that would have.
        assert silent.makefile("r").read() == "too late\n"
        first.sendall(b"still here\n")
        assert answers.readline() == "still here\n"
        (process,) = server.status()["processes"]
        assert process["timers"] == 0
