"""TOML in, a ServerSpec or a complaint out."""

# ruff: noqa: E501 - a complaint stands beside its cause

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from workermand import config, places
from workermand.errors import ConfigError
from workermand.spec import (
    HttpLimits,
    Inbox,
    Keepalive,
    KeyPair,
    Limits,
    ListenSpec,
    LogSpec,
    ServerSpec,
    SessionSpec,
    Timeouts,
    TlsSpec,
    WebSocketLimits,
    WorkerSpec,
)
from workermand.worker.handlers import CALLBACKS

ENVIRON = {"RUNTIME_DIRECTORY": "/run/rt", "STATE_DIRECTORY": "/var/st", "PORT": "2347"}
ECHO = '[worker.echo]\nlisten = "text://127.0.0.1:2347"\nhandler = "apps.echo"\n'
SHIPPED = Path(__file__).parents[1] / "config" / "workers.toml"

Load = Callable[..., ServerSpec]


@pytest.fixture
def load(tmp_path: Path) -> Load:
    """Loads a text as workers.toml; keywords are files beside it in conf.d."""

    def read(text: str, **more: str) -> ServerSpec:
        file = tmp_path / "workers.toml"
        file.write_text(text)
        (tmp_path / "conf.d").mkdir(exist_ok=True)
        for name, content in more.items():
            (tmp_path / "conf.d" / f"{name}.toml").write_text(content)
        return config.load(str(file), ENVIRON)

    return read


def complaint(load: Load, text: str, **more: str) -> str:
    with pytest.raises(ConfigError) as refused:
        load(text, **more)
    return str(refused.value)


# ---------------------------------------------------------------------------------------------------- what is read


def test_the_least_there_can_be(load: Load, tmp_path: Path) -> None:
    listen = ListenSpec(uri="text://127.0.0.1:2347", transport="tcp", protocol="text", host="127.0.0.1", port=2347)
    assert load(ECHO) == ServerSpec(
        name="workers",
        file=str(tmp_path / "workers.toml"),
        app_path=(str(tmp_path),),
        run_dir="/run/rt/workers",
        state_dir="/var/st/workers",
        workers={"echo": WorkerSpec(name="echo", handler="apps.echo", listen=(listen,))},
    )


EVERY_KEY = """
[server]
name = "chat"
app_path = ["..", "/usr"]
run_dir = "run"
state_dir = "/var/lib/x"
log = {level = "debug", format = "json", file = "log", stdout_file = "/tmp/out"}
control_group = "root"
[protocols]
line = "apps.line:Line"
[defaults]
count = 3
timeouts = {idle = "1m"}
options = {deep = {er = 1, kept = true}, list = [1]}
[worker.a]
listen = ["tcp://127.0.0.1:1", "unix://a.sock", "udp://[::]:53"]
protocol = "line"
handler = "apps.chat:Chat"
count = "auto"
user = "root"
group = "root"
reloadable = false
reuse_port = true
unix_mode = "0600"
unix_user = "root"
unix_group = "root"
backlog = 7
env = {A = "1"}
options = {deep = {er = 2}, list = [2]}
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
"""


def test_every_key(load: Load, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    server = load(EVERY_KEY)
    assert server == ServerSpec(
        name="chat",
        file=str(tmp_path / "workers.toml"),
        app_path=(str(tmp_path.parent), "/usr"),
        run_dir=str(tmp_path / "run"),
        state_dir="/var/lib/x",
        log=LogSpec(level="debug", format="json", file=str(tmp_path / "log"), stdout_file="/tmp/out"),
        control_group="root",
        protocols={"line": "apps.line:Line"},
        workers=server.workers,
    )
    a, b = server.workers["a"], server.workers["b"]
    assert a == WorkerSpec(
        name="a",
        handler="apps.chat:Chat",
        listen=a.listen,
        count=len(os.sched_getaffinity(0)),
        user="root",
        group="root",
        reloadable=False,
        reuse_port=True,
        unix_mode=0o600,
        unix_user="root",
        unix_group="root",
        backlog=7,
        env={"A": "1"},
        options={"deep": {"er": 2, "kept": True}, "list": [2]},
        limits=Limits(
            connections=5,
            per_ip=2,
            accept_rate=9,
            package=1024,
            send_buffer=100,
            inbox=Inbox(messages=3, bytes=2048),
            requests=1000,
            memory=2**30,
        ),
        timeouts=Timeouts(start=1, stop=2, idle=60, write_stall=3, busy=0.5),
        keepalive=Keepalive(idle=10, interval=5, count=3),
        tcp_nodelay=False,
    )
    assert [(one.host, one.port, one.path) for one in a.listen] == [
        ("127.0.0.1", 1, ""), ("", 0, str(tmp_path / "run" / "a.sock")), ("::", 53, ""),
    ]  # fmt: skip
    assert {one.protocol for one in a.listen} == {"line"}
    options = {"deep": {"er": 1, "kept": True}, "list": [1]}
    assert b == WorkerSpec(name="b", handler="apps.b", count=3, options=options, timeouts=Timeouts(idle=60))


def test_references_are_replaced_in_every_string(load: Load, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("s3cr3t\n")
    server = load("""
        [worker.echo]
        listen = "text://127.0.0.1:${env:PORT}"
        handler = "${env:HANDLER:-apps.echo}"
        timeouts = {stop = "${env:STOP:-5s}"}
        options = {key = "${file:secret}", list = ["$$1", {deep = "${env:PORT}"}], number = 1}
        """)
    echo = server.workers["echo"]
    assert (echo.listen[0].port, echo.handler, echo.timeouts.stop) == (2347, "apps.echo", 5)
    assert echo.options == {"key": "s3cr3t", "list": ["$1", {"deep": "2347"}], "number": 1}


def test_empty_paths_are_as_good_as_none(load: Load) -> None:
    server = load('[server]\nrun_dir = "${env:NONE:-}"\nlog = {file = ""}\n' + ECHO)
    assert (server.run_dir, server.log.file) == ("/run/rt/workers", None)


def test_a_handler_for_all(load: Load) -> None:
    server = load("[defaults]\nhandler = 'a.b'\n[worker.x]\n[worker.y]\nhandler = 'c'\n")
    assert [worker.handler for worker in server.workers.values()] == ["a.b", "c"]


def test_the_environment_is_the_process_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RUNTIME_DIRECTORY", "/run/mine")
    (tmp_path / "x.toml").write_text(ECHO)
    assert config.load(str(tmp_path / "x.toml")).run_dir == "/run/mine/x"


# ---------------------------------------------------------------------------------------------------- complaints

COMPLAINTS = [
    # keys
    (ECHO + "cuont = 1", 'worker.echo.cuont: unknown key; did you mean "count"?'),
    (ECHO + "name = 'x'", "worker.echo.name: unknown key; there are backlog, count"),
    (ECHO + "limits = {pakage = 1}", 'worker.echo.limits.pakage: unknown key; did you mean "package"?'),
    (ECHO + "package = 1", 'worker.echo.package: unknown key; did you mean "limits.package"?'),
    (ECHO + "idle = 1", 'worker.echo.idle: unknown key; did you mean "timeouts.idle"?'),
    ("[defaults]\ncuont = 1\n" + ECHO, 'defaults.cuont: unknown key; did you mean "count"?'),
    ("[wroker.echo]\nhandler = 'a'", 'wroker: unknown key; did you mean "worker"?'),
    ("listen = 1", "listen: unknown key; there are defaults, protocols, server, worker"),
    ("[server]\nappath = []\n" + ECHO, 'server.appath: unknown key; did you mean "app_path"?'),
    ("[server.log]\nlevle = 'info'\n" + ECHO, 'server.log.levle: unknown key; did you mean "level"?'),
    ("[server]\nlevel = 'info'\n" + ECHO, 'server.level: unknown key; did you mean "log.level"?'),
    # kinds of values
    (ECHO + "count = 'three'", 'worker.echo.count: found "three", expected an integer, from 1 to 10000, or "auto"'),
    (ECHO + "count = 0", "worker.echo.count: found 0, expected an integer, from 1 to 10000, or \"auto\""),
    (ECHO + "count = 1_000_000_000", "worker.echo.count: found 1000000000, expected an integer, from 1 to 10000"),
    ("[defaults]\ncount = 0\n" + ECHO, "defaults.count: found 0, expected an integer, from 1 to 10000"),
    (ECHO + "reloadable = 'yes'", 'worker.echo.reloadable: found "yes", expected true or false'),
    (ECHO + "timeouts = {stop = 'soon'}", 'worker.echo.timeouts.stop: found "soon", expected a duration such as "30s"'),
    (ECHO + "timeouts = {start = 0}", "worker.echo.timeouts.start: found 0, expected a duration"),
    (ECHO + "keepalive = {idle = 0}", "worker.echo.keepalive.idle: found 0, expected a duration"),
    (ECHO + "limits = {package = '1XB'}", 'worker.echo.limits.package: found "1XB", expected a size such as "64KiB"'),
    (ECHO + "session = {store = 'mysql://root:pw@db'}", "worker.echo.session.store: no store of this kind; expected "),
    (ECHO + "session = {cookie = 'a b'}", 'worker.echo.session.cookie: found "a b", expected a cookie\'s name'),
    (ECHO + "session = {path = 'x'}", 'worker.echo.session.path: found "x", expected a path, beginning with "/"'),
    (ECHO + "session = {domain = 'a;b'}", 'worker.echo.session.domain: found "a;b", expected a domain, or nothing'),
    (ECHO + "session = {lifetime = 0}", "worker.echo.session.lifetime: found 0, expected a duration"),
    (ECHO + "session = {secure = 'yes'}", 'worker.echo.session.secure: found "yes", expected true or false, or "auto"'),
    (ECHO + "session = {same_site = 'lax'}", 'worker.echo.session.same_site: found "lax", expected "Lax" or "Strict"'),
    (ECHO + "session = {same_site = 'None'}", 'session.same_site: "None" without TLS: browsers drop the cookie; set '),
    (ECHO + "session = {cookie = '__Secure-a'}", "session.cookie: __Secure- without TLS: browsers drop the cookie"),
    (ECHO + "session = {cookie = '__Host-a', secure = true, path = '/a'}", "session.cookie: __Host- is for the whole "),
    (ECHO + "limits = 7", "worker.echo.limits: found 7, expected a table"),
    (ECHO + "backlog = 9999999999", "worker.echo.backlog: found 9999999999, expected an integer, from 1 to 2147483647"),
    (ECHO + "limits = {package = '9999999999TiB'}", 'worker.echo.limits.package: found "9999999999TiB", expected a size'),
    (ECHO + "env = {A = 1}", "worker.echo.env.A: found 1, expected a string"),
    (ECHO + "env = {'A=B' = '1'}", "worker.echo.env.A=B: not a name for a variable; expected one without ="),
    (ECHO + "env = {'' = '1'}", "worker.echo.env.: not a name for a variable"),
    (ECHO + 'env = {A = "x\\u0000"}', "worker.echo.env.A: found a NUL character; leave it out"),
    (ECHO + 'user = "x\\u0000"', "worker.echo.user: found a NUL character"),
    (ECHO + "user = ''", 'worker.echo.user: there is no user ""; make it (useradd --system NAME), or comment the line out'),
    ('[server]\nrun_dir = "/x\\u0000"\n' + ECHO, "server.run_dir: found a NUL character"),
    ('[server]\napp_path = ["x\\u0000"]\n' + ECHO, "server.app_path: found a NUL character"),
    ("[server]\napp_path = ['/no/such']\n" + ECHO, "server.app_path: /no/such is not there; make it, or drop it here"),
    (ECHO + "unix_mode = 660", 'worker.echo.unix_mode: found 660, expected an octal string such as "0660"'),
    (ECHO + "unix_mode = '0668'", 'worker.echo.unix_mode: found "0668", expected an octal string'),
    ("[server]\nlog = {level = 'loud'}\n" + ECHO, 'server.log.level: found "loud", expected "debug" or "info" or'),
    ("[server]\nlog = 'x'\n" + ECHO, 'server.log: found "x", expected a table'),
    ("[server]\nrun_dir = 7\n" + ECHO, "server.run_dir: found 7, expected a string"),
    ("[server]\napp_path = [7]\n" + ECHO, "server.app_path: found [7], expected a string, or a list of strings"),
    ("server = 7\n" + ECHO, "server: found 7, expected a table"),
    ("defaults = 7\n" + ECHO, "defaults: found 7, expected a table"),
    ("protocols = 7\n" + ECHO, "protocols: found 7, expected a table"),
    ("worker = 7", "worker: found 7, expected a table"),
    ("[worker]\nlisten = 'text://0.0.0.0:1'", 'worker.listen: found "text://0.0.0.0:1", expected a table'),
    # names
    ("[server]\nname = 'a b'\n" + ECHO, 'server.name: found "a b"; expected letters, digits, . _ -'),
    ("[worker.'a/b']\nhandler = 'a'", "worker.a/b: not a name for a worker; expected letters, digits, . _ -"),
    ("[worker.'..']\nhandler = 'a'", "worker...: not a name for a worker"),
    # handlers
    ("[worker.echo]\ncount = 1", 'worker.echo.handler: missing; expected a module or a class, as in "apps.echo"'),
    ("[worker.echo]\nhandler = 'apps/e.py'", 'worker.echo.handler: found "apps/e.py", expected "module" or "module:Class"'),
    ("[worker.echo]\nhandler = ''", 'worker.echo.handler: found "", expected "module"'),
    # protocols and addresses
    ("[protocols]\ntext = 'a:B'\n" + ECHO, "protocols.text: not a free scheme"),
    ("[protocols]\n'a b' = 'a:B'\n" + ECHO, "protocols.a b: not a free scheme"),
    ("[protocols]\nline = 'a'\n" + ECHO, 'protocols.line: found "a", expected "module:Class"'),
    ("[protocols]\nline = 7\n" + ECHO, 'protocols.line: found 7, expected "module:Class"'),
    (ECHO.replace("text:", "txt:"), 'worker.echo.listen: "txt://127.0.0.1:2347": unknown scheme "txt"; did you mean "text"?'),
    ("[protocols]\njsonnl = 'a:B'\n" + ECHO.replace("text:", "jsonl:"), 'did you mean "jsonnl"?'),
    (ECHO.replace("2347", "0"), "worker.echo.listen: \"text://127.0.0.1:0\": found port 0; expected 1 to 65535"),
    ("[defaults]\nlisten = 'x'\n" + ECHO, 'defaults.listen: "x" is not an address; expected scheme://host:port'),
    (ECHO + "protocol = 'frame'", 'worker.echo.listen: "text://127.0.0.1:2347" and protocol = "frame" name two protocols'),
    ("[worker.x]\nhandler = 'a'\nprotocol = 'txt'", 'worker.x.protocol: found "txt", expected "raw", "text", "frame"'),
    (ECHO + ECHO.replace("echo", "other"), 'worker.other.listen: "text://127.0.0.1:2347" is the address of worker.echo too'),
    ("[worker.x]\nhandler = 'a'\nlisten = ['tcp://127.0.0.1:1', 'text://127.0.0.1:1']", '"text://127.0.0.1:1" twice'),
    (ECHO + "[worker.b]\nhandler = 'a'\nlisten = 'tcp://0.0.0.0:2347'", 'worker.b.listen: "tcp://0.0.0.0:2347" overlaps "text://127.0.0.1:2347" of worker.echo'),
    (ECHO + "[worker.b]\nhandler = 'a'\nlisten = 'tcp://[::ffff:127.0.0.1]:2347'", "is the address of worker.echo too"),
    ("[worker.x]\nhandler = 'a'\nlisten = ['tcp://[::]:1', 'tcp://0.0.0.0:1']", '"tcp://0.0.0.0:1" overlaps "tcp://[::]:1" of worker.x; give each its own'),
    ("[worker.x]\nhandler = 'a'\nlisten = 'unix://control.sock'", "is the address of the daemon's control socket too"),
    ("[server]\nrun_dir = '/" + "x" * 100 + "'\n" + ECHO, "server.run_dir: "),
    # users
    (ECHO + "user = 'no-such'", 'worker.echo.user: there is no user "no-such"; make it (useradd --system no-such)'),
    ("[defaults]\nuser = 'no-such'\n" + ECHO, 'defaults.user: there is no user "no-such"'),
    (ECHO + "unix_group = 'no-such'", 'worker.echo.unix_group: there is no group "no-such"; make it (groupadd'),
    ("[server]\ncontrol_group = 'no-such'\n" + ECHO, 'server.control_group: there is no group "no-such"'),
    # references
    (ECHO + "options = {since = 1979-05-27}", "worker.echo.options.since: found the date or time 1979-05-27; write it as a string, in quotes"),
    (ECHO + "options = {deep = [{at = 07:32:00}]}", "worker.echo.options.deep.at: found the date or time 07:32:00; write it"),
    (ECHO + "options = {id = 9223372036854775808}", "worker.echo.options.id: found 9223372036854775808; an integer has 64 bits"),
    (ECHO + "options = {a = ['${env:NOT_SET}']}", "worker.echo.options.a: ${env:NOT_SET}: the variable is not set"),
    ("[server]\nname = '$x'\n" + ECHO, "server.name: a lone $"),
    # files
    ("", "there is no [worker.NAME]; a daemon needs at least one"),
    ("[server]\ninclude = 'more.toml'\n" + ECHO, 'server.include: there is no file "more.toml"'),
    ("[worker.echo]\ncount = = 1", "not TOML: Invalid value (at line 2, column 9)"),
    ("[worker.echo]\ncount = 1\ncount = 2", "not TOML: Cannot overwrite a value (at "),
    ("a = " + "1" * 5000, "not TOML: "),
    ("a = " + "[" * 5000, "tables or lists are nested too deeply"),
    (".".join("a" * 900) + " = 1", "tables or lists are nested too deeply"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "words"), COMPLAINTS, ids=range(len(COMPLAINTS)))
def test_complaints(load: Load, text: str, words: str) -> None:
    said = complaint(load, text)
    assert words in said and said.startswith("workers.toml: ")
    assert "\n" not in said


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=f"^{tmp_path}/x.toml: cannot be read: No such file or directory$"):
        config.load(str(tmp_path / "x.toml"), ENVIRON)
    with pytest.raises(ConfigError, match="cannot be read: Is a directory"):
        config.load(str(tmp_path), ENVIRON)


def test_a_file_in_another_encoding(tmp_path: Path) -> None:
    (tmp_path / "x.toml").write_bytes(b"[server]\nname = '\xe9'\n")
    with pytest.raises(ConfigError, match=r"^x.toml: not UTF-8 \(at line 2\); save it in this encoding$"):
        config.load(str(tmp_path / "x.toml"), ENVIRON)


def test_a_byte_order_mark_is_no_harm(tmp_path: Path) -> None:
    (tmp_path / "x.toml").write_text(ECHO, encoding="utf-8-sig")
    assert list(config.load(str(tmp_path / "x.toml"), ENVIRON).workers) == ["echo"]


def test_with_reuse_port_addresses_may_overlap(load: Load) -> None:
    both = "[defaults]\nreuse_port = true\n" + ECHO + "[worker.any]\nhandler = 'a'\nlisten = 'tcp://0.0.0.0:2347'\n"
    assert list(load(both).workers) == ["echo", "any"]
    assert 'overlaps "text://127.0.0.1:2347" of worker.echo' in complaint(load, both + "reuse_port = false")


def test_what_handlers_are_told_may_hold_a_nul(load: Load) -> None:
    assert load(ECHO + 'options = {delimiter = "\\u0000"}').workers["echo"].options == {"delimiter": "\0"}


@pytest.mark.parametrize("name", ["my workers.toml", "-x.toml"])
def test_a_file_whose_name_names_no_daemon(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text(ECHO)
    with pytest.raises(ConfigError, match=r"server.name: found "):
        config.load(str(tmp_path / name), ENVIRON)


def test_without_root_only_the_own_user(load: Load, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 65534)
    assert load(ECHO + "user = 'nobody'").workers["echo"].user == "nobody"
    said = complaint(load, ECHO + "user = 'daemon'")
    assert 'worker.echo.user: only root can use another user, "daemon"; start as root, or comment the line out' in said


KEYS = st.sampled_from([*config.TOP, *config.SERVER, *config.WORKER, "echo", "idle", "inbox", "level", "x"])
SCALARS = st.one_of(st.integers(), st.floats(), st.booleans(), st.dates(), st.text(alphabet="text:/0.1[]$s{env}KiB "))
TREES = st.recursive(SCALARS, lambda inner: st.lists(inner) | st.dictionaries(KEYS, inner), max_leaves=20)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(document=st.dictionaries(KEYS, TREES))
def test_any_tree_is_a_configuration_or_a_complaint(
    document: dict[str, object], load: Load, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(config.tomli, "loads", lambda _text: document)
        with contextlib.suppress(ConfigError):
            load("")


# ---------------------------------------------------------------------------------------------------- tls


def tls_worker(listen: str, tls: str) -> str:
    return f"[worker.x]\nhandler = 'a'\nlisten = {listen}\ntls = {{{tls}}}\n"


def test_every_key_of_tls(load: Load, tmp_path: Path) -> None:
    (tmp_path / "word").write_text("secret\n")
    text = """
cert = "c.pem", key = "../k.pem", password = "${file:word}", ca = "/ca.pem", verify_client = "optional",
alpn = ["a", "b"], min_version = "1.3", sni = {"b.example" = {cert = "b.pem"}, c = {cert = "/c.pem", key = "c.key"}}
""".replace("\n", " ")
    worker = load(tls_worker("'text://127.0.0.1:1'", text)).workers["x"]
    assert worker.tls == TlsSpec(
        cert=str(tmp_path / "c.pem"),
        key=str(tmp_path.parent / "k.pem"),
        password="secret",
        ca="/ca.pem",
        verify_client="optional",
        alpn=("a", "b"),
        min_version="1.3",
        sni={
            "b.example": KeyPair(cert=str(tmp_path / "b.pem")),
            "c": KeyPair(cert="/c.pem", key=str(tmp_path / "c.key")),
        },
    )
    assert "secret" not in repr(worker)


@pytest.mark.parametrize(
    ("listen", "encrypted"),
    [
        (["http://127.0.0.1:1", "https://127.0.0.1:2", "udp://127.0.0.1:3"], [False, True, False]),
        (["text://127.0.0.1:1", "wss://127.0.0.1:2"], [False, True]),
        (["text://127.0.0.1:1", "unix://a.sock"], [True, True]),
        ([], []),
    ],
)
def test_which_listeners_are_encrypted(load: Load, listen: list[str], encrypted: list[bool]) -> None:
    worker = load(tls_worker(str(listen), "cert = 'c'")).workers["x"]
    assert [one.tls for one in worker.listen] == encrypted
    assert {one.protocol for one in worker.listen if one.uri.startswith("https")} <= {"http"}


def test_defaults_may_have_a_part_of_tls(load: Load) -> None:
    worker = load("[defaults]\ntls = {min_version = '1.3'}\n" + tls_worker("[]", "cert = '/c'")).workers["x"]
    assert worker.tls == TlsSpec(cert="/c", min_version="1.3")


@pytest.mark.parametrize(
    ("listen", "tls", "words"),
    [
        (
            "'udp://127.0.0.1:1'",
            "cert = 'c'",
            'x.tls: "udp://127.0.0.1:1" cannot be encrypted; there is no TLS over udp: give it',
        ),
        ("[]", "", "worker.x.tls.cert: missing; expected the PEM file"),
        ("[]", "cert = 'c', sni = {'a.b' = {}}", "worker.x.tls.sni.a.b.cert: missing"),
        ("[]", "cert = 'c', verify_client = true", "worker.x.tls.ca: missing; verify_client needs"),
        (
            "[]",
            "cert = 'c', ca = 'a'",
            "worker.x.tls.ca: nobody is asked for a certificate; set verify_client = true or",
        ),
        ("[]", "cert = 'c', verify_client = 'maybe'", 'found "maybe", expected true or false, or "optional"'),
        ("[]", "cert = 'c', min_version = '1.1'", 'found "1.1", expected "1.2" or "1.3"'),
        ("[]", "cert = 'c', password = 1234", "tls.password: found something else, expected a string"),
        ("[]", "cret = 'c'", 'worker.x.tls.cret: unknown key; did you mean "cert"?'),
        ("[]", "cert = 'c', sni = {a = {kye = 'c'}}", 'worker.x.tls.sni.a.kye: unknown key; did you mean "key"?'),
        ("[]", "cert = 'c', sni = {a = 'b.pem'}", 'worker.x.tls.sni.a: found "b.pem", expected a table'),
    ],
)
def test_complaints_of_tls(load: Load, listen: str, tls: str, words: str) -> None:
    said = complaint(load, tls_worker(listen, tls))
    assert words in said and "1234" not in said


def test_https_needs_a_certificate(load: Load) -> None:
    said = complaint(load, "[worker.x]\nhandler = 'a'\nlisten = 'wss://127.0.0.1:1'")
    assert said.endswith(
        'worker.x.listen: "wss://127.0.0.1:1" needs a certificate; expected tls = {cert = "FILE.pem", key = "FILE.pem"} beside it'
    )
    with pytest.raises(ConfigError, match="needs a certificate"):
        config.from_command_line("https://127.0.0.1:1", "apps.x", environ=ENVIRON)


# ---------------------------------------------------------------------------------------------------- proxy_protocol


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        (
            "listen = 'text://127.0.0.1:1'",
            "worker.x.trusted_proxies: missing, with proxy_protocol = true; name the proxies",
        ),
        ("listen = ['unix://s', 'http://127.0.0.1:1']\ntrusted_proxies = []", "worker.x.trusted_proxies: missing"),
        (
            "listen = ['text://127.0.0.1:1', 'udp://127.0.0.1:2']\ntrusted_proxies = ['::1']",
            'worker.x.proxy_protocol: "udp://127.0.0.1:2" is no stream; only streams begin with a PROXY header',
        ),
    ],
)
def test_a_proxy_header_needs_a_stream_and_somebody_to_believe(load: Load, keys: str, words: str) -> None:
    assert words in complaint(load, f"[worker.x]\nhandler = 'a'\nproxy_protocol = true\n{keys}\n")


@pytest.mark.parametrize(
    "keys", ["listen = 'unix://s'", "", "listen = 'text://127.0.0.1:1'\ntrusted_proxies = ['10.0.0.0/8']"]
)
def test_a_proxy_header_is_off_by_default(load: Load, keys: str) -> None:
    text = f"[worker.x]\nhandler = 'a'\n{keys}\n"
    assert not load(text).workers["x"].proxy_protocol
    assert load(f"[defaults]\nproxy_protocol = true\n{text}").workers["x"].proxy_protocol


# ---------------------------------------------------------------------------------------------------- includes

INCLUDE = '[server]\ninclude = "conf.d/*.toml"\n'


def test_includes_come_in_lexical_order_and_start_from_the_defaults(load: Load) -> None:
    server = load(
        INCLUDE + "[defaults]\ncount = 3\n" + ECHO,
        b="[worker.b]\nhandler = 'b'\ncount = 2\n",
        a="[worker.a]\nhandler = 'a'\nlisten = 'line://127.0.0.1:1'\n[protocols]\nline = 'apps.line:Line'\n",
    )
    assert {name: worker.count for name, worker in server.workers.items()} == {"echo": 3, "a": 3, "b": 2}
    assert list(server.workers) == ["echo", "a", "b"]
    assert server.protocols == {"line": "apps.line:Line"}


def test_a_pattern_may_match_nothing_or_the_file_itself(load: Load, tmp_path: Path) -> None:
    assert list(load(INCLUDE + ECHO).workers) == ["echo"]
    include = f"[server]\ninclude = ['*.toml', '{tmp_path}/*.toml', 'conf.d/a.toml']\n"
    assert list(load(include + ECHO, a="[worker.a]\nhandler = 'a'").workers) == ["echo", "a"]


def test_a_file_is_read_once_however_it_is_named(load: Load, tmp_path: Path) -> None:
    include = f"[server]\ninclude = ['conf.d/*.toml', './conf.d/a.toml', '{tmp_path}/conf.d/a.toml']\n"
    assert list(load(include, a="[worker.a]\nhandler = 'a'").workers) == ["a"]


def test_links_may_lead_nowhere_or_back(load: Load, tmp_path: Path) -> None:
    (tmp_path / "conf.d").mkdir()
    (tmp_path / "conf.d" / "back.toml").symlink_to("../workers.toml")
    assert list(load(INCLUDE + ECHO).workers) == ["echo"]
    (tmp_path / "conf.d" / "nowhere.toml").symlink_to("nothing")
    assert "conf.d/nowhere.toml: cannot be read: No such file" in complaint(load, INCLUDE + ECHO)


def test_references_of_an_included_file_are_relative_to_it(load: Load, tmp_path: Path) -> None:
    (tmp_path / "conf.d").mkdir()
    (tmp_path / "conf.d" / "secret").write_text("x")
    server = load(INCLUDE, a="[worker.a]\nhandler = 'a'\noptions = {key = '${file:secret}'}")
    assert server.workers["a"].options == {"key": "x"}


@pytest.mark.parametrize(
    ("included", "words"),
    [
        (ECHO, "conf.d/more.toml: worker.echo: defined in workers.toml already"),
        ("[protocols]\nline = 'a:C'\n", "conf.d/more.toml: protocols.line: defined in workers.toml already"),
        (
            "[server]\nname = 'x'\n",
            "conf.d/more.toml: server: in an included file; that belongs into the file that includes",
        ),
        ("[wroker]\n", 'conf.d/more.toml: wroker: unknown key; did you mean "worker"?'),
        ("[worker.x]\nhandler = '${env:NOT_SET}'\n", "conf.d/more.toml: worker.x.handler: ${env:NOT_SET}"),
        ("[worker.x]\nhandler = 'x'\ncount = 0\n", "conf.d/more.toml: worker.x.count: found 0"),
        ("[worker.x]\nhandler = 'x'\nlisten = 'tcp://127.0.0.1:2347'\n", "conf.d/more.toml: worker.x.listen: "),
        ("[worker.x\n", "conf.d/more.toml: not TOML: "),
    ],
)
def test_complaints_about_an_included_file_name_it(load: Load, included: str, words: str) -> None:
    assert words in complaint(load, INCLUDE + "[protocols]\nline = 'a:B'\n" + ECHO, more=included)


# ---------------------------------------------------------------------------------------------------- without a file


def test_from_the_command_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RUNTIME_DIRECTORY", "/run/rt")
    server = config.from_command_line("text://127.0.0.1:2347", "apps.chat:Chat", 2)
    assert (server.name, server.run_dir, server.file) == ("chat", "/run/rt/chat", None)
    assert server.app_path == (str(tmp_path),)
    assert [(worker.name, worker.handler, worker.count) for worker in server.workers.values()] == [
        ("chat", "apps.chat:Chat", 2)
    ]
    assert config.from_command_line("tcp://127.0.0.1:1", "x", name="other").name == "other"


@pytest.mark.parametrize(
    ("uri", "handler", "count", "words"),
    [
        (
            "nonsense",
            "apps.echo",
            1,
            'command line: worker.echo.listen: "nonsense" is not an address; expected scheme://host:port',
        ),
        (
            "tcp://127.0.0.1:1",
            "apps.echo",
            "many",
            'command line: worker.echo.count: found "many", expected an integer',
        ),
        ("tcp://127.0.0.1:1", "", 1, 'command line: worker.worker.handler: found ""'),
    ],
)
def test_complaints_about_the_command_line(uri: str, handler: str, count: int | str, words: str) -> None:
    with pytest.raises(ConfigError) as refused:
        config.from_command_line(uri, handler, count, environ=ENVIRON)
    assert words in str(refused.value)


# ---------------------------------------------------------------------------------------------------- the shipped file


def test_the_shipped_file_runs_as_it_is() -> None:
    server = config.load(str(SHIPPED), ENVIRON)
    assert {name: [one.uri for one in worker.listen] for name, worker in server.workers.items()} == {
        "echo": ["text://0.0.0.0:2347"],
        "udp_echo": ["udp://0.0.0.0:2348"],
        "unix_echo": ["unix://echo.sock"],
        "clock": [],
        "room": ["text://0.0.0.0:2349"],
        "hello_http": ["http://0.0.0.0:8080"],
        "websocket_echo": ["websocket://0.0.0.0:8081"],
        "upload": ["http://127.0.0.1:8082"],
        "channel": ["unix://channel.sock"],
        "globaldata": ["unix://globaldata.sock"],
        "register": ["frame://127.0.0.1:1236"],
        "chat_gateway": ["websocket://0.0.0.0:7272"],
        "chat_business": [],
        "chat_web": ["http://0.0.0.0:55151"],
    }
    assert server.app_path == (str(SHIPPED.parents[1]),)
    assert server.workers["room"].count == 1
    assert all(worker.user is None for worker in server.workers.values())


def test_the_shipped_file_has_every_key_once() -> None:
    """Set, or commented out; and what is commented out is the default or a value that would be taken."""
    lines = [line for line in SHIPPED.read_text().splitlines() if re.match(r"(# )?\w+ = ", line)]
    written = [line.removeprefix("# ").partition(" = ")[0] for line in lines]
    kinds = (Limits, HttpLimits, WebSocketLimits, Timeouts, Keepalive, SessionSpec, LogSpec)
    tables = [config.WORKER, config.SERVER, *(kind.__struct_fields__ for kind in kinds)]
    wanted = [key for table in tables for key in table]
    for of_its_own in ("log", "limits", "http", "websocket", "timeouts", "keepalive", "session"):
        wanted.remove(of_its_own)
    once = {key for key in wanted if written.count(key) == wanted.count(key)}
    # What a worker needs stands in every worker that needs it.
    assert set(wanted) - once <= {"handler", "listen", "count", "options", "protocol", "reloadable"}
    assert all(written.count(key) >= wanted.count(key) for key in wanted)


def test_the_shipped_file_says_the_true_defaults(load: Load) -> None:
    """With every comment taken off, and nothing but defaults left, it says what spec.py says."""
    text = re.sub(r"^# (?=\w+ = )", "", SHIPPED.read_text(), flags=re.MULTILINE)
    text = re.sub(r"^(user|group|unix_user|unix_group|control_group|include|tls) = .*", "", text, flags=re.MULTILINE)
    server = load(text)
    echo, unix = server.workers["echo"], server.workers["unix_echo"]
    assert echo == WorkerSpec(name="echo", handler="apps.echo", count=2, listen=echo.listen)
    assert unix.unix_mode == WorkerSpec(name="x", handler="x").unix_mode
    assert (server.log.level, server.log.format) == (LogSpec().level, LogSpec().format)
    assert (server.run_dir, server.state_dir) == (f"{places.SYSTEM_RUN}/workers", f"{places.SYSTEM_STATE}/workers")


@pytest.mark.parametrize("name", ["README.md", "README.zh-CN.md"])
def test_the_readmes_name_every_setting_and_every_callback(name: str) -> None:
    written = set(re.findall(r"\w+", " ".join(re.findall(r"`[^`\n]+`", SHIPPED.parents[1].joinpath(name).read_text()))))
    kinds = (Limits, HttpLimits, WebSocketLimits, Timeouts)
    tables = (config.SERVER, config.WORKER, *(kind.__struct_fields__ for kind in kinds), CALLBACKS)
    assert {key for table in tables for key in table} <= written


def test_make_install_finds_the_two_lines_that_it_rewrites() -> None:
    lines = SHIPPED.read_text().splitlines()
    assert [line for line in lines if line.startswith("app_path =")] == ['app_path = [".."]']
    defaults = lines.index("[defaults]")
    assert [lines.index(line) > defaults for line in lines if line.startswith('# user = "workermand"')] == [True]
