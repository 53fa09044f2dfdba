"""phpcommands: what each command is on the wire, byte for byte as GatewayWorker's Lib\\Gateway packs it."""

from __future__ import annotations

from typing import Any

import pytest

from tests.services.gateway.php.test_visitors import pack
from workermand.services.gateway import ids, wire
from workermand.services.gateway.commands import COMMANDS as OURS
from workermand.services.gateway.php.commands import COMMANDS, IS_ALIVE, QUESTIONS, OutOfStep, PhpCommands
from workermand.services.links.errors import ServiceError, Unsupported
from workermand.services.links.serialize import unserialize

PREFIX = ids.php_prefix("10.0.0.9", 2900)
A, B, ELSEWHERE = f"{PREFIX}00000001", f"{PREFIX}00000102", "0" * 20
ONE, TWO = 1, 0x102
BOTH = b'{"1":1,"258":258}'
RAW = 3

SELECTED = (
    b'a:2:{i:1;a:3:{s:7:"session";s:18:"a:1:{s:1:"x";i:1;}";s:6:"groups";a:1:{s:1:"g";s:1:"g";}s:3:"uid";i:7;}'
    b'i:258;a:3:{s:7:"session";s:0:"";s:6:"groups";N;s:3:"uid";N;}}'
)
CASES: list[tuple[str, list[Any], bytes, list[bytes], Any]] = [
    # messages
    (
        "send_to_clients",
        [[A], "é", False],
        pack(11, b"", b"", ONE) + pack(5, "é".encode(), b"", ONE),
        [b"i:1;"],
        (1, 0),
    ),
    (
        "send_to_clients",
        [[A], b"\xff", True],
        pack(11, b"", b"", ONE) + pack(5, b"\xff", b"", ONE, RAW),
        [b"i:0;"],
        (0, 0),
    ),
    (
        "send_to_clients",
        [[A, B, ELSEWHERE], "x", False],
        pack(25, b"", b'{"fields":[],"where":{"connection_id":' + BOTH + b"}}")
        + pack(6, b"x", b'{"connections":' + BOTH + b"}"),
        [b"a:1:{i:258;a:0:{}}"],
        (1, 0),
    ),
    ("send_to_all", [[], "x", False], pack(24) + pack(6, b"x"), [b"i:7;"], (7, 0)),
    (
        "send_to_all",
        [[A], "x", True],
        pack(24) + pack(11, b"", b"", ONE) + pack(6, b"x", b'{"exclude":{"1":1}}', 0, RAW),
        [b"i:7;", b"i:1;"],
        (6, 0),
    ),
    (
        "send_to_uids",
        [["7", "a/b"], "x", False],
        pack(25, b"", rb'{"fields":[],"where":{"uid":["7","a\/b"]}}') + pack(14, b"x", rb'["7","a\/b"]'),
        [b"a:2:{i:1;a:0:{}i:258;a:0:{}}"],
        (2, 0),
    ),
    (
        "post_to_uids",
        [["7", "8"], "x", True],
        pack(25, b"", b'{"fields":["uid"],"where":{"uid":["7","8"]}}') + pack(14, b"x", b'["7","8"]', 0, RAW),
        [b'a:1:{i:1;a:1:{s:3:"uid";s:1:"7";}}'],
        (1, 0, ["7"]),
    ),
    (
        "send_to_groups",
        [["g"], [], "x", False],
        pack(24, b"", b"g") + pack(22, b"x", b'{"group":["g"],"exclude":null}'),
        [b"i:2;"],
        (2, 0),
    ),
    (
        "send_to_groups",
        [["g", "1"], [B], "x", False],
        pack(24, b"", b"g")
        + pack(24, b"", b"1")
        + pack(25, b"", b'{"fields":["groups"],"where":{"connection_id":{"258":258}}}')
        + pack(22, b"x", b'{"group":["g","1"],"exclude":{"258":258}}'),
        [b"i:2;", b"i:3;", b'a:1:{i:258;a:1:{s:6:"groups";a:2:{i:1;s:1:"1";s:1:"x";s:1:"x";}}}'],
        (4, 0),
    ),
    ("close_clients", [[A], "bye"], pack(11, b"", b"", ONE) + pack(7, b"bye", b"", ONE), [b"i:1;"], 1),
    ("close_clients", [[A], None], pack(11, b"", b"", ONE) + pack(7, b"N;", b"", ONE, 0), [b"i:0;"], 0),
    ("destroy_clients", [[A]], pack(11, b"", b"", ONE) + pack(8, b"", b"", ONE), [b"i:1;"], 1),
    # uids and groups
    ("bind_uid", [[A], "7"], pack(11, b"", b"", ONE) + pack(12, b"", b"7", ONE), [b"i:1;"], 1),
    ("unbind_uid", [[A]], pack(11, b"", b"", ONE) + pack(13, b"", b"", ONE), [b"i:1;"], 1),
    ("join_group", [[A], "g"], pack(11, b"", b"", ONE) + pack(20, b"", b"g", ONE), [b"i:1;"], 1),
    ("leave_group", [[A], "g"], pack(11, b"", b"", ONE) + pack(21, b"", b"g", ONE), [b"i:1;"], 1),
    ("ungroup", ["g"], pack(24, b"", b"g") + pack(27, b"", b"g"), [b"i:3;"], 3),
    # sessions
    (
        "set_session",
        [[A], {"x": [1]}],
        pack(204, b"", b'a:1:{s:1:"x";a:1:{i:0;i:1;}}', ONE) + pack(11, b"", b"", ONE),
        [b"i:1;"],
        1,
    ),
    ("set_session", [[A], {}], pack(204, b"", b"", ONE) + pack(11, b"", b"", ONE), [b"i:1;"], 1),
    (
        "update_session",
        [[A], {"7": 1.5}],
        pack(9, b"", b"a:1:{i:7;d:1.5;}", ONE) + pack(11, b"", b"", ONE),
        [b"i:0;"],
        0,
    ),
    ("update_session", [[A], {}], pack(9, b"", b"a:0:{}", ONE) + pack(11, b"", b"", ONE), [b"i:1;"], 1),
    (
        "get_sessions",
        [[A, B]],
        pack(203, b"", b"", ONE) + pack(203, b"", b"", TWO),
        [b'a:1:{s:1:"x";i:1;}', b"N;"],
        {A: {"x": 1}},
    ),
    ("get_sessions", [[A]], pack(203, b"", b"", ONE), [b"a:0:{}"], {A: {}}),
    # who is there?
    ("are_online", [[A]], pack(11, b"", b"", ONE), [b"i:1;"], [A]),
    ("are_online", [[ELSEWHERE]], b"", [], []),
    (
        "uids_of_clients",
        [[A, B]],
        pack(25, b"", b'{"fields":["uid"],"where":{"connection_id":' + BOTH + b"}}"),
        [b'a:2:{i:1;a:1:{s:3:"uid";s:1:"7";}i:258;a:1:{s:3:"uid";N;}}'],
        {A: "7", B: None},
    ),
    (
        "clients_of_uids",
        [["7"]],
        pack(25, b"", b'{"fields":["uid"],"where":{"uid":["7"]}}'),
        [b'a:2:{i:1;a:1:{s:3:"uid";s:1:"7";}i:258;a:1:{s:3:"uid";i:7;}}'],
        {"7": [A, B]},
    ),
    ("count", [], pack(24), [b"i:2;"], 2),
    ("count_groups", [["g", "1"]], pack(24, b"", b"g") + pack(24, b"", b"1"), [b"i:2;", b"i:0;"], {"g": 2}),
    (
        "count_groups",
        [None],
        pack(25, b"", b'{"fields":["groups"],"where":[]}'),
        [b'a:2:{i:1;a:1:{s:6:"groups";a:1:{i:1;s:1:"1";}}i:258;a:1:{s:6:"groups";N;}}'],
        {"1": 1},
    ),
    ("list_groups", [], pack(26), [b'a:2:{i:0;s:1:"g";i:1;i:1;}'], ["g", "1"]),
    (
        "list_uids",
        [],
        pack(25, b"", b'{"fields":["uid"],"where":[]}'),
        [b'a:3:{i:1;a:1:{s:3:"uid";s:1:"7";}i:2;a:1:{s:3:"uid";N;}i:3;a:1:{s:3:"uid";s:1:"7";}}'],
        ["7"],
    ),
    (
        "uids_of_groups",
        [["g"]],
        pack(25, b"", b'{"fields":["uid","groups"],"where":{"groups":["g"]}}'),
        [b'a:1:{i:1;a:2:{s:3:"uid";s:1:"7";s:6:"groups";a:2:{s:1:"g";s:1:"g";s:1:"h";s:1:"h";}}}'],
        {"g": ["7"]},
    ),
    (
        "clients_of_groups",
        [None],
        pack(25, b"", b'{"fields":["groups"],"where":[]}'),
        [b'a:1:{i:1;a:1:{s:6:"groups";a:2:{s:1:"g";s:1:"g";s:1:"h";s:1:"h";}}}'],
        {"g": [A], "h": [A]},
    ),
    ("list_clients", [], pack(25, b"", b'{"fields":["uid"],"where":[]}'), [b'a:1:{i:258;a:1:{s:3:"uid";N;}}'], [B]),
    (
        "select",
        [["session", "groups", "uid"], ["g"]],
        pack(25, b"", b'{"fields":["session","groups","uid"],"where":{"groups":["g"]}}'),
        [SELECTED],
        {A: [{"x": 1}, ["g"], "7"], B: [{}, [], None]},
    ),
    ("select", [[], None], pack(25, b"", b'{"fields":["uid"],"where":[]}'), [b"a:0:{}"], {}),
]


@pytest.mark.parametrize(("name", "arguments", "sent", "answers", "result"), CASES)
def test_commands(name: str, arguments: list[Any], sent: bytes, answers: list[bytes], result: Any) -> None:
    asked = PhpCommands(PREFIX).ask(name, arguments)
    assert b"".join(map(wire.pack, asked.packages)) == sent
    assert asked.questions == len(answers)
    assert asked.read([unserialize(answer) for answer in answers]) == result


def test_all_of_them_are_here() -> None:
    """But a patch, which PHP has not: inner.py makes something else of it."""
    assert COMMANDS.keys() == OURS.keys() - {"patch_session"}
    assert {case[0] for case in CASES} == COMMANDS.keys()


def test_what_php_would_not_answer_is_not_asked() -> None:
    for name, arguments, *_ in CASES:
        for package in PhpCommands(PREFIX).ask(name, arguments).packages:
            assert package.command in QUESTIONS or package.command in range(5, 28) or package.command == 204
    assert wire.pack(IS_ALIVE) == pack(203)


@pytest.mark.parametrize(
    ("name", "arguments", "words"),
    [
        ("bind_uid", [[A], "0"], '"0" is an empty uid to PHP'),
        ("join_group", [[A], "0"], '"0" is an empty group to PHP'),
        ("set_session", [[A], {"x": object()}], "set_session: a session that PHP may read"),
        ("select", [["age"], None], "select: no field 'age'"),
    ],
)
def test_what_php_would_not_do(name: str, arguments: list[Any], words: str) -> None:
    with pytest.raises(ServiceError, match=words):
        PhpCommands(PREFIX).ask(name, arguments)


def test_what_there_is_no_word_for() -> None:
    with pytest.raises(Unsupported, match="nothing for fly"):
        PhpCommands(PREFIX).ask("fly", [])


@pytest.mark.parametrize(
    ("name", "arguments", "answers"),
    [("are_online", [[A]], [[]]), ("are_online", [[A, B]], [7]), ("count", [], [None]), ("list_clients", [], ["x"])],
)
def test_answers_to_other_questions(name: str, arguments: list[Any], answers: list[Any]) -> None:
    with pytest.raises(OutOfStep):
        PhpCommands(PREFIX).ask(name, arguments).read(answers)
