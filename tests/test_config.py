# ruff: noqa: E501 - a complaint and its cause stand on one line
"""TOML in, ServerSpec or a complaint out."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import pytest

from workermand import config
from workermand.errors import ConfigError
from workermand.spec import Inbox, Keepalive, Limits, ListenSpec, LogSpec, ServerSpec, Timeouts, WorkerSpec

ENVIRON = {"RUNTIME_DIRECTORY": "/run/rt", "STATE_DIRECTORY": "/var/st"}
ECHO_URI = "text://127.0.0.1:2347"
ECHO = '[worker.echo]\nlisten = "text://127.0.0.1:2347"\nhandler = "apps.echo"\n'


@pytest.fixture
def load(tmp_path: Path) -> Any:
    def read(text: str, **more: str) -> ServerSpec:
        for name, content in more.items():
            path = tmp_path / "conf.d" / f"{name}.toml"
            path.parent.mkdir(exist_ok=True)
            path.write_text(content)
        file = tmp_path / "workers.toml"
        file.write_text(text)
        return config.load(str(file), ENVIRON)

    return read


def test_the_least_there_can_be(load: Any, tmp_path: Path) -> None:
    spec = load(ECHO)
    assert spec.name == "workers" and spec.file == str(tmp_path / "workers.toml")
    assert (spec.run_dir, spec.state_dir) == ("/run/rt/workers", "/var/st/workers")
    assert spec.app_path == (str(tmp_path),)
    assert spec.workers == {
        "echo": WorkerSpec(
            name="echo", handler="apps.echo",
            listen=(ListenSpec(uri=ECHO_URI, transport="tcp", protocol="text", host="127.0.0.1", port=2347),),
        )
    }  # fmt: skip


def test_every_key(load: Any, tmp_path: Path) -> None:
    spec = load("""
        [server]
        name = "chat"
        app_path = ["..", "/srv/apps"]
        run_dir = "run"
        state_dir = "/var/lib/x"
        log = {level = "debug", format = "json", file = "log", stdout_file = "/tmp/out"}
        [protocols]
        line = "apps.line:Line"
        [defaults]
        count = 3
        timeouts = {idle = "1m"}
        [worker.a]
        listen = ["tcp://127.0.0.1:1", "unix://a.sock"]
        protocol = "text"
        handler = "apps.chat:Chat"
        count = "auto"
        reloadable = false
        reuse_port = true
        unix_mode = "0600"
        backlog = 7
        env = {A = "1"}
        options = {deep = {er = [1, "x"]}}
        timeouts = {start = 1, stop = "2s", write_stall = "3s", busy = 0.5}
        keepalive = {idle = "10s", interval = "5s", count = 3}
        tcp_nodelay = false
        [worker.a.limits]
        connections = 5
        per_ip = 2
        accept_rate = 9
        package = "1KiB"
        send_buffer = 100
        inbox = {messages = 3, bytes = "2KiB"}
        requests = 1000
        memory = "1GiB"
        [worker.b]
        handler = "apps.b"
        """)
    a, b = spec.workers["a"], spec.workers["b"]
    assert (spec.name, spec.run_dir, spec.state_dir) == ("chat", str(tmp_path / "run"), "/var/lib/x")
    assert spec.app_path == (str(tmp_path.parent), "/srv/apps")
    assert spec.log == LogSpec(level="debug", format="json", file=str(tmp_path / "log"), stdout_file="/tmp/out")
    assert [listen.path or listen.port for listen in a.listen] == [1, str(tmp_path / "run" / "a.sock")]
    assert {listen.protocol for listen in a.listen} == {"text"}
    assert a.count == len(os.sched_getaffinity(0)) and b.count == 3
    assert (a.reloadable, a.reuse_port, a.unix_mode, a.backlog, a.tcp_nodelay) == (False, True, 0o600, 7, False)
    assert a.options == {"deep": {"er": [1, "x"]}} and a.env == {"A": "1"}
    assert a.limits == Limits(connections=5, per_ip=2, accept_rate=9, package=1024, send_buffer=100,
                              inbox=Inbox(messages=3, bytes=2048), requests=1000, memory=2**30)  # fmt: skip
    assert a.timeouts == Timeouts(start=1, stop=2, idle=60, write_stall=3, busy=0.5)
    assert b.timeouts == Timeouts(idle=60)
    assert a.keepalive == Keepalive(idle=10, interval=5, count=3)


COMPLAINTS = {
    "[worker.echo]\nhandler = 'a'\ncuont = 1": 'workers.toml: worker.echo.cuont: unknown key; did you mean "count"?',
    "[worker.echo]\nhandler = 'a'\nlimits = {pakage = 1}": 'worker.echo.limits.pakage: unknown key; did you mean "package"?',
    "[wroker.echo]\nhandler = 'a'": 'workers.toml: wroker: unknown key; did you mean "worker"?',
    "[server]\nappath = []\n" + ECHO: 'server.appath: unknown key; did you mean "app_path"?',
    "[server]\nlog = {levle = 'info'}\n" + ECHO: 'server.log.levle: unknown key; did you mean "level"?',
    "[server]\nlog = {level = 'loud'}\n" + ECHO: 'server.log.level: found "loud"',
    "[server]\nlog = 'x'\n" + ECHO: 'server.log: found "x"; expected a table',
    "[server]\nname = 'a b'\n" + ECHO: "server.name: found 'a b'",
    "[server]\nrun_dir = 7\n" + ECHO: "server.run_dir: found 7; expected a string",
    "[server]\napp_path = [7]\n" + ECHO: "server.app_path: found [7]; expected a list of strings",
    "[server]\ncontrol_group = 'no-such-group'\n" + ECHO: 'server.control_group: there is no group "no-such-group"',
    "[worker.echo]\nlisten = 'text://127.0.0.1:1'": "worker.echo.handler: missing",
    "[worker.echo]\nhandler = 'apps/echo.py'": 'worker.echo.handler: found "apps/echo.py"; expected "module"',
    ECHO + "count = 'three'": 'worker.echo.count: found "three", expected an integer of 1 or more, or "auto"',
    ECHO + "count = 0": "worker.echo.count: found 0, expected an integer of 1 or more",
    ECHO + "count = true": "worker.echo.count: found true",
    ECHO + "reloadable = 'yes'": 'worker.echo.reloadable: found "yes", expected bool',
    ECHO
    + "timeouts = {stop = 'soon'}": 'worker.echo.timeouts.stop: found "soon"; expected a number or a string such as "30s"',
    ECHO + "timeouts = {stop = -1}": "worker.echo.timeouts.stop: found -1",
    ECHO
    + "limits = {package = '1XB'}": 'worker.echo.limits.package: found "1XB"; expected a number or a string such as "64KiB"',
    ECHO + "limits = 7": "worker.echo.limits: found 7; expected a table",
    ECHO + "unix_mode = 660": 'worker.echo.unix_mode: found 660; expected an octal string such as "0660"',
    ECHO + "user = 'no-such-user'": 'worker.echo.user: there is no user "no-such-user"; useradd --system no-such-user',
    ECHO + "group = 'no-such-group'": 'worker.echo.group: there is no group "no-such-group"',
    ECHO + "env = {A = 1}": "worker.echo.env",
    ECHO + "options = {a = '${env:NOT_SET}'}": "worker.echo.options.a: ${env:NOT_SET}: the variable NOT_SET is not set",
    ECHO.replace(
        "text:", "txt:"
    ): 'workers.toml: worker.echo.listen: "txt://127.0.0.1:2347": unknown scheme "txt"; did you mean "text"?',
    ECHO
    + ECHO.replace("echo]", "other]"): "worker.other.listen: listens on text://127.0.0.1:2347, and so does worker.echo",
    "[worker.echo]\nhandler = 'a'\nlisten = ['tcp://127.0.0.1:1', 'text://127.0.0.1:1']": "listens on text://127.0.0.1:1, twice",
    "[worker.'a b']\nhandler = 'a'": "worker.a b: not a name",
    "[protocols]\ntext = 'a:B'\n" + ECHO: "protocols.text: not a free scheme",
    "[protocols]\nline = 'a'\n" + ECHO: 'protocols.line: found "a"; expected "module:Class"',
    "worker = 7": "worker: found 7; expected a table",
    "[worker]\necho = 7": "worker.echo: found 7; expected a table",
    "": "there is no [worker.NAME]",
    "[worker.echo\nhandler = 'a'": "workers.toml: not TOML: ",
}


@pytest.mark.parametrize(("text", "complaint"), COMPLAINTS.items(), ids=range(len(COMPLAINTS)))
def test_complaint(load: Any, text: str, complaint: str) -> None:
    with pytest.raises(ConfigError) as refused:
        load(text)
    assert complaint in str(refused.value)
    assert "workers.toml" in str(refused.value)


def test_includes_come_in_lexical_order(load: Any) -> None:
    spec = load(
        '[server]\ninclude = "conf.d/*.toml"\n' + ECHO,
        b="[worker.b]\nhandler = 'b'\n",
        a="[worker.a]\nhandler = 'a'\nlisten = 'line://127.0.0.1:1'\n[protocols]\nline = 'apps.line:Line'\n",
    )
    assert list(spec.workers) == ["echo", "a", "b"]
    assert spec.protocols == {"line": "apps.line:Line"}


@pytest.mark.parametrize(
    ("included", "complaint"),
    [
        (ECHO, "more.toml: worker.echo: defined in workers.toml already"),
        ("[server]\nname = 'x'\n", "more.toml: server: unknown key; there are protocols, worker"),
        ("[worker.x]\nhandler = '${env:NOT_SET}'\n", "more.toml: worker.x.handler: ${env:NOT_SET}"),
    ],
)
def test_complaints_of_an_include_name_it(load: Any, included: str, complaint: str) -> None:
    with pytest.raises(ConfigError) as refused:
        load('[server]\ninclude = ["conf.d/*.toml"]\n' + ECHO, more=included)
    assert complaint in str(refused.value)


def test_a_file_that_is_not_there() -> None:
    with pytest.raises(ConfigError, match="No such file"):
        config.load("/nowhere/workers.toml", ENVIRON)


def test_without_root_only_the_own_user(load: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 65534)
    assert load(ECHO + "user = 'nobody'").workers["echo"].user == "nobody"
    with pytest.raises(ConfigError, match='only root can run a worker as "daemon"; start as root, comment it out, or'):
        load(ECHO + "user = 'daemon'")


def test_locate_never_fails_on_the_rest(tmp_path: Path) -> None:
    file = tmp_path / "chat.toml"
    file.write_text("[server]\nrun_dir = 'here'\n[worker.x]\nnonsense = 1\n")
    assert config.locate(str(file), ENVIRON) == ("chat", str(tmp_path / "here"))
    file.write_text("[server]\nname = 'other'\n[[[broken")
    assert config.locate(str(file), ENVIRON) == ("chat", "/run/rt/chat")
    assert config.locate(str(tmp_path / "missing.toml"), ENVIRON) == ("missing", "/run/rt/missing")


def test_from_the_command_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    spec = config.from_command_line("text://127.0.0.1:2347", "apps.echo", 2, environ=ENVIRON)
    assert spec.workers["main"].count == 2 and spec.app_path == (str(tmp_path),) and spec.file is None
    with pytest.raises(ConfigError, match=r"command line: worker\.main\.listen"):
        config.from_command_line("nonsense", "apps.echo", environ=ENVIRON)


def test_the_shipped_file_loads_and_explains_every_key() -> None:
    file = Path(__file__).parents[1] / "config" / "workers.toml"
    spec = config.load(str(file), ENVIRON)
    assert list(spec.workers) == ["echo", "udp_echo", "unix_echo", "clock", "room"]
    text = file.read_text()
    kinds: list[type[Any]] = [WorkerSpec, Limits, Timeouts, Keepalive, LogSpec]
    keys = {key for kind in kinds for key in kind.__struct_fields__} | set(config.SERVER_KEYS) | {"protocol"}
    missing = [key for key in keys - {"name"} if not re.search(rf"(^|[{{ #]){key} = |\.{key}\]", text, re.MULTILINE)]
    assert not missing
