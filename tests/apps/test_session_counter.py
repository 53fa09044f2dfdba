"""apps.session_counter, with curl for a browser."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.worker.redis_server import redis_server
from workermand.testing import running_server


def visit(jar: Path, url: str) -> str:
    command = ["curl", "--silent", "--show-error", "--location", "--cookie", jar, "--cookie-jar", jar, url]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=30).stdout


def count(store: str, tmp_path: Path) -> None:
    keys = {"listen": "http://127.0.0.1:0", "count": 2, "session": {"store": store}}
    with running_server("apps.session_counter", **keys) as server:  # type: ignore[arg-type]
        url = f"http://127.0.0.1:{server.port}/"
        for number in range(1, 6):
            assert f"Visits: {number}." in visit(tmp_path / "jar", url)
        assert "Visits: 1." in visit(tmp_path / "other", url)
        server.reload()
        assert "Visits: 6." in visit(tmp_path / "jar", url)
        assert "Visits: 1." in visit(tmp_path / "jar", f"{url}forget")
        assert "Visits: 2." in visit(tmp_path / "other", url)


def test_visits_are_counted_for_each_browser_by_all_processes(tmp_path: Path) -> None:
    count("file", tmp_path)


@pytest.mark.real
def test_redis_counts_them_as_well(tmp_path: Path, free_port: Callable[[], int]) -> None:
    with redis_server(free_port()) as server:
        count(server.url, tmp_path)


def test_an_address_of_redis_that_is_none_is_said_at_the_start() -> None:
    with pytest.raises(Exception, match=r"session\.store is no address of a redis"):
        with running_server("apps.session_counter", listen="http://127.0.0.1:0", session={"store": "redis://a:b/c"}):
            pass
