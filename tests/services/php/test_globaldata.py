"""GlobalData for PHP: a client written in PHP, our server, and Python's client beside it."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterator
from typing import Any

import pytest

from tests.services.php.program import program, run
from workermand.services.globaldata import BlockingGlobalData
from workermand.testing import RunningServer, running_server

pytestmark = pytest.mark.real

HANDLER = "workermand.services.globaldata.server"
CONNECT = "$g = new GlobalDataClient($argv[1]); "


class Service:
    """The server; ``php`` is where PHP's clients go."""

    def __init__(self, server: RunningServer, port: int) -> None:
        self.server = server
        self.php = f"127.0.0.1:{port}"

    def python(self) -> BlockingGlobalData:
        return BlockingGlobalData(f"globaldata://127.0.0.1:{self.server.port}", timeout=60.0)


@contextlib.contextmanager
def serving(port: int, **options: Any) -> Iterator[Service]:
    options = {"php": {"listen": f"frame://127.0.0.1:{port}"}, **options}
    with running_server(HANDLER, listen="frame://127.0.0.1:0", reloadable=False, options=options) as server:
        yield Service(server, port)


@pytest.fixture
def service(free_port: Any) -> Iterator[Service]:
    with serving(free_port()) as service:
        yield service


def test_the_verbs_are_those_of_the_original(service: Service) -> None:
    code = """
        tell($g->counter, isset($g->counter), $g->increment('counter'), $g->add('counter', 1), $g->add('counter', 2));
        tell($g->increment('counter', 5), $g->increment('counter', -2), $g->counter, isset($g->counter));
        tell($g->cas('counter', 3, 'x'), $g->cas('counter', 4, 'x'), $g->cas('counter', null, 'y'), $g->counter);
        tell($g->increment('counter'), $g->cas('new', null, [1, 'a' => 2.5, 'b' => [null, false]]), $g->new);
        tell($g->cas('new', $g->new, 'y'), $g->new);
        unset($g->new);
        $g->counter = null;
        $g->ping();
        tell($g->new, isset($g->counter), $g->add('counter', 'z'), $g->counter);
    """
    assert run(CONNECT + code, service.php) == [
        [None, False, False, True, False],
        [6, 4, 4, True],
        [False, True, False, "x"],
        [1, True, {"0": 1, "a": 2.5, "b": [None, False]}],
        [True, "y"],
        [None, False, True, "z"],
    ]


def test_variables_go_both_ways(service: Service) -> None:
    with (
        service.python() as data,
        program(
            CONNECT
            + """
        tell(base64_encode(serialize([$g->text, $g->bytes, $g->table, $g->list, $g->number, $g->nothing])));
        $g->text = 'größe'; $g->bytes = "\\xff\\0"; $g->table = ['b' => 1, 'a' => [0 => 'x', 1 => 2.5], 7 => true];
        $g->number = -1.5;
        unset($g->list);
        tell('set');
        heard();
        tell($g->text, array_keys($g->table));
        """,
            service.php,
        ) as php,
    ):
        data.set_many({"text": "häß", "bytes": b"\xfe", "table": {"x": {"y": [1]}}, "list": [1, "2"], "number": 2**40})
        assert php.tells()
        assert php.tells() == ["set"]
        got = data.get_many(["text", "bytes", "table", "list", "number"])
        assert got == {
            "text": "größe",
            "bytes": b"\xff\0",
            "table": {"b": 1, "a": ["x", 2.5], 7: True},
            "number": -1.5,
        }
        assert list(got["table"]) == ["b", "a", 7]
        data.text = "from Python"
        data.table = {"z": 1, "y": 2}
        php.say()
        [[text, keys]] = php.end()
        assert (text, sorted(keys)) == ("from Python", ["y", "z"])


def test_python_exchanges_what_php_has_set(service: Service) -> None:
    code = "$g->table = ['b' => 1, 'a' => [2.5], 7 => true];"
    with service.python() as data:
        assert run(CONNECT + code, service.php) == []
        assert data.cas("table", {"b": 1, "a": [2.5]}, "new") is False
        assert data.cas("table", data.get("table"), "new") is True
        assert run(CONNECT + "tell($g->table);", service.php) == [["new"]]


def test_increments_of_many_processes_of_both_are_all_counted(service: Service) -> None:
    code = CONNECT + "heard(); for ($i = 0; $i < 200; $i++) { $g->increment('n'); } tell('done');"
    with contextlib.ExitStack() as stack, service.python() as data:
        data.set("n", 0)
        programs = [stack.enter_context(program(code, service.php)) for _ in range(4)]
        for running in programs:
            running.say()
        for _ in range(200):
            data.increment("n")
        assert [running.end() for running in programs] == [[["done"]]] * 4
        assert data.get("n") == 1000


def test_cas_of_many_processes_loses_nothing(service: Service) -> None:
    code = """
        $me = $argv[2];
        for ($i = 0; $i < 25; $i++) {
            do { $old = $g->log; } while (!$g->cas('log', $old, array_merge($old, ["$me.$i"])));
        }
    """
    with contextlib.ExitStack() as stack, service.python() as data:
        data.set("log", [])
        programs = [stack.enter_context(program(CONNECT + code, service.php, me)) for me in range(3)]
        assert [running.end() for running in programs] == [[]] * 3
        log = data.get("log")
        assert sorted(log) == sorted(f"{me}.{i}" for me in range(3) for i in range(25))
        for me in range(3):
            assert [entry for entry in log if entry.startswith(f"{me}.")] == [f"{me}.{i}" for i in range(25)]


def test_an_object_is_refused_and_php_knows(service: Service) -> None:
    code = """
        $g->k = 1;
        try { $g->k = new ArrayObject([1]); tell('set'); } catch (RuntimeException $e) { tell('refused'); }
        $g = new GlobalDataClient($argv[1]);
        tell($g->k);
    """
    assert run(CONNECT + code, service.php) == [["refused"], [1]]
    service.server.wait_for("PHP client .* an object: only scalars and arrays are taken")


def test_what_php_cannot_read_is_no_wrong_value(service: Service) -> None:
    code = """
        try { tell($g->big); } catch (RuntimeException $e) { tell('refused'); }
        $g = new GlobalDataClient($argv[1]);
        tell($g->add('big', 1));
    """
    with service.python() as data:
        data.set("big", 2**63)
        assert run(CONNECT + code, service.php) == [["refused"], [False]]
        assert data.get("big") == 2**63


def test_what_php_was_told_is_set_survives_kill_9(free_port: Any) -> None:
    with serving(free_port(), persist=True) as service:
        for n in range(5):
            code = "$g->add('n', 0); $g->text = \"$argv[2]\"; tell($g->increment('n'));"
            assert run(CONNECT + code, service.php, f"text {n}") == [[n + 1]]
            os.kill(service.server.status()["processes"][0]["pid"], signal.SIGKILL)
            service.server.wait_for(f"(?s)(?:ready after.*){{{n + 2}}}")
            assert run(CONNECT + "tell($g->n, $g->text);", service.php) == [[n + 1, f"text {n}"]]
