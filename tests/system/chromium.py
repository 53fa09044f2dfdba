"""Chromium as people use it: pages that are looked at, typed into and clicked, through playwright."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from playwright.sync_api import Browser

PATIENCE = 60_000.0
"""Milliseconds, of each wait."""


@contextlib.contextmanager
def chromium() -> Iterator[Browser]:
    """Debian's, headless. Each ``new_context()`` is a browser of its own: it shares nothing with the others."""
    program = shutil.which("chromium")
    if program is None:
        pytest.skip("Debian's chromium is not installed")
    from playwright.sync_api import expect, sync_playwright  # noqa: PLC0415

    expect.set_options(timeout=PATIENCE)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=program, args=["--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu"]
        )
        try:
            yield browser
        finally:
            browser.close()
