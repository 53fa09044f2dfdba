"""The units as systemd reads them, without booting: `systemd-analyze verify`, `security`, and what must be in them."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

SYSTEMD = Path(__file__).parents[1] / "systemd"
SERVICES = ["workermand.service", "workermand@.service", "workermand-unprivileged.service"]
UNITS = [*SERVICES, "workermand.socket"]
EXPOSURE = {"workermand.service": 2.6, "workermand@.service": 2.6, "workermand-unprivileged.service": 2.0}
"""The most that `systemd-analyze security` may find."""

pytestmark = pytest.mark.real


@pytest.fixture
def unit(tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    """The parametrized unit in a directory of its own, an instance where it is a template, with the programs of the
    environment at hand: verify looks whether they are there."""
    for name in UNITS:
        text = (SYSTEMD / name).read_text().replace("/opt/workermand/bin", os.path.dirname(sys.executable))
        (tmp_path / name.replace("@.", "@chat.")).write_text(text)
    return tmp_path / request.param.replace("@.", "@chat.")


def analyze(*arguments: str) -> subprocess.CompletedProcess[str]:
    """systemd-analyze. As root it would leave a file in /run: it gets one of its own."""
    if not shutil.which("systemd-analyze"):
        pytest.skip("no systemd-analyze (Debian: apt install systemd)")
    command = ["systemd-analyze", *arguments]
    if os.geteuid() == 0:
        own_run = 'mount -t tmpfs tmpfs /run && exec "$@"'
        command = ["unshare", "--mount", "--propagation", "private", "sh", "-c", own_run, "sh", *command]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


@pytest.mark.parametrize("unit", UNITS, indirect=True)
def test_systemd_has_nothing_to_say_about_a_unit(unit: Path) -> None:
    done = analyze("verify", "--man=no", str(unit))
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


@pytest.mark.parametrize("unit", SERVICES, indirect=True)
def test_a_service_is_hardened(unit: Path) -> None:
    most = EXPOSURE[unit.name.replace("@chat.", "@.")]
    done = analyze("security", "--offline=true", "--no-pager", f"--threshold={most * 10:.0f}", str(unit))
    exposure = re.search(r"Overall exposure level for .*: ([0-9.]+)", done.stdout)
    assert exposure, done.stderr
    assert float(exposure[1]) <= most, done.stdout
    assert done.returncode == 0


def settings(name: str) -> dict[str, list[str]]:
    """Every key of [Service] with all that is said about it."""
    found: dict[str, list[str]] = {}
    service = (SYSTEMD / name).read_text().split("[Service]")[1].split("\n[")[0]
    for key, value in re.findall(r"^(\w+)=(.*)$", service, re.MULTILINE):
        found.setdefault(key, []).append(value)
    return found


@pytest.mark.parametrize("name", SERVICES)
def test_how_systemd_treats_the_daemon(name: str) -> None:
    service = settings(name)
    expected = {
        "Type": "notify",
        "NotifyAccess": "main",
        "Restart": "on-failure",
        "RestartPreventExitStatus": "78",
        "KillMode": "mixed",
        "OOMPolicy": "continue",
    }
    assert {key: service[key] for key in expected} == {key: [value] for key, value in expected.items()}
    check, reload = service["ExecReload"]
    assert " check -c " in check and reload.endswith(" reload")
    assert int(service["LimitNOFILE"][0]) >= 1_000_000
    assert service["WatchdogSec"]


def test_the_root_master_may_do_what_start_up_and_psutil_need() -> None:
    service = settings("workermand.service")
    assert not any("@privileged" in value for value in service["SystemCallFilter"])
    assert "ProcSubset" not in service


def test_an_instance_is_the_service_with_a_file_of_its_own() -> None:
    """They differ in comments, names and the file: whoever changes one changes the other."""

    def lines(name: str, instance: str) -> list[str]:
        text = (SYSTEMD / name).read_text().replace(f"/etc/workermand/{instance}.toml", "FILE")
        return [line for line in text.splitlines() if not line.startswith(("#", "Description="))]

    assert lines("workermand.service", "workers") == lines("workermand@.service", "%i")
