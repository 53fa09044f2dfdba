"""apps.push in Chromium: the six steps of a site that pushes to its pages, on a worker, with Flask and with Django."""

from __future__ import annotations

import ast
import json
import re
import textwrap
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Page, expect

from tests.conftest import wait_until
from tests.system.chromium import chromium
from tests.system.cluster import free_ports, kill
from workermand.testing import running_server

pytestmark = [pytest.mark.real, pytest.mark.xdist_group("browser"), pytest.mark.timeout(240)]

SITE = ast.parse((Path(__file__).parents[2] / "apps/push/site.py").read_text())
SITES = {
    "worker": 'handler = "apps.push.site"',
    "flask": 'handler = "workermand.services.asgi"\noptions = { app = "apps.push.flask_site:app" }',
    "django": 'handler = "workermand.services.asgi"\noptions = { app = "apps.push.django_site:application" }',
}


def documented(site: str, port: int) -> str:
    """The tables at the top of apps/push/site.py, with free ports, and another site at their end."""
    found = re.search(
        r"^    \[worker\.register\].*?(?=^    http:)",
        str(ast.get_docstring(SITE, clean=False)),
        re.MULTILINE | re.DOTALL,
    )
    assert found is not None
    text = textwrap.dedent(found[0])
    for key, value in (
        ("0.0.0.0:7273", f"127.0.0.1:{port}"),
        ("127.0.0.1:8085", "127.0.0.1:0"),
        ("start_port = 2400", f"start_port = {free_ports(1)}"),
        (SITES["worker"], SITES[site]),
    ):
        assert text.count(key) == 1
        text = text.replace(key, value)
    return f'{text}\n[worker.site.env]\nPUSH_SERVERS = "ws://127.0.0.1:{port}/"\nPUSH_TOKEN = "sesame"\n'


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


@pytest.mark.parametrize("site", SITES)
def test_the_six_steps(site: str, free_port: Any) -> None:
    port = free_port()
    with (
        running_server(documented(site, port)) as server,
        chromium() as browser,
    ):
        web = f"http://127.0.0.1:{server.addresses['site'][0][1]}/"

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


def test_a_page_comes_back(free_port: Any) -> None:
    """With another client_id, which is bound anew."""
    port = free_port()
    with running_server(documented("worker", port)) as server, chromium() as browser:
        web = f"http://127.0.0.1:{server.addresses['site'][0][1]}/"
        page = browser.new_context().new_page()
        page.goto(web + "?uid=anne")
        expect(page.locator("#state")).to_have_text("Connected.")
        kill(server, "gateway", 0)
        wait_until(
            "she is bound again", lambda: post(web + "push", to="uid", name="anne", content="x")[1]["delivered"] == 1
        )
        expect(page.locator("#messages li")).to_have_text(["x"])
        expect(page.locator("#state")).to_have_text("Connected.")
