"""What tests of every layer share: ports, short paths, waiting with a deadline; and that CI skips nothing real."""

from __future__ import annotations

import os
import shutil
import socket
import tempfile
import time
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import Any, TypeVar

import hypothesis
import pytest

T = TypeVar("T")

PATIENCE = 30.0
"""Seconds that a condition may take to come true: far above what it needs, so that only a broken one gets there."""


# A busy machine is no failure: no example is timed, nor how long it takes to make one.
hypothesis.settings.register_profile(
    "workermand", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.load_profile("workermand")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--soak", action="store_true", help="load tests at their full length (make soak)")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """A machine may lack systemd or root; CI may not: there a test marked ``real`` that skips has failed."""
    report = yield
    in_ci = os.environ.get("CI", "").lower() in ("1", "true")
    if report.skipped and in_ci and item.get_closest_marker("real") and not hasattr(report, "wasxfail"):
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr
        report.outcome = "failed"
        report.longrepr = f"{item.nodeid} has to run in CI. {reason}"
    return report


@pytest.fixture
def full(request: pytest.FixtureRequest) -> bool:
    """Whether a load test runs at its full length; `make test` runs a shortened round."""
    return bool(request.config.getoption("--soak"))


@pytest.fixture
def short_dir() -> Iterator[Path]:
    """A directory with a short path: that of a unix socket may have 107 bytes, and tmp_path takes most of them."""
    path = Path(tempfile.mkdtemp(prefix="wm-", dir="/tmp"))
    yield path
    shutil.rmtree(path)


@pytest.fixture
def free_port() -> Callable[[], int]:
    """A function that gives a port nobody listens on, another at each call."""
    given: set[int] = set()

    def choose() -> int:
        while True:
            with socket.socket() as tcp, socket.socket(type=socket.SOCK_DGRAM) as udp:
                tcp.bind(("127.0.0.1", 0))
                port: int = tcp.getsockname()[1]
                try:
                    udp.bind(("127.0.0.1", port))
                except OSError:
                    continue
            if port not in given:
                given.add(port)
                return port

    return choose


def wait_until(what: str, condition: Callable[[], T], patience: float = PATIENCE) -> T:
    """The first true value of ``condition``, for what comes about without an event that a test could wait for. An
    AssertionError or OSError of the condition means "not yet"; the last one is shown when the time is over."""
    deadline = time.monotonic() + patience
    while True:
        last: Any = None
        try:
            if last := condition():
                return last
        except (AssertionError, OSError) as error:
            last = error
        if time.monotonic() > deadline:
            raise AssertionError(f"{what}: not within {patience:g} s; last: {last!r}")
        time.sleep(0.02)


@pytest.fixture
def eventually() -> Callable[..., Any]:
    """``eventually(what, condition)``: see wait_until()."""
    return wait_until
