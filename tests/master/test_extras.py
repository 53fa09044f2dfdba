"""Addresses at run time: real sockets, children without processes."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from workermand.link import Listen, Listening, Message, Unlisten
from workermand.master import extras as module
from workermand.master.child import Child, Event
from workermand.master.extras import Extras
from workermand.master.slots import Slot
from workermand.master.sockets import Sockets
from workermand.spec import ServerSpec, WorkerSpec


class Fake(Child):
    def __init__(self, run_dir: Path, slot: int = 0, *, user: str | None = None) -> None:
        worker = WorkerSpec(name="main", handler="apps.main", user=user)
        super().__init__(
            ServerSpec(name="t", run_dir=str(run_dir), state_dir="/s", workers={"main": worker}), worker, slot, 1
        )
        self.told: list[tuple[Message, list[int]]] = []
        self.handle(Event.READY)

    def tell(self, message: Message, fds: object = ()) -> None:
        self.told.append((message, list(fds)))  # type: ignore[call-overload]

    @property
    def answer(self) -> Listening:
        message = self.told[-1][0]
        assert isinstance(message, Listening)
        return message


@pytest.fixture
def sockets() -> Iterator[Sockets]:
    made = Sockets()
    yield made
    made.close_all()


def slots(*children: Fake) -> list[Slot]:
    made = []
    for child in children:
        slot = Slot("main", child.slot)
        slot.current = child
        made.append(slot)
    return made


def is_open(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def test_everybody_who_asks_gets_the_same_socket(
    sockets: Sockets, tmp_path: Path, free_port: Callable[[], int]
) -> None:
    extras, first, second = Extras(sockets), Fake(tmp_path, 0), Fake(tmp_path, 1)
    uri = f"text://127.0.0.1:{free_port()}"
    for child in (first, second):
        extras.listen(child, Listen(1, uri))
        assert child.answer == Listening(1, uri)
    assert first.told[0][1] == second.told[0][1] != []
    assert len(extras.addresses()) == 1


def test_it_is_closed_with_the_last_who_asked(sockets: Sockets, tmp_path: Path, free_port: Callable[[], int]) -> None:
    extras, first, second = Extras(sockets), Fake(tmp_path, 0), Fake(tmp_path, 1)
    port = free_port()
    uri = f"text://127.0.0.1:{port}"
    for child in (first, second):
        extras.listen(child, Listen(1, uri))
    extras.unlisten(first, Unlisten(uri))
    extras.sweep(slots(first, second), ())
    assert is_open(port)
    second.handle(Event.EXITED)
    extras.sweep(slots(first), ())
    assert not is_open(port)


def test_one_that_only_drains_holds_nothing_open(
    sockets: Sockets, tmp_path: Path, free_port: Callable[[], int]
) -> None:
    extras, old = Extras(sockets), Fake(tmp_path)
    port = free_port()
    extras.listen(old, Listen(1, f"text://127.0.0.1:{port}"))
    old.handle(Event.DRAINING)
    extras.sweep(slots(Fake(tmp_path)), ())
    assert not is_open(port)


def test_what_a_reload_has_put_into_the_file_is_the_files(
    sockets: Sockets, tmp_path: Path, free_port: Callable[[], int]
) -> None:
    extras, child = Extras(sockets), Fake(tmp_path)
    port = free_port()
    extras.listen(child, Listen(1, f"text://127.0.0.1:{port}"))
    child.handle(Event.EXITED)
    extras.sweep(slots(Fake(tmp_path)), sockets.addresses())
    assert is_open(port)
    assert not extras.addresses(), "a later reload may close it"


def test_another_protocol_on_the_same_address_is_unlistened_too(
    sockets: Sockets, tmp_path: Path, free_port: Callable[[], int]
) -> None:
    extras, first, second = Extras(sockets), Fake(tmp_path, 0), Fake(tmp_path, 1)
    port = free_port()
    extras.listen(first, Listen(1, f"text://127.0.0.1:{port}"))
    extras.listen(second, Listen(1, f"tcp://127.0.0.1:{port}"))
    extras.unlisten(second, Unlisten("nonsense"))
    extras.unlisten(second, Unlisten(f"tcp://127.0.0.1:{port}"))
    extras.unlisten(first, Unlisten(f"text://127.0.0.1:{port}"))
    extras.sweep(slots(first, second), ())
    assert not is_open(port)


@pytest.mark.parametrize("coming", ["an empty slot", "a child on its way"])
def test_it_stays_open_for_a_child_to_come(
    coming: str, sockets: Sockets, tmp_path: Path, free_port: Callable[[], int]
) -> None:
    extras, child = Extras(sockets), Fake(tmp_path)
    port = free_port()
    extras.listen(child, Listen(1, f"text://127.0.0.1:{port}"))
    slot = Slot("main", 0)
    if coming == "a child on its way":
        slot.current, slot.incoming = Fake(tmp_path), Fake(tmp_path)
    child.handle(Event.EXITED)
    extras.sweep([slot], ())
    assert is_open(port)
    slot.current, slot.incoming = Fake(tmp_path), None
    extras.sweep([slot], ())
    assert not is_open(port)


def test_refusals_are_answers(sockets: Sockets, tmp_path: Path, free_port: Callable[[], int]) -> None:
    extras, child = Extras(sockets), Fake(tmp_path)
    with socket.create_server(("127.0.0.1", 0)) as other:
        extras.listen(child, Listen(1, f"text://127.0.0.1:{other.getsockname()[1]}"))
    assert "in use" in child.answer.error
    extras.listen(child, Listen(2, "nonsense"))
    assert "not an address" in child.answer.error
    assert not extras.addresses()


def test_a_directory_that_cannot_be_made_is_an_answer(
    sockets: Sockets, short_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module.os, "geteuid", lambda: 0)
    extras, child = Extras(sockets), Fake(short_dir, user="nobody")
    (short_dir / "main").touch()
    extras.listen(child, Listen(1, "unix://main/x.sock"))
    assert "cannot make" in child.answer.error


@pytest.mark.parametrize(
    ("uri", "words"),
    [
        ("text://127.0.0.1:80", "port 80 is below 1024"),
        ("unix:///run/x.sock", "is outside"),
        ("unix://main/../x.sock", "is outside"),
        ("unix://main.sock", "is outside"),
        ("unix://main/x.sock", ""),
    ],
)
def test_a_worker_with_a_user_of_its_own(
    uri: str, words: str, sockets: Sockets, short_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module.os, "geteuid", lambda: 0)
    extras = Extras(sockets)
    child = Fake(short_dir, user=None if os.getuid() else "nobody")
    if child.worker.user is None:
        pytest.skip("only root gives files away")
    extras.listen(child, Listen(1, uri))
    assert words in child.answer.error
    assert bool(child.answer.error) is bool(words)
