"""Real sockets on loopback: open, share, keep, close, adopt; and what a refusal says."""

from __future__ import annotations

import grp
import os
import pwd
import socket
import stat
from pathlib import Path

import msgspec
import pytest

from workermand.errors import ConfigError
from workermand.master import sockets as module
from workermand.master.sockets import AddressInUse, Sockets
from workermand.spec import ListenSpec, WorkerSpec


def free_port(kind: socket.SocketKind = socket.SOCK_STREAM) -> int:
    with socket.socket(socket.AF_INET, kind) as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


def tcp(port: int, host: str = "127.0.0.1") -> ListenSpec:
    return ListenSpec(uri=f"tcp://{host}:{port}", transport="tcp", protocol="raw", host=host, port=port)


def unix(path: Path) -> ListenSpec:
    return ListenSpec(uri=f"unix://{path}", transport="unix", protocol="raw", path=str(path))


def worker(*listens: ListenSpec, **settings: object) -> WorkerSpec:
    return WorkerSpec(name="echo", handler="apps.echo", listen=listens, **settings)  # type: ignore[arg-type]


@pytest.fixture
def sockets() -> Sockets:
    made = Sockets()
    yield made
    made.close_all()


def test_an_address_is_opened_once_and_shared_by_all_slots(sockets: Sockets) -> None:
    spec = worker(tcp(free_port()), count=3)
    assert sockets.open(spec) == [spec.listen[0].address]
    assert sockets.open(spec) == []
    shares = [sockets.share(spec, slot)[0][1] for slot in range(3)]
    assert shares[0] == shares[1] == shares[2] and len(shares[0]) == 1
    socket.create_connection(("127.0.0.1", spec.listen[0].port), 5).close()


def test_reuse_port_gives_each_slot_its_own(sockets: Sockets) -> None:
    spec = worker(tcp(free_port()), count=4, reuse_port=True)
    sockets.open(spec)
    shares = [sockets.share(spec, slot)[0][1] for slot in range(4)]
    assert [len(share) for share in shares] == [1, 1, 1, 1]
    assert len({share[0].fileno() for share in shares}) == 4


def test_a_surplus_slots_socket_goes_to_a_remaining_slot(sockets: Sockets) -> None:
    spec = worker(tcp(free_port()), count=4, reuse_port=True)
    sockets.open(spec)
    fewer = msgspec.structs.replace(spec, count=2)
    sockets.open(fewer)
    shares = [sockets.share(fewer, slot)[0][1] for slot in range(2)]
    assert [len(share) for share in shares] == [2, 2]
    assert len({sock.fileno() for share in shares for sock in share}) == 4, "none without a child"
    more = msgspec.structs.replace(spec, count=5)
    sockets.open(more)
    assert len({sock.fileno() for slot in range(5) for sock in sockets.share(more, slot)[0][1]}) == 5


def test_a_port_in_use_names_its_holder(sockets: Sockets) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with pytest.raises(AddressInUse, match=rf"is in use by .+ \(pid {os.getpid()}\)"):
            sockets.open(worker(tcp(port)))
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other:
        other.bind(("127.0.0.1", 0))
        port = other.getsockname()[1]
        udp = ListenSpec(uri=f"udp://0.0.0.0:{port}", transport="udp", protocol="raw", host="0.0.0.0", port=port)
        with pytest.raises(AddressInUse, match=rf"is in use by .+ \(pid {os.getpid()}\)"):
            sockets.open(worker(udp))
    assert not sockets.addresses()


def test_who_has_the_port_at_another_address_is_not_the_holder(sockets: Sockets) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        assert module.holder(tcp(port)) == module.holder(tcp(port, "0.0.0.0")) != ""
        assert module.holder(tcp(port, "127.0.0.2")) == ""


def test_a_failure_leaves_nothing_of_this_call_open(sockets: Sockets) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        good, bad = tcp(free_port()), tcp(other.getsockname()[1])
        with pytest.raises(ConfigError):
            sockets.open(worker(good, bad))
    assert not sockets.addresses()
    socket.create_server(("127.0.0.1", good.port)).close()


def test_an_address_that_overlaps_one_of_ours_says_needs_restart(sockets: Sockets) -> None:
    port = free_port()
    sockets.open(worker(tcp(port)))
    with pytest.raises(ConfigError, match="needs restart"):
        sockets.open(worker(tcp(port, "0.0.0.0")))


def test_an_address_of_another_machine(sockets: Sockets) -> None:
    with pytest.raises(ConfigError, match=r"192\.0\.2\.1 is not an address of this machine"):
        sockets.open(worker(tcp(free_port(), "192.0.2.1")))


def test_a_privileged_port_says_what_is_needed(sockets: Sockets, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: socket.socket, address: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(module.socket.socket, "bind", refuse)
    with pytest.raises(ConfigError, match="CAP_NET_BIND_SERVICE"):
        sockets.open(worker(tcp(80)))


def test_ipv6_any_takes_ipv4_too(sockets: Sockets) -> None:
    spec = worker(tcp(free_port(), "::"))
    sockets.open(spec)
    socket.create_connection(("127.0.0.1", spec.listen[0].port), 5).close()


def test_unix_mode_and_unlink(sockets: Sockets, tmp_path: Path) -> None:
    path = tmp_path / "s"
    spec = worker(unix(path), unix_mode=0o600)
    sockets.open(spec)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    sockets.open(msgspec.structs.replace(spec, unix_mode=0o666))
    assert stat.S_IMODE(path.stat().st_mode) == 0o666, "a reload adjusts the mode"
    sockets.close_all()
    assert not path.exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
def test_a_unix_socket_is_the_workers_unless_it_is_given_away(sockets: Sockets, tmp_path: Path) -> None:
    path = tmp_path / "s"
    nobody, daemon = pwd.getpwnam("nobody"), pwd.getpwnam("daemon")

    def owner(**settings: str) -> tuple[int, int]:
        sockets.open(worker(unix(path), **settings))
        return path.stat().st_uid, path.stat().st_gid

    assert owner(user="nobody") == (nobody.pw_uid, nobody.pw_gid)
    assert owner(user="nobody", unix_user="daemon") == (daemon.pw_uid, nobody.pw_gid)
    assert owner(user="nobody", group="root", unix_user="daemon") == (daemon.pw_uid, 0)
    group = grp.getgrgid(daemon.pw_gid).gr_name
    assert owner(user="nobody", group="root", unix_group=group) == (nobody.pw_uid, daemon.pw_gid)


def test_a_stale_socket_file_is_removed(sockets: Sockets, tmp_path: Path) -> None:
    path = tmp_path / "s"
    with socket.socket(socket.AF_UNIX) as crashed:
        crashed.bind(str(path))
    sockets.open(worker(unix(path)))
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(path))


def test_a_socket_in_use_is_never_removed(sockets: Sockets, tmp_path: Path) -> None:
    path = tmp_path / "s"
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(str(path))
        other.listen()
        with pytest.raises(AddressInUse):
            sockets.open(worker(unix(path)))
        assert path.exists()


def test_a_probe_that_is_refused_permission_counts_as_in_use(
    sockets: Sockets, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "s"
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(str(path))
    monkeypatch.setattr(module.socket.socket, "connect_ex", lambda self, address: 13)
    with pytest.raises(AddressInUse):
        sockets.open(worker(unix(path)))
    assert path.exists()


def test_a_file_that_is_no_socket_is_left_alone(sockets: Sockets, tmp_path: Path) -> None:
    path = tmp_path / "s"
    path.write_text("precious")
    with pytest.raises(ConfigError, match="not a socket"):
        sockets.open(worker(unix(path)))
    assert path.read_text() == "precious"


def test_a_socket_that_another_has_put_in_our_place_is_not_removed(sockets: Sockets, tmp_path: Path) -> None:
    path = tmp_path / "s"
    sockets.open(worker(unix(path)))
    path.rename(tmp_path / "moved")
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(str(path))
        sockets.close_all()
        assert path.exists()


def passed(monkeypatch: pytest.MonkeyPatch, *given: tuple[str, socket.socket]) -> dict[str, str]:
    """The environment in which systemd would start us; the descriptors stand where they happen to be."""
    first = 200
    monkeypatch.setattr(module, "LISTEN_FDS_START", first)
    for offset, (_name, sock) in enumerate(given):
        os.dup2(sock.fileno(), first + offset)
        sock.close()
    return {
        "LISTEN_PID": str(os.getpid()),
        "LISTEN_FDS": str(len(given)),
        "LISTEN_FDNAMES": ":".join(n for n, _ in given),
    }


def test_sockets_from_systemd_are_taken_by_address_and_by_name(
    sockets: Sockets, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    same = socket.create_server(("127.0.0.1", 0))
    named = socket.create_server(("127.0.0.1", 0))
    unclaimed = socket.create_server(("127.0.0.1", 0))
    address, other = same.getsockname(), named.getsockname()
    environ = passed(monkeypatch, ("x", same), ("echo", named), ("nobody", unclaimed))
    sockets.offer(environ)
    assert not environ
    sockets.open(worker(tcp(address[1]), tcp(1)))
    assert [share[1][0].getsockname() for share in sockets.share(worker(tcp(address[1]), tcp(1)), 0)] == [
        address,
        other,
    ]
    sockets.close_unclaimed()
    assert '"nobody"' in caplog.text


def test_variables_for_another_process_are_ignored(sockets: Sockets) -> None:
    environ = {"LISTEN_PID": "1", "LISTEN_FDS": "3"}
    sockets.offer(environ)
    assert not environ
    sockets.open(worker(tcp(free_port())))


def test_a_unix_socket_from_systemd_is_never_unlinked(
    sockets: Sockets, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "s"
    given = socket.socket(socket.AF_UNIX)
    given.bind(str(path))
    given.listen()
    sockets.offer(passed(monkeypatch, ("echo", given)))
    sockets.open(worker(unix(path)))
    sockets.close_all()
    assert path.exists()
