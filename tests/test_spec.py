"""The defaults: a setting nobody has written must be one that everybody can live with."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from workermand import config, tables
from workermand.spec import (
    Keepalive,
    KeyPair,
    Limits,
    ListenSpec,
    LogSpec,
    ServerSpec,
    Spec,
    Timeouts,
    TlsSpec,
    WorkerSpec,
)

KINDS: list[type[Spec]] = [Limits, Timeouts, Keepalive, LogSpec]


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_defaults_keep_to_their_own_bounds(kind: Any) -> None:
    assert msgspec.convert(msgspec.to_builtins(kind()), kind, strict=True) == kind()


def test_a_worker_needs_a_name_and_a_handler_only() -> None:
    worker = WorkerSpec(name="echo", handler="apps.echo")
    assert msgspec.convert(msgspec.to_builtins(worker), WorkerSpec, strict=True) == worker
    assert worker.user is None and worker.listen == () and worker.count == 1 and worker.reloadable


def test_a_worker_crosses_the_link_whole() -> None:
    listen = ListenSpec(uri="unix://a", transport="unix", protocol="text", path="/run/a")
    worker = WorkerSpec(name="echo", handler="a", listen=(listen,), options={"a": [1]}, limits=Limits(package=7))
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(worker), type=WorkerSpec) == worker


def test_what_is_sent_and_received_is_bounded_by_default() -> None:
    limits = Limits()
    assert 0 < limits.send_buffer <= limits.package <= 10 * 2**20
    assert limits.inbox.messages > 0 and limits.inbox.bytes > 0 and limits.connections > 0


def test_a_drain_ends_before_systemd_kills() -> None:
    assert 0 < Timeouts().stop < 60 and 0 < Timeouts().start < 120


def test_nothing_is_limited_that_a_user_would_not_expect() -> None:
    limits, timeouts = Limits(), Timeouts()
    assert not any((limits.per_ip, limits.accept_rate, limits.requests, limits.memory, timeouts.idle, timeouts.busy))


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        (("tcp", "127.0.0.1", 1, ""), ("tcp", "127.0.0.1", 1, ""), True),
        (("tcp", "127.0.0.1", 1, ""), ("udp", "127.0.0.1", 1, ""), False),
        (("tcp", "127.0.0.1", 1, ""), ("tcp", "0.0.0.0", 1, ""), False),
        (("unix", "", 0, "/a"), ("unix", "", 0, "/a"), True),
        (("unix", "", 0, "/a"), ("unix", "", 0, "/b"), False),
    ],
)
def test_an_address_is_what_the_kernel_is_asked_for(one: Any, other: Any, same: bool) -> None:
    def listen(protocol: str, transport: Any, host: str, port: int, path: str) -> ListenSpec:
        return ListenSpec(uri=protocol, transport=transport, protocol=protocol, host=host, port=port, path=path)

    assert (listen("text", *one).address == listen("frame", *other).address) is same


def test_specs_do_not_change() -> None:
    with pytest.raises(AttributeError):
        Limits().package = 1  # type: ignore[misc]


def test_every_setting_can_be_written() -> None:
    """What config.py lets an operator write, and nothing else, makes a ServerSpec and its workers."""
    assert set(config.WORKER) | {"name"} == set(WorkerSpec.__struct_fields__) | {"protocol"}
    made = {"file", "protocols", "workers"}
    assert set(config.SERVER) | made == set(ServerSpec.__struct_fields__) | {"include"}
    assert all(hint is not Any for hint in tables.hints_of(WorkerSpec).values())


def test_a_password_is_not_shown() -> None:
    tls = TlsSpec(cert="c.pem", password="secret", sni={"a.example": KeyPair(cert="a.pem")})
    assert repr(tls) == str(tls) == "TlsSpec(cert='c.pem', sni=['a.example'])"
    assert list(tls.pairs) == ["", "a.example"]
