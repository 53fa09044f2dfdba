"""blocking.BlockingGlobalData: the verbs, the attributes, and a server that goes."""

from __future__ import annotations

import math
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from tests.services.globaldata.conftest import crash, serving
from workermand import ConfigError
from workermand.services.globaldata import BlockingGlobalData, GlobalDataError
from workermand.services.links.errors import TimedOut, Unreachable


def test_verbs() -> None:
    with serving() as (_server, url), BlockingGlobalData(url) as data:
        assert data.get("a") is None and data.get("a", 7) == 7 and data.get_versioned("a") is None
        assert data.add("a", [1, b"\0", None]) and not data.add("a", 1)
        assert data.get("a") == [1, b"\0", None] and data.exists("a")
        assert data.cas("a", [1, b"\0", None], 5) and not data.cas("a", 6, 7)
        assert data.increment("a") == 6 and data.increment("a", -0.5) == 5.5 and data.increment("b") is None
        value, version = data.get_versioned("a") or (None, 0)
        assert value == 5.5 and data.cas_version("a", version, 1) and not data.cas_version("a", version, 2)
        data.set_many({"b": 2, "c": None})
        assert data.get_many(["c", "x", "b"]) == {"c": None, "b": 2} and data.keys() == ["a", "b", "c"]
        assert data.ttl("a") == math.inf and data.ttl("x") is None
        assert data.expire("a", 50) and 40 < (data.ttl("a") or 0) <= 50 and not data.expire("x", 5)
        assert data.delete("a") and not data.delete("a") and data.keys("a") == []
        for wrong in (lambda: data.get(5), lambda: data.increment("a", True), lambda: data.set("a", object())):  # type: ignore[arg-type]
            with pytest.raises(TypeError):
                wrong()
        for name in ("", "$lock.a"):
            with pytest.raises(ValueError, match="key"):
                data.set(name, 1)
        with pytest.raises(GlobalDataError, match="c: increment: c holds no number"):
            data.increment("c")


def test_large_ones() -> None:
    with serving() as (_server, url), BlockingGlobalData(url) as data:
        values = {f"key{number}": bytes([number]) * 900_000 for number in range(12)}
        data.set_many(values)
        assert data.get_many(values) == values
        data.set_many(dict.fromkeys([f"{number:0900}" for number in range(5000)]))
        assert len(data.keys("0")) == 5000


def test_attributes() -> None:
    with serving() as (_server, url), BlockingGlobalData(url) as data:
        assert data.counter is None and "counter" not in data
        data.counter = 1
        assert data.counter == 1 and "counter" in data
        data.counter += 1
        assert data.get("counter") == 2
        del data.counter
        assert "counter" not in data
        for name in ("get", "_private", "keys"):
            with pytest.raises(AttributeError, match=name):
                setattr(data, name, 1)
            with pytest.raises(AttributeError, match=name):
                delattr(data, name)
        with pytest.raises(AttributeError):
            _ = data._missing


def test_lock() -> None:
    with serving() as (_server, url), BlockingGlobalData(url) as data, BlockingGlobalData(url) as other:
        with data.lock("a", ttl=30) as first:
            with pytest.raises(TimedOut, match="lock a: another has held it"), other.lock("a", ttl=1, wait=0.01):
                raise AssertionError("both have it")
        with other.lock("a", ttl=30) as second:
            assert second > first
        with pytest.raises(GlobalDataError, match="not held any more"), data.lock("b", ttl=30):
            other._write("$lock.b", 24)  # whoever deletes it
        with pytest.raises(ZeroDivisionError), data.lock("b", ttl=30):
            _ = 1 / 0
        with data.lock("b", ttl=1, wait=0):
            pass
        with pytest.raises(ValueError, match="ttl"), data.lock("b", ttl=0):
            pass


def test_the_server_goes_and_comes_back() -> None:
    with serving(options={"persist": True}) as (server, url), BlockingGlobalData(url) as data:
        data.counter = 5
        crash(server)
        assert data.counter == 5
        crash(server)
        assert data.increment("counter") == 6
        server.ctl("stop")
        server.wait()
        with pytest.raises(Unreachable):
            data.increment("counter")


def test_threads() -> None:
    with serving() as (_server, url), BlockingGlobalData(url) as data:
        data.counter = 0

        def work() -> None:
            for _ in range(100):
                data.increment("counter")

        threads = [threading.Thread(target=work) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert data.counter == 800


@pytest.mark.parametrize(
    "url", ["redis://127.0.0.1", "nats://127.0.0.1", "channel://a", "globaldata://a,a", "globaldata://"]
)
def test_urls_that_cannot_be(url: str) -> None:
    with pytest.raises(ConfigError):
        BlockingGlobalData(url)


def test_a_script_needs_no_loop() -> None:
    """Neither uvloop nor asyncio is loaded for it."""
    script = (
        "import sys; from workermand.services.globaldata import BlockingGlobalData;"
        "BlockingGlobalData('globaldata://127.0.0.1:1'); print('uvloop' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=Path.cwd())
    assert done.stdout == "False\n"
