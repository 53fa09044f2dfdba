"""apps.jsonnl: the protocol by itself, and as a scheme of [protocols]."""

from __future__ import annotations

import json

from apps.jsonnl import JsonNL
from workermand.protocols.custom import adapt
from workermand.testing import Case, check_protocol, running_server

CONFIG = """
[protocols]
jsonnl = "apps.jsonnl:JsonNL"
[worker.jsonnl]
listen = "jsonnl://127.0.0.1:0"
handler = "apps.jsonnl"
"""


def test_the_protocol() -> None:
    cases: list[Case] = [(b'{"a": 1}\n', [{"a": 1}]), (b"[]\r\n2\n", [[], 2]), (b'"gr\xc3\xbc\xc3\x9fe"\n', ["grüße"])]
    check_protocol(adapt(JsonNL, "jsonnl"), cases, violations=[b"\n", b"nonsense\n", b"\xff\n"])


def test_the_handler() -> None:
    with running_server(CONFIG) as server, server.connect() as client, client.makefile("r") as answers:
        client.sendall(b'{"say": "hello"}\n7\n')
        assert json.loads(answers.readline()) == {"code": 0, "you_sent": {"say": "hello"}}
        assert json.loads(answers.readline()) == {"code": 0, "you_sent": 7}
        client.sendall(b"nonsense\n")
        assert answers.read() == ""
        server.wait_for("jsonnl: decode: JSONDecodeError")
