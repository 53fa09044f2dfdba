"""workermand as a service of a real systemd: installed, started, reloaded, hurt in every way, stopped, uninstalled.

All of it happens in one box (box.sh). Each test begins with what `make install` left, and nothing running.
"""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.system.box import Box, booted, skip_unless_possible

ROOT = Path(__file__).parents[2]
PYTHON = "/usr/bin/python3"  # one under /root would be closed to the workers' users
UNIT = "workermand.service"
CONFIG = "/etc/workermand/workers.toml"
ECHO = "/srv/workermand/apps/echo.py"
ORIGINAL = "/opt/workermand/share/workermand/original"
PORT = 2347
OFFLINE = {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": "/wheels"}

CAP_NET_BIND_SERVICE = 1 << 10

Eventually = Callable[..., Any]

pytestmark = [pytest.mark.real, pytest.mark.xdist_group("systemd"), pytest.mark.timeout(300)]

CLIENT = """
import socket, sys
client = socket.create_connection(("127.0.0.1", int(sys.argv[1])), timeout=30)
client.sendall(sys.argv[2].encode() + b"\\n")
print(client.makefile().readline().strip())
"""
"""One line there, one line back."""


@pytest.fixture(scope="module")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Everything that `make install` fetches: the box has no network."""
    skip_unless_possible()
    place = tmp_path_factory.mktemp("wheels")
    place.parent.chmod(0o755)
    subprocess.run([PYTHON, "-m", "venv", str(place / "venv")], check=True, timeout=120)
    pip = [str(place / "venv/bin/pip"), "--quiet", "--quiet", "--disable-pip-version-check"]
    subprocess.run(
        [*pip, "wheel", "--use-pep517", "--wheel-dir", str(place), str(ROOT), "hatchling"], check=True, timeout=280
    )
    return place


@pytest.fixture(scope="module")
def installed(wheels: Path) -> Iterator[Box]:
    """A box in which `make install` has been run."""
    with booted("workermand", (ROOT, "/src"), (wheels, "/wheels")) as box:
        make(box, "install")
        yield box


def make(box: Box, verb: str) -> str:
    return box.do(["make", "--silent", "-C", "/src", verb, f"PYTHON={PYTHON}"], env=OFFLINE)


@pytest.fixture
def box(installed: Box) -> Iterator[Box]:
    """As installed: nothing runs, nothing is edited. What the journal has of it is shown when the test fails."""
    since = installed.cursor()
    yield installed
    print(installed.journal(after=since))
    installed.do("systemctl stop 'workermand*' && systemctl reset-failed")
    installed.do("systemctl disable --quiet workermand.service workermand.socket")
    installed.do(
        "rm -rf /etc/systemd/system/workermand*.d /etc/workermand/*.toml /srv/workermand/apps "
        "/run/workermand /var/lib/workermand"
    )
    installed.do(f"cp {ORIGINAL}/workers.toml {CONFIG} && cp -R {ORIGINAL}/apps /srv/workermand/apps")
    installed.do("systemctl daemon-reload")


@pytest.fixture
def service(box: Box) -> Box:
    """The service, started: systemctl returns when the daemon has said READY."""
    box.do(["systemctl", "start", UNIT])
    return box


def say(box: Box, line: str, port: int = PORT) -> str:
    return box.do([PYTHON, "-c", CLIENT, str(port), line])


def ids(box: Box, user: str) -> tuple[int, int]:
    """The user's number and that of its group."""
    return int(box.do(["id", "-u", user])), int(box.do(["id", "-g", user]))


def rights(box: Box, pid: int) -> tuple[set[int], set[int], set[int], int]:
    """What the kernel knows of a process: users, groups, supplementary groups, effective capabilities."""
    facts = dict(line.split(":", 1) for line in box.read(f"/proc/{pid}/status").splitlines())
    users, groups, further = ({int(word) for word in facts[key].split()} for key in ("Uid", "Gid", "Groups"))
    return users, groups, further, int(facts["CapEff"], 16)


def status(box: Box, file: str = CONFIG) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(box.do(["workermanctl", "-c", file, "status", "--json"]))
    return found


def children(box: Box, worker: str = "echo") -> dict[int, int]:
    """Slot -> pid of who serves in it; those who drain are on their way out."""
    rows = [row for row in status(box)["processes"] if row["worker"] == worker and row["state"] != "draining"]
    return {row["id"]: row["pid"] for row in rows}


def master(box: Box) -> int:
    return int(box.show(UNIT, "MainPID"))


def edit(box: Box, path: str, pattern: str, replacement: str) -> None:
    text, count = re.subn(pattern, replacement, box.read(path), count=1, flags=re.MULTILINE)
    assert count, f"no {pattern} in {path}"
    box.write(path, text)


# ---------------------------------------------------------------------------------------------------- install, start


def test_make_install_puts_everything_in_its_place(box: Box) -> None:
    assert box.do("cat /opt/workermand/pyvenv.cfg").startswith("home = /usr/bin\n")
    assert box.do(["/opt/workermand/bin/workermand", "--version"]) == box.do(["workermand", "--version"])
    config = box.read(CONFIG)
    assert 'app_path = ["/srv/workermand"]\n' in config, "where apps.echo is /srv/workermand/apps/echo.py"
    assert '\nuser = "workermand"\n' in config
    box.do("diff -r -x __pycache__ /src/apps /srv/workermand/apps")
    for unit in (UNIT, "workermand-unprivileged.service", "workermand@.service", "workermand.socket"):
        box.do(["cmp", f"/src/systemd/{unit}", f"/etc/systemd/system/{unit}"])
    assert "/nologin" in box.do(["getent", "passwd", "workermand"])
    assert "somaxconn" in box.read("/etc/sysctl.d/60-workermand.conf")
    assert box.do(["stat", "-c", "%a %U", CONFIG, ECHO]) == "644 root\n644 root"


def test_enabled_and_started_it_serves_as_soon_as_systemctl_returns(box: Box) -> None:
    box.do(["systemctl", "enable", "--now", "--quiet", "workermand"])
    assert {row["state"] for row in status(box)["processes"]} <= {"idle", "busy"}, "READY came when all had started"
    assert say(box, "hello") == "hello"
    assert box.do(["systemctl", "is-enabled", "workermand"]) == "enabled"
    assert box.show(UNIT, "Type", "ActiveState", "SubState", "NRestarts") == "notify active running 0"


def test_systemctl_and_workermanctl_tell_how_it_is(service: Box) -> None:
    shown = service.do(["systemctl", "status", "--no-pager", "--full", UNIT])
    assert re.search(r'Status: "\d+/\d+ children of \d+ workers serve"', shown), shown
    table = service.do(["workermanctl", "status"])
    assert "echo" in table and "text://0.0.0.0:2347" in table
    assert service.do(["workermanctl", "ping"])
    report = status(service)
    assert report["server"]["pid"] == master(service)
    assert {row["pid"] for row in report["processes"]} == service.pids(UNIT) - {master(service)}


def test_what_a_handler_prints_is_in_the_journal_at_once(box: Box) -> None:
    edit(box, ECHO, r"^( +)connection\.send\(data\)", r"\1print('heard', data)\n\1connection.send(data)")
    box.do(["systemctl", "start", UNIT])
    assert say(box, "hello") == "hello"
    assert re.search(r"^\[echo#\d \d+\] heard hello$", box.journal(UNIT), re.MULTILINE)


def test_installing_again_keeps_what_was_edited(box: Box) -> None:
    edit(box, ECHO, r"connection\.send\(data\)", 'connection.send("mine " + data)')
    edit(box, CONFIG, r"^\[worker\.echo\]", "# mine\n[worker.echo]")
    said = make(box, "install")
    assert f"{CONFIG} is kept as it is" in said
    assert "/srv/workermand/apps is kept as it is" in said
    assert "# mine" in box.read(CONFIG)
    box.do(["systemctl", "start", UNIT])
    assert say(box, "hello") == "mine hello"


def test_uninstall_leaves_only_what_was_edited(box: Box) -> None:
    try:
        edit(box, ECHO, r"connection\.send\(data\)", 'connection.send("mine " + data)')
        box.do(["systemctl", "enable", "--now", "--quiet", "workermand"])
        box.do(["systemctl", "enable", "--quiet", "workermand@chat"])
        said = make(box, "uninstall")
        assert "/srv/workermand/apps was changed and is kept" in said
        assert "mine " in box.read(ECHO)
        leftovers = box.run("ls -d /opt/workermand /etc/workermand /etc/systemd/system/*/workermand* /run/workermand "
                            "/etc/*.d/*workermand* /usr/local/bin/workermand*")  # fmt: skip
        assert leftovers.stdout == ""
        assert box.run(["systemctl", "status", UNIT]).returncode == 4, "no such unit"
    finally:
        box.do("rm -rf /srv/workermand/apps")
        make(box, "install")


# ---------------------------------------------------------------------------------------------------- users


def test_the_master_is_root_and_each_worker_its_user(box: Box) -> None:
    edit(box, CONFIG, r'^handler = "apps.room"', 'user = "daemon"\nhandler = "apps.room"')
    box.do(["systemctl", "start", UNIT])
    assert rights(box, master(box))[0] == {0}
    users = {"workermand": ids(box, "workermand"), "daemon": ids(box, "daemon")}
    rows = status(box)["processes"]
    assert {row["worker"] for row in rows} > {"echo", "room"}
    for row in rows:
        uid, gid = users["daemon" if row["worker"] == "room" else "workermand"]
        assert rights(box, row["pid"]) == ({uid}, {gid}, {gid}, 0), row


def test_without_root_it_serves_a_low_port(box: Box) -> None:
    edit(box, CONFIG, r":2347", ":80")
    box.do(["systemctl", "start", UNIT])
    box.do(["systemctl", "start", "workermand-unprivileged"])
    assert box.show(UNIT, "ActiveState", "Result") == "inactive success", "one or the other"
    assert say(box, "hello", 80) == "hello"
    uid, gid = ids(box, "workermand")
    for pid in box.pids("workermand-unprivileged.service"):
        assert rights(box, pid) == ({uid}, {gid}, {gid}, CAP_NET_BIND_SERVICE)
    box.do(["systemctl", "reload", "workermand-unprivileged"])
    assert say(box, "again", 80) == "again"
    box.do(["systemctl", "stop", "workermand-unprivileged"])
    box.do(["systemctl", "start", UNIT])
    assert say(box, "as before", 80) == "as before", "what the other has left behind is no hindrance"


# ---------------------------------------------------------------------------------------------------- reload


def test_an_edited_file_is_reloaded_by_either_tool(service: Box) -> None:
    edit(service, CONFIG, r"^count += \d+", "count = 3")
    service.do(["workermanctl", "reload"])
    assert len(children(service)) == 3
    edit(service, CONFIG, r"^count += \d+", "count = 1")
    service.do(["systemctl", "reload", UNIT])
    assert len(children(service)) == 1
    assert say(service, "hello") == "hello"


def test_an_edited_handler_answers_after_a_reload(service: Box) -> None:
    before = master(service)
    reloads = (["systemctl", "reload", UNIT], ["workermanctl", "reload"], ["systemctl", "reload", UNIT])
    for number, reload in enumerate(reloads):
        edit(service, ECHO, r"connection\.send\(.*data\)", f'connection.send("{number} " + data)')
        service.do(reload)
        assert say(service, "hello") == f"{number} hello"
    assert master(service) == before


def test_a_broken_file_changes_nothing_and_is_explained(service: Box) -> None:
    before, since = children(service), service.cursor()
    edit(service, CONFIG, r"^count +=", "cuont =")
    assert service.run(["systemctl", "reload", UNIT]).returncode == 1
    assert 'did you mean "count"?' in service.journal(UNIT, since)
    refused = service.run(["workermanctl", "reload"])
    assert refused.returncode == 1
    assert 'did you mean "count"?' in refused.stdout + refused.stderr
    assert children(service) == before
    assert say(service, "hello") == "hello"
    assert service.show(UNIT, "ActiveState") == "active"


def test_a_broken_handler_changes_nothing_and_is_explained(service: Box) -> None:
    before, since = children(service), service.cursor()
    edit(service, ECHO, r"^def ", "deaf ")
    assert service.run(["systemctl", "reload", UNIT]).returncode == 1
    assert "SyntaxError" in service.journal(UNIT, since)
    assert children(service) == before
    assert say(service, "hello") == "hello"


def test_a_broken_file_is_not_tried_again_and_again(box: Box) -> None:
    edit(box, CONFIG, r"^count +=", "cuont =")
    assert box.run(["systemctl", "start", UNIT]).returncode == 1
    assert box.show(UNIT, "ActiveState", "ExecMainStatus", "NRestarts") == "failed 78 0"


# ---------------------------------------------------------------------------------------------------- harm


def test_a_killed_child_is_replaced(service: Box, eventually: Eventually) -> None:
    before, leader = children(service), master(service)
    service.do(["kill", "-KILL", str(before[0])])

    def replaced() -> bool:
        now = children(service)
        return now.keys() == before.keys() and now[0] != before[0]

    eventually("another child in its slot", replaced)
    assert say(service, "hello") == "hello"
    assert master(service) == leader
    assert ("echo", "SIGKILL", 1) in [(row["worker"], row["reason"], row["count"]) for row in status(service)["exits"]]


def restarted(box: Box, before: set[int]) -> bool:
    """By systemd, once, and of the old processes none is left."""
    running = box.show(UNIT, "ActiveState", "SubState", "NRestarts") == "active running 1"
    return running and not before & box.pids(UNIT)


def test_a_killed_master_leaves_no_orphan_and_is_restarted(service: Box, eventually: Eventually) -> None:
    before = service.pids(UNIT)
    service.do(["systemctl", "kill", "--signal=KILL", "--kill-who=main", UNIT])
    eventually("a new daemon", lambda: restarted(service, before))
    assert say(service, "hello") == "hello"


def test_a_master_that_hangs_is_found_by_the_watchdog(box: Box, eventually: Eventually) -> None:
    box.do("mkdir -p /etc/systemd/system/workermand.service.d")
    box.write("/etc/systemd/system/workermand.service.d/watchdog.conf", "[Service]\nWatchdogSec=3s\nRestartSec=100ms\n")
    box.do(["systemctl", "daemon-reload"])
    box.do(["systemctl", "start", UNIT])
    before = box.pids(UNIT)
    box.do(["systemctl", "kill", "--signal=STOP", "--kill-who=main", UNIT])
    eventually("a new daemon", lambda: restarted(box, before))
    assert "Watchdog timeout (limit 3s)!" in box.journal(UNIT)
    assert say(box, "hello") == "hello"


@pytest.mark.parametrize("whom", ["main", "all"])
def test_usr2_writes_the_status_and_harms_nobody(service: Box, eventually: Eventually, whom: str) -> None:
    before = service.pids(UNIT)
    service.do(["systemctl", "kill", "--signal=USR2", f"--kill-who={whom}", UNIT])
    text = eventually("status.txt", lambda: service.run("cat /run/workermand/workers/status.txt").stdout)
    assert "text://0.0.0.0:2347" in text
    assert service.do(["stat", "-c", "%a", "/run/workermand/workers/status.txt"]) == "640"
    assert status(service)["exits"] == []
    assert service.pids(UNIT) == before
    assert say(service, "hello") == "hello"


# ---------------------------------------------------------------------------------------------------- beside each other


def test_a_socket_of_systemd_starts_it_and_outlives_it(box: Box, eventually: Eventually) -> None:
    box.do(["systemctl", "start", "workermand.socket"])
    assert box.show(UNIT, "ActiveState") == "inactive"
    for line in ("hello", "again"):
        assert say(box, line) == line, "the client has started it"
        # A child serves as soon as it can; the daemon is READY when all do.
        eventually("READY", lambda: box.show(UNIT, "ActiveState") == "active")
        box.do(["systemctl", "stop", "--quiet", UNIT])
        assert box.show("workermand.socket", "ActiveState", "SubState") == "active listening"
        assert box.show(UNIT, "ActiveState", "Result") == "inactive success"


def test_daemons_live_side_by_side(service: Box) -> None:
    files = {}
    for port, name in enumerate(("a", "b"), 3456):
        files[name] = f"/etc/workermand/{name}.toml"
        service.write(
            files[name],
            '[server]\napp_path = ["/srv/workermand"]\n\n'
            f'[worker.echo]\nlisten = "text://127.0.0.1:{port}"\nhandler = "apps.echo"\nuser = "workermand"\n',
        )
    service.do(["systemctl", "start", "workermand@a", "workermand@b"])
    assert [say(service, "hello", port) for port in (PORT, 3456, 3457)] == ["hello"] * 3
    assert {status(service, file)["server"]["name"] for file in (CONFIG, *files.values())} == {"workers", "a", "b"}
    service.do(["systemctl", "stop", "workermand@a"])
    edit(service, files["b"], ":3457", ":3458")
    service.do(["systemctl", "reload", "workermand@b"])
    assert say(service, "moved", 3458) == "moved"
    assert status(service)["server"]["name"] == "workers", "its directory is still there"
    assert say(service, "hello") == "hello"
    assert service.run(["workermanctl", "-c", files["a"], "status"]).returncode == 3


def test_stop_is_an_end_in_order(service: Box) -> None:
    service.do(["systemctl", "stop", UNIT])
    assert service.show(UNIT, "ActiveState", "Result", "ExecMainStatus") == "inactive success 0"
    assert service.pids(UNIT) == set()
    assert service.do("ls /run/workermand/workers") == ""
    assert service.run(["workermanctl", "-c", CONFIG, "status"]).returncode == 3
