from __future__ import annotations

import os
from pathlib import Path

import msgspec
import pytest

from tests.certs import Authority
from workermand.errors import ConfigError
from workermand.master.bundles import Bundles
from workermand.spec import TlsSpec, WorkerSpec


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


def worker(pair: tuple[Path, Path] | None, name: str = "chat") -> WorkerSpec:
    tls = TlsSpec(cert=str(pair[0]), key=str(pair[1])) if pair else None
    return WorkerSpec(name=name, handler="apps.chat", tls=tls)


def content(fd: int | None) -> dict[str, bytes]:
    assert fd is not None
    return msgspec.msgpack.decode(os.pread(fd, 1 << 20, 0), type=dict[str, bytes])


def read(bundles: Bundles, *workers: WorkerSpec) -> None:
    bundles.read(workers)
    bundles.commit([worker.name for worker in workers])


def test_what_is_read_is_in_force_with_the_commit(authority: Authority) -> None:
    pair = authority.issue()
    bundles = Bundles()
    read(bundles, worker(pair), worker(None, "plain"))
    first = content(bundles.fd("chat"))
    assert first == {str(path): path.read_bytes() for path in pair}
    assert bundles.fd("plain") is None
    authority.issue()
    bundles.read([worker(pair)])
    assert content(bundles.fd("chat")) == first != content(bundles.fd("chat", coming=True))
    bundles.drop()
    assert content(bundles.fd("chat", coming=True)) == first
    bundles.read([worker(pair)])
    coming = bundles.fd("chat", coming=True)
    former = bundles.fd("chat")
    bundles.commit(["chat"])
    assert bundles.fd("chat") == coming
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(former or -1)
    bundles.close()
    assert bundles.fd("chat") is None


def test_a_restart_of_one_leaves_the_others(authority: Authority) -> None:
    pair = authority.issue()
    bundles = Bundles()
    read(bundles, worker(pair, "one"), worker(pair, "two"))
    two = bundles.fd("two")
    bundles.read([worker(pair, "one")])
    bundles.commit(["one", "two"])
    assert bundles.fd("two") == two and bundles.fd("one") is not None
    bundles.commit(["one"])
    assert bundles.fd("two") is None
    bundles.close()


def test_what_cannot_be_read_changes_nothing(authority: Authority) -> None:
    pair = authority.issue()
    bundles = Bundles()
    read(bundles, worker(pair))
    pair[1].chmod(0o644)
    before = set(os.listdir("/proc/self/fd"))
    with pytest.raises(ConfigError, match=r"worker.chat.tls.key: .* everybody may read; chmod o= "):
        bundles.read([worker(authority.issue(name="other"), "other"), worker(pair)])
    assert set(os.listdir("/proc/self/fd")) == before
    assert bundles.fd("other", coming=True) is None and bundles.fd("chat") is not None
    bundles.close()


def test_no_child_can_change_what_the_next_one_gets(authority: Authority) -> None:
    bundles = Bundles()
    read(bundles, worker(authority.issue()))
    with pytest.raises(PermissionError):
        os.pwrite(bundles.fd("chat") or -1, b"x", 0)
    bundles.close()


def test_the_status_notes_what_expires(authority: Authority, caplog: pytest.LogCaptureFixture) -> None:
    bundles = Bundles()
    cert, key = authority.issue(days=5.5)
    read(bundles, worker((cert, key)), worker(authority.issue(name="fine"), "fine"))
    assert bundles.note("chat") == f"the certificate {cert} expires in 5 days"
    assert bundles.note("fine") == bundles.note("unknown") == ""
    assert f"worker chat: the certificate {cert} expires in 5 days" in caplog.text
    bundles.close()
