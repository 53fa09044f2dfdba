"""The chat in Chromium: several browsers, rooms, private lines, markup that stays text, servers that go and come."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import re
import shutil
import socket
import subprocess
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Locator, Page, WebSocket, WebSocketRoute, expect
from websockets.asyncio.client import connect as connect_later
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

from tests.conftest import wait_until
from tests.system.chromium import PATIENCE, chromium
from tests.system.cluster import GATEWAYS, address, cluster, free_ports, kill
from workermand.testing import RunningServer, running_server

ROOT = Path(__file__).parents[2]
pytestmark = [pytest.mark.real, pytest.mark.xdist_group("browser"), pytest.mark.timeout(240)]

NASTY = "<img src=x onerror=alert(1)>"
MARKUP = "<script>alert(2)</script><b>bold</b> &amp; \"'"

NO_SERVERS = 'name="chat-servers" content=""'
PIXEL = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="

WEB = """
[worker.web]
listen = "http://127.0.0.1:0"
handler = "workermand.services.webserver"
options = {{ root = "{web}" }}
"""


class Chat:
    """The daemon and the browser; a page for each who comes in."""

    def __init__(self, server: RunningServer, browser: Browser, web: str = "") -> None:
        self.server = server
        self.web = web or f"http://127.0.0.1:{server.addresses['web'][0][1]}/"
        self.browser = browser
        self.surprises: list[str] = []
        """Errors, dialogs, and what the content security policy had to stop."""
        self.connections = 0
        self.closed: list[str] = []

    def visit(self, room: str | None = "1", **options: Any) -> Page:
        """In a browser of its own."""
        page = self.browser.new_context(**options).new_page()
        page.set_default_timeout(PATIENCE)
        page.on("pageerror", lambda error: self.surprises.append(str(error)))
        page.on("dialog", lambda dialog: (self.surprises.append(dialog.message), dialog.dismiss()))
        page.on("console", lambda said: self.surprises.append(said.text) if "Content Security" in said.text else None)
        page.on("websocket", self._connected)
        page.goto(self.web + (f"?room_id={room}" if room else ""))
        return page

    def _connected(self, connection: WebSocket) -> None:
        self.connections += 1
        connection.on("close", lambda _: self.closed.append(connection.url))

    def come(self, name: str, room: str | None = "1", **options: Any) -> Page:
        page = self.visit(room, **options)
        page.fill("#name", name)
        page.press("#name", "Enter")
        expect(page.locator("#state-text")).to_have_text("Connected.")
        return page


def copy_of_the_page(directory: Path, servers: list[str]) -> Path:
    """With their addresses in its meta element."""
    web = directory / "web"
    shutil.copytree(ROOT / "apps/chat/web", web, dirs_exist_ok=True)
    page = (web / "index.html").read_text()
    assert page.count(NO_SERVERS) == 1
    (web / "index.html").write_text(page.replace(NO_SERVERS, f'name="chat-servers" content="{" ".join(servers)}"'))
    return web


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as browser:
        yield browser


@pytest.fixture(scope="module")
def chat(browser: Browser, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chat]:
    web = copy_of_the_page(tmp_path_factory.mktemp("chat"), [])
    (web / "cat.png").write_bytes(base64.b64decode(PIXEL))
    with running_server(cluster("apps.chat.events") + WEB.format(web=web)) as server:
        copy_of_the_page(web.parent, [address(server)])
        chat = Chat(server, browser)
        yield chat
        assert not chat.surprises


def lines(page: Page) -> Locator:
    return page.locator("#lines .line .text")


def say(page: Page, text: str) -> None:
    page.fill("#content", text)
    page.press("#content", "Enter")
    expect(page.locator("#content")).to_have_value("")


def people(page: Page) -> Locator:
    return page.locator("#people b")


# Tests share the daemon: each has rooms of its own. This one has 1 and 2, of which the page has links.


def test_two_rooms_three_browsers(chat: Chat) -> None:
    anne, bert, carl = chat.come(NASTY), chat.come("Bert"), chat.come("Carl", "2")
    expect(people(anne)).to_have_text([NASTY, "Bert"])
    expect(people(bert)).to_have_text([NASTY, "Bert"])
    expect(people(carl)).to_have_text(["Carl"])
    expect(anne.locator("#lines .event")).to_have_text(re.compile("^Bert has come in · "))
    say(anne, MARKUP)
    for page in (anne, bert):
        expect(lines(page)).to_have_text([MARKUP])
        expect(page.locator("#lines .line b")).to_have_text([NASTY])
        assert page.locator("#lines .text *, #lines img, #people img, #to img").count() == 0
    say(carl, "elsewhere")
    expect(lines(carl)).to_have_text(["elsewhere"])
    bert.context.close()
    expect(anne.locator("#lines .event").last).to_have_text(re.compile("^Bert has left · "))
    expect(people(anne)).to_have_text([NASTY])
    dora = chat.come("Dora")
    expect(lines(dora)).to_have_text([MARKUP])
    anne.click("#rooms a:text('2')")
    expect(people(anne)).to_have_text([NASTY, "Carl"])
    expect(lines(anne)).to_have_text(["elsewhere"])
    for page in (anne, carl, dora):
        page.context.close()


def test_private_lines(chat: Chat) -> None:
    anne, bert, carl = (chat.come(name, "private") for name in ("Anne", "Bert", "Carl"))
    anne.select_option("#to", label="Bert")
    say(anne, "for Bert alone")
    expect(lines(bert)).to_have_text(["for Bert alone"])
    expect(bert.locator(".line.private .head")).to_have_text(re.compile("^Anne to you, in private · "))
    expect(anne.locator(".line.private .head")).to_have_text(re.compile("^Anne to Bert, in private · "))
    bert.click("#people button:has-text('Anne')")
    say(bert, "for Anne alone")
    expect(lines(anne)).to_have_text(["for Bert alone", "for Anne alone"])
    # Bert leaves: what is written for him goes to nobody, and above all not to everybody.
    bert.context.close()
    expect(anne.locator("#to option:checked")).to_have_text("Bert (has left)")
    anne.fill("#content", "still for Bert alone")
    anne.press("#content", "Enter")
    expect(anne.locator("#lines .wrong")).to_have_text("Bert has left: choose somebody else.")
    expect(anne.locator("#content")).to_have_value("still for Bert alone")
    anne.select_option("#to", "all")
    say(anne, "for all")
    expect(lines(carl)).to_have_text(["for all"])
    for page in (anne, carl):
        page.context.close()


def test_links_and_pictures(chat: Chat) -> None:
    anne = chat.come("Anne", "links")
    say(anne, f"see https://example.com/a_(b)?c=<d>. And {chat.web}cat.png! javascript:alert(3) http:// x")
    expect(lines(anne)).to_have_count(1)
    link, picture = anne.locator("#lines a").all()
    assert link.get_attribute("href") == "https://example.com/a_(b)?c="
    assert link.get_attribute("rel") == "noopener noreferrer nofollow"
    assert picture.get_attribute("href") == f"{chat.web}cat.png"
    image = picture.locator("img")
    expect(image).to_have_js_property("naturalWidth", 1)
    assert image.get_attribute("alt") == f"{chat.web}cat.png"
    expect(lines(anne)).to_have_text(["see https://example.com/a_(b)?c=<d>. And ! javascript:alert(3) http:// x"])
    say(anne, f"{chat.web}missing.png")
    expect(lines(anne)).to_have_count(2)
    expect(lines(anne).last.locator("a")).to_have_text(f"{chat.web}missing.png")
    anne.context.close()


def test_with_the_keyboard_alone(chat: Chat) -> None:
    """On a phone's screen, and in the dark."""
    anne = chat.visit("keys", viewport={"width": 360, "height": 640}, color_scheme="dark")
    expect(anne.locator("#name")).to_be_focused()
    anne.keyboard.type("Anne")
    anne.keyboard.press("Enter")
    expect(anne.locator("#content")).to_be_focused()
    anne.keyboard.type("two")
    anne.keyboard.press("Control+Enter")
    anne.keyboard.type("lines ")
    anne.keyboard.press("Shift+Tab")
    expect(anne.locator("#emoji")).to_be_focused()
    anne.keyboard.press("Enter")
    expect(anne.locator("#emojis button").first).to_be_focused()
    anne.keyboard.press("Escape")
    expect(anne.locator("#emojis")).to_be_hidden()
    anne.keyboard.press("Enter")
    anne.keyboard.press("Tab")
    anne.keyboard.press("Enter")
    expect(anne.locator("#content")).to_be_focused()
    anne.keyboard.press("Enter")
    expect(lines(anne)).to_have_text(["two\nlines 😂"])
    assert anne.evaluate("document.documentElement.scrollWidth") == 360, "nothing sticks out"
    background = anne.evaluate("getComputedStyle(document.body).backgroundColor")
    assert background == "rgb(20, 23, 27)"
    anne.context.close()


def test_a_name_or_a_room_that_cannot_be(chat: Chat) -> None:
    anne = chat.visit("no such room!")
    anne.fill("#name", "Anne")
    anne.press("#name", "Enter")
    expect(anne.locator("#who-error")).to_have_text("room_id: 1 to 32 letters, digits, - and _")
    anne.context.close()


def test_a_server_goes_and_another_comes(browser: Browser, tmp_path: Path, free_port: Callable[[], int]) -> None:
    ports = [free_port(), free_port()]
    web = copy_of_the_page(tmp_path, [f"ws://127.0.0.1:{port}/" for port in ports])
    with running_server(WEB.format(web=web)) as server:
        chat = Chat(server, browser)
        with running_server(cluster("apps.chat.events", ports[0])) as first:
            anne = chat.come("Anne")
            say(anne, "before")
            expect(lines(anne)).to_have_text(["before"])
            first.stop()
        expect(anne.locator("#state")).to_have_text(
            re.compile(r"Connection lost\.\s+Next attempt in \d+ s\.\s+Try now"), use_inner_text=True
        )
        expect(anne.locator("#send")).to_be_disabled()
        anne.fill("#content", "meanwhile")
        anne.press("#content", "Enter")
        with running_server(cluster("apps.chat.events", ports[1])):
            anne.dispatch_event("#now", "click")  # unless it is just trying by itself
            expect(anne.locator("#state-text")).to_have_text("Connected.")
            expect(anne.locator("#content")).to_have_value("meanwhile")
            anne.press("#content", "Enter")
            expect(lines(anne)).to_have_text(["before", "meanwhile"])
            expect(people(anne)).to_have_text(["Anne"])
            anne.context.close()
        assert not chat.surprises


def test_gateways_are_killed_and_business_is_reloaded(browser: Browser, tmp_path: Path) -> None:
    """In the middle of a conversation: a reload ends no connection, a killed gateway only its own."""
    web = copy_of_the_page(tmp_path, [])
    module = (ROOT / "apps/chat/events.py").read_text()
    with running_server(cluster("our_events") + WEB.format(web=web), files={"our_events.py": module}) as server:
        copy_of_the_page(tmp_path, [address(server)])
        chat = Chat(server, browser)
        pages = {name: chat.come(name) for name in ("Anne", "Bert", "Carl")}
        for name, page in pages.items():
            say(page, f"I am {name}")
        edited = module.replace('"content": asked.content,', '"content": asked.content + ", they say",')
        assert edited != module
        (server.directory / "our_events.py").write_text(edited)
        server.reload()
        for page in pages.values():
            say(page, "edited")
        for page in pages.values():
            expect(lines(page).filter(has_text="edited, they say")).to_have_count(3)
        assert chat.connections == 3 and not chat.closed, "nobody was disconnected"
        for id in range(GATEWAYS):
            kill(server, "gateway", id)
        for page in pages.values():
            expect(page.locator("#state-text")).to_have_text("Connected.")
            expect(people(page)).to_have_text([re.compile("Anne|Bert|Carl")] * 3)
        assert chat.connections - len(chat.closed) == 3 and len(chat.closed) >= 3
        say(pages["Anne"], "we are back")
        for page in pages.values():
            expect(lines(page).last).to_have_text("we are back, they say")
            expect(lines(page).filter(has_text="edited, they say")).to_have_count(3)
            page.context.close()
        assert not chat.surprises


def test_what_a_server_may_do_to_a_page(chat: Chat) -> None:
    """One that the test plays: it says nonsense, answers in another order, and falls silent."""
    context = chat.browser.new_context()
    page = context.new_page()
    page.clock.install()
    connections: list[WebSocketRoute] = []
    heard: list[str] = []

    def serve(route: WebSocketRoute) -> None:
        connections.append(route)
        route.on_message(lambda message: heard.append(str(message)))

    page.route_web_socket(re.compile("^ws:"), serve)
    page.add_init_script('sessionStorage.setItem("name", "Anne")')
    page.goto(chat.web)
    expect(page.locator("#state-text")).to_have_text("Coming in …")
    (server,) = connections

    def tell(**message: Any) -> None:
        server.send(json.dumps(message))

    def said(id: str) -> dict[str, str]:
        who = {"from_client_id": "b", "from_client_name": "Bert", "to_client_id": "all"}
        return {"id": id, **who, "content": id, "time": "2026-01-01T12:00:00+00:00"}

    for nonsense in ("{", "null", "7", '{"type": "toString"}', '{"type": "constructor"}', "{}"):
        server.send(nonsense)
    tell(type="ping")
    tell(type="say", **said("2"))
    tell(type="say", **said("3"))
    people = {"a": "Anne", "b": "Bert", "__proto__": "Carl"}
    tell(type="login", client_id="a", client_name="Anne", client_list=people, time="")
    expect(page.locator("#people b")).to_have_text(["Anne", "Bert", "Carl"])
    expect(lines(page)).to_have_count(0)
    tell(type="history", lines=[said("1"), said("2")])
    expect(lines(page)).to_have_text(["1", "2", "3"])
    page.fill("#content", "too fast")
    page.press("#content", "Enter")
    tell(type="error", message="not so fast")
    expect(page.locator("#lines .wrong")).to_have_text("not so fast")
    expect(page.locator("#content")).to_have_value("too fast")
    assert [json.loads(message) for message in heard] == [
        {"type": "login", "client_name": "Anne", "room_id": "1"},
        {"type": "pong"},
        {"type": "say", "to_client_id": "all", "to_client_name": "everybody", "content": "too fast"},
    ]
    page.clock.fast_forward(36_000)
    expect(page.locator("#state-text")).to_have_text("Connection lost.")
    page.clock.fast_forward(2_000)
    expect(page.locator("#state-text")).to_have_text("Coming in …")
    assert len(connections) == 2
    context.close()


AROUND = """
daemon off;
worker_processes 1;
pid {directory}/nginx.pid;
error_log {directory}/error.log info;
events {{ worker_connections 64; }}
http {{
    access_log off;
    client_body_temp_path {directory}/body;
    proxy_temp_path {directory}/proxy;
    fastcgi_temp_path {directory}/fastcgi;
    uwsgi_temp_path {directory}/uwsgi;
    scgi_temp_path {directory}/scgi;
    server {{
        listen 127.0.0.1:{port};
{block}
    }}
}}
"""


@contextlib.contextmanager
def nginx(directory: Path, port: int, block: str) -> Iterator[None]:
    """From the moment it answers."""
    program = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin")
    if program is None:
        pytest.skip("nginx is not installed")
    file = directory / "nginx.conf"
    file.write_text(AROUND.format(directory=directory, port=port, block=block))
    process = subprocess.Popen([program, "-p", str(directory), "-c", str(file), "-e", str(directory / "error.log")])
    try:
        wait_until("nginx answers", lambda: socket.create_connection(("127.0.0.1", port), 1).close() is None)
        yield
    finally:
        process.terminate()
        process.wait(60)


def documented(kind: str) -> str:
    """The block of docs/chat.md."""
    (block,) = re.findall(rf"^```{kind}\n(.*?)^```", (ROOT / "docs/chat.md").read_text(), re.MULTILINE | re.DOTALL)
    return str(block)


REPORTING = """
from apps.chat.events import *
from workermand.services.gateway import Gateway

def on_connect(client_id):
    print("a client from", Gateway.origin.remote_ip, flush=True)
"""


def test_the_documented_tables_behind_the_documented_nginx(
    browser: Browser, short_dir: Path, free_port: Callable[[], int]
) -> None:
    """From the page's address to the events: the one of the client, not nginx's."""
    chat_port, web_port, port = free_port(), free_port(), free_port()
    web = copy_of_the_page(short_dir, ["/chat"])

    def here(text: str) -> str:
        text = text.replace("0.0.0.0", "127.0.0.1").replace(":1236", f":{free_port()}")
        return text.replace(":7272", f":{chat_port}").replace(":55151", f":{web_port}")

    tables = here(documented("toml")).replace("start_port = 2300", f"start_port = {free_ports(2)}")
    tables = tables.replace("apps.chat:web", str(web)).replace("apps.chat.events", "reporting")
    tables = tables.replace("[worker.chat_gateway]", '[worker.chat_gateway]\ntrusted_proxies = ["127.0.0.1"]')
    with running_server(tables, files={"reporting.py": REPORTING}) as server:
        with nginx(short_dir, port, here(documented("nginx"))):
            chat = Chat(server, browser, f"http://127.0.0.1:{port}/")
            anne = chat.come("Anne")
            say(anne, "hello")
            expect(lines(anne)).to_have_text(["hello"])
            with connect(f"ws://127.0.0.1:{port}/chat", source_address=("127.0.0.9", 0)) as bot:
                server.wait_for("a client from 127.0.0.9")
                bot.send('{"type": "login", "client_name": "Bot", "room_id": "1"}')
                assert len(json.loads(bot.recv(60))["client_list"]) == 2
                (line,) = json.loads(bot.recv(60))["lines"]
                bot.send(json.dumps({"type": "say", "content": "a secret", "to_client_id": line["from_client_id"]}))
                expect(lines(anne)).to_have_text(["hello", "a secret"])
                bot.send("x" * 17_000)
                with contextlib.suppress(ConnectionClosed):
                    while bot.recv(60):
                        pass
                assert bot.close_code == 1009
            expect(anne.locator("#lines .event").last).to_have_text(re.compile("^Bot has left · "))
            anne.context.close()
            assert not chat.surprises


def test_of_many_who_come_at_once_each_sees_and_hears_all(chat: Chat) -> None:
    """Over both gateways and both business processes."""
    names = {f"bot {number}" for number in range(60)}

    async def visit(name: str) -> None:
        people: dict[str, str] = {}
        heard: list[str] = []
        said = False
        async with connect_later(address(chat.server)) as bot:
            await bot.send(json.dumps({"type": "login", "client_name": name, "room_id": "crowd"}))
            while len(heard) < len(names):
                message = json.loads(await bot.recv())
                if message["type"] == "login":
                    people.update(message.get("client_list", {message["client_id"]: message["client_name"]}))
                elif message["type"] == "say":
                    heard.append(message["content"])
                if not said and len(people) == len(names):
                    said = True
                    await bot.send(json.dumps({"type": "say", "content": name}))
            await have_heard.wait()
        assert set(people.values()) == set(heard) == names

    async def main() -> None:
        async with asyncio.timeout(60):
            await asyncio.gather(*map(visit, names))

    have_heard = asyncio.Barrier(len(names))
    with ThreadPoolExecutor(1) as thread:  # playwright's loop runs in this one
        thread.submit(asyncio.run, main()).result()
