from __future__ import annotations

import msgspec
import pytest

from workermand.spec import Limits, ListenSpec, Timeouts, WorkerSpec


def test_settings_are_frozen_and_compare_by_value() -> None:
    worker = WorkerSpec(name="echo", handler="apps.echo")
    assert worker == WorkerSpec(name="echo", handler="apps.echo")
    with pytest.raises(AttributeError):
        worker.count = 2  # type: ignore[misc]


def test_they_cross_the_link_whole() -> None:
    listen = ListenSpec(uri="unix://a", transport="unix", protocol="text", path="/run/a")
    worker = WorkerSpec(name="echo", handler="a", listen=(listen,), options={"a": [1]}, limits=Limits(package=7))
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(worker), type=WorkerSpec) == worker


def test_every_limit_and_deadline_has_a_default() -> None:
    assert Limits() and Timeouts()
    assert (Limits().package, Limits().send_buffer) == (10 * 2**20, 2**20)
    assert (Timeouts().start, Timeouts().stop, Timeouts().write_stall) == (30, 10, 30)


def test_an_address_is_what_the_kernel_is_asked_for() -> None:
    tcp = ListenSpec(uri="text://0.0.0.0:1", transport="tcp", protocol="text", host="0.0.0.0", port=1)
    unix = ListenSpec(uri="unix://a", transport="unix", protocol="raw", path="/run/a")
    assert tcp.address == ("tcp", "0.0.0.0", 1) and unix.address == ("unix", "", "/run/a")
