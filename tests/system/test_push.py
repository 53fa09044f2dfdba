"""apps.push in Chromium: the six steps of a site that pushes to its pages, on a worker, with Flask and with Django."""

from __future__ import annotations

import ast
import contextlib
import json
import os
import re
import socket
import subprocess
import sys
import textwrap
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Page, expect

from tests.conftest import wait_until
from tests.system.chromium import chromium
from tests.system.cluster import free_ports, kill
from workermand.testing import running_server

pytestmark = [pytest.mark.real, pytest.mark.xdist_group("browser"), pytest.mark.timeout(240)]

ROOT = Path(__file__).parents[2]
WORKERS = {
    "worker": 'handler = "apps.push.site"',
    "flask": 'handler = "workermand.services.asgi"\noptions = { app = "apps.push.flask_site:app" }',
    "django": 'handler = "workermand.services.asgi"\noptions = { app = "apps.push.django_site:application" }',
}
PROGRAMS = {
    "flask alone": "-m flask --app apps.push.flask_site run -p {port}",
    "django alone": "-m apps.push.django_site runserver --noreload {port}",
}


class Ports:
    """Free ones: for the register, the gateway, and a site of its own."""

    def __init__(self, free_port: Callable[[], int]) -> None:
        self.register, self.gateway, self.site = free_port(), free_port(), free_port()
        self.env = {"PUSH_SERVERS": f"ws://127.0.0.1:{self.gateway}/", "PUSH_TOKEN": "sesame"}

    def tables(self, site: str = "worker") -> str:
        """Those at the top of apps/push/site.py, with another site at their end."""
        module = ast.parse((ROOT / "apps/push/site.py").read_text())
        text = str(ast.get_docstring(module, clean=False))
        (text,) = re.findall(r"^    \[worker\.register\].*?(?=^    http:)", text, re.MULTILINE | re.DOTALL)
        for key, value in (
            ("127.0.0.1:1236", f"127.0.0.1:{self.register}"),
            ("0.0.0.0:7273", f"127.0.0.1:{self.gateway}"),
            ("127.0.0.1:8085", f"127.0.0.1:{self.site}"),
            ("start_port = 2400", f"start_port = {free_ports(1)}"),
            (f"    {WORKERS['worker']}", textwrap.indent(WORKERS[site], "    ")),
        ):
            assert text.count(key) == 1
            text = text.replace(key, value)
        return textwrap.dedent(text) + "\n[worker.site.env]\n" + "".join(f'{k} = "{v}"\n' for k, v in self.env.items())


@contextlib.contextmanager
def serving(site: str, ports: Ports) -> Iterator[str]:
    """The cluster and the site: its address."""
    if site in WORKERS:
        with running_server(ports.tables(site)):
            yield f"http://127.0.0.1:{ports.site}/"
        return
    with running_server(ports.tables().replace(f":{ports.site}", ":0")):
        command = [sys.executable, *PROGRAMS[site].format(port=ports.site).split()]
        env = {**os.environ, **ports.env, "PUSH_REGISTER": f"register://127.0.0.1:{ports.register}"}
        process = subprocess.Popen(command, cwd=ROOT, env=env, stdin=subprocess.DEVNULL)
        try:
            wait_until("it answers", lambda: socket.create_connection(("127.0.0.1", ports.site), 1).close() is None)
            yield f"http://127.0.0.1:{ports.site}/"
        finally:
            process.terminate()
            process.wait(60)


def post(url: str, token: str = "sesame", **fields: str) -> tuple[int, Any]:
    """(status, what was answered)."""
    headers = {"Authorization": f"Bearer {token}"}
    request = urllib.request.Request(url, urllib.parse.urlencode(fields).encode(), headers)
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()


@pytest.mark.parametrize("site", [*WORKERS, *PROGRAMS])
def test_the_six_steps(site: str, free_port: Callable[[], int]) -> None:
    with serving(site, Ports(free_port)) as web, chromium() as browser:

        def visit(query: str) -> Page:
            page = browser.new_context().new_page()
            page.goto(web + query)
            expect(page.locator("#state")).to_have_text("Connected.")
            return page

        def heard(page: Page) -> Any:
            return page.locator("#messages li")

        anne, bert = visit("?uid=anne&group=news"), visit("?uid=<b>bert</b>&group=news")
        again = visit("?uid=anne")
        expect(bert.locator("#uid")).to_have_text("<b>bert</b>")
        assert post(web + "push", to="uid", name="anne", content="<i>one</i>") == (200, {"delivered": 2})
        assert post(web + "push", to="group", name="news", content="two") == (200, {"delivered": 2})
        assert post(web + "push", to="all", content="three") == (200, {"delivered": 3})
        assert post(web + "push", to="uid", name="carl", content="four") == (200, {"delivered": 0})
        expect(heard(anne)).to_have_text(["<i>one</i>", "two", "three"])
        expect(heard(bert)).to_have_text(["two", "three"])
        expect(heard(again)).to_have_text(["<i>one</i>", "three"])
        for wrong in ({"to": "nobody"}, {"to": "uid", "content": "x"}, {"to": "all", "name": "x", "content": "x"},
                      {"to": "all"}, {"to": "all", "content": "x" * 10_001}):  # fmt: skip
            assert post(web + "push", **wrong)[0] == 400
        assert post(web + "push", "guessed", to="all", content="x")[0] == 401
        assert post(web + "bind", client_id="0" * 20)[0] == 403, "who is nobody is bound to nothing"


def test_a_page_comes_back(free_port: Callable[[], int]) -> None:
    """With another client_id, which is bound anew."""
    ports = Ports(free_port)
    web = f"http://127.0.0.1:{ports.site}/"
    with running_server(ports.tables()) as server, chromium() as browser:
        page = browser.new_context().new_page()
        page.goto(web + "?uid=anne")
        expect(page.locator("#state")).to_have_text("Connected.")
        kill(server, "gateway", 0)
        wait_until(
            "she is bound again", lambda: post(web + "push", to="uid", name="anne", content="x")[1]["delivered"] == 1
        )
        expect(page.locator("#messages li")).to_have_text(["x"])
        expect(page.locator("#state")).to_have_text("Connected.")
