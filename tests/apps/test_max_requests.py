"""apps.max_requests: the process ends itself, all it was sent is answered, another serves on."""

from __future__ import annotations

from workermand.testing import running_server


def test_another_process_takes_its_place() -> None:
    with running_server("apps.max_requests", options={"max_requests": 3}) as server:
        (before,) = server.status()["processes"]
        with server.connect() as client:
            client.sendall(b"1\n2\n3\n")
            assert client.makefile("r").read() == "1\n2\n3\n"
        with server.connect() as client:
            client.sendall(b"4\n")
            assert client.makefile("r").readline() == "4\n"
        after = [process["pid"] for process in server.status()["processes"] if process["state"] != "draining"]
        assert before["pid"] not in after
