"""apps.room: all hear what one says, who comes, and who leaves."""

from __future__ import annotations

from workermand.testing import running_server


def test_everybody_hears_everybody() -> None:
    with running_server("apps.room") as server, server.connect() as anne, anne.makefile("r") as at_anne:
        assert at_anne.readline() == "* guest 1 came in\n"
        with server.connect() as bert, bert.makefile("r") as at_bert:
            assert [at_anne.readline(), at_bert.readline()] == ["* guest 2 came in\n"] * 2
            anne.sendall(b"hello\n")
            assert [at_anne.readline(), at_bert.readline()] == ["guest 1: hello\n"] * 2
            bert.sendall(b"hello yourself\n")
            assert [at_anne.readline(), at_bert.readline()] == ["guest 2: hello yourself\n"] * 2
        assert at_anne.readline() == "* guest 2 has left\n"
        anne.sendall(b"anybody?\n")
        assert at_anne.readline() == "guest 1: anybody?\n"
