"""The web server as a browser meets it: a daemon of the test's own, and curl."""

from __future__ import annotations

import asyncio
import gzip
import os
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from workermand import ConnectionStatus, Request, Worker
from workermand.services import paths, webserver
from workermand.services.paths import Found, Refused, Wanted
from workermand.services.webserver import Settings, Website
from workermand.spec import WorkerSpec
from workermand.testing import RunningServer, running_server
from workermand.testing.server import ServerFailed

HANDLER = "workermand.services.webserver"
SECRET = "what lies beside the root"
PICTURE = bytes(range(256)) * 4096


class Answer:
    """What curl has heard."""

    def __init__(self, heard: bytes) -> None:
        head, _, self.body = heard.partition(b"\r\n\r\n")
        first, *lines = head.decode("latin-1").split("\r\n")
        self.status = int(first.split(" ")[1])
        self.headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}

    @property
    def text(self) -> str:
        return self.body.decode()


def fetch(server: RunningServer, path: str, *arguments: str) -> Answer:
    command = ["curl", "--silent", "--show-error", "--include", "--path-as-is", "--globoff", "--max-time", "60"]
    done = subprocess.run(
        [*command, *arguments, f"http://127.0.0.1:{server.port}{path}"], capture_output=True, check=True
    )
    return Answer(done.stdout)


def served(root: Path | None = None, /, **options: Any) -> Any:
    named = {"root": str(root)} if root else {}
    return running_server(HANDLER, listen="http://127.0.0.1:0", options={**named, **options})


def write_file(path: Path, content: str | bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    top = tmp_path_factory.mktemp("web")
    root = top / "site"
    files: dict[str, str | bytes] = {
        "../secret.txt": SECRET,
        "index.html": "<h1>home</h1>",
        "docs/index.html": "<h1>docs</h1>",
        "none/readme.txt": "no index here",
        "app.js": "let a = 1",
        "picture.webp": PICTURE,
        "font.woff2": b"font",
        "data": b"\x00\xff",
        "größe.txt": "ä",
        "empty.txt": "",
        ".env": SECRET,
        ".well-known/security.txt": "Contact: us",
        "404.html": "<h1>nothing here</h1>",
        "assets/app.js": "let b = 1",
    }
    for name, content in files.items():
        write_file(root / name, content)
    (root / "link.txt").symlink_to("../secret.txt")
    (root / "away").symlink_to("..")
    return root


@pytest.fixture(scope="module")
def server(site: Path) -> Iterator[RunningServer]:
    options = {
        "error_pages": {"404": "404.html", "403": "gone.html"},
        "mime": {".js": "application/x-mine"},
        "cache_control": {"*": "no-cache", "/assets/": "max-age=31536000, immutable"},
    }
    with served(site, **options) as server:
        yield server


# ---------------------------------------------------------------------------------------------------- what there is


@pytest.mark.parametrize(
    ("path", "kind", "content"),
    [
        ("/", "text/html; charset=utf-8", b"<h1>home</h1>"),
        ("/index.html?a=b", "text/html; charset=utf-8", b"<h1>home</h1>"),
        ("/docs/", "text/html; charset=utf-8", b"<h1>docs</h1>"),
        ("/app.js", "application/x-mine", b"let a = 1"),
        ("/picture.webp", "image/webp", PICTURE),
        ("/font.woff2", "font/woff2", b"font"),
        ("/data", "application/octet-stream", b"\x00\xff"),
        ("/gr%C3%B6%C3%9Fe.txt", "text/plain; charset=utf-8", "ä".encode()),
        ("/empty.txt", "text/plain; charset=utf-8", b""),
        ("/.well-known/security.txt", "text/plain; charset=utf-8", b"Contact: us"),
    ],
)
def test_a_file_is_served(server: RunningServer, path: str, kind: str, content: bytes) -> None:
    answer = fetch(server, path)
    assert (answer.status, answer.headers["content-type"], answer.body) == (200, kind, content)
    assert answer.headers["content-length"] == str(len(content))
    assert answer.headers["cache-control"] == "no-cache"


def test_cache_control_by_prefix(server: RunningServer) -> None:
    assert fetch(server, "/assets/app.js").headers["cache-control"] == "max-age=31536000, immutable"


def test_head_has_all_but_the_body(server: RunningServer) -> None:
    whole, head = fetch(server, "/picture.webp"), fetch(server, "/picture.webp", "--head")
    assert (head.status, head.body) == (200, b"")
    different = {"date"}
    assert {k: v for k, v in head.headers.items() if k not in different} == {
        k: v for k, v in whole.headers.items() if k not in different
    }


def test_conditions(server: RunningServer) -> None:
    first = fetch(server, "/app.js")
    etag, modified = first.headers["etag"], first.headers["last-modified"]
    for condition in (f"If-None-Match: {etag}", f"If-Modified-Since: {modified}"):
        again = fetch(server, "/app.js", "--header", condition)
        assert (again.status, again.body) == (304, b"")
        assert again.headers["cache-control"] == "no-cache"
    assert fetch(server, "/app.js", "--header", 'If-None-Match: "other"').status == 200
    long_ago = "If-Modified-Since: Sun, 06 Nov 1994 08:49:37 GMT"
    assert fetch(server, "/app.js", "--header", long_ago).status == 200


def test_ranges(server: RunningServer) -> None:
    part = fetch(server, "/picture.webp", "--range", "1000-1999")
    assert (part.status, part.body) == (206, PICTURE[1000:2000])
    assert part.headers["content-range"] == f"bytes 1000-1999/{len(PICTURE)}"
    assert fetch(server, "/picture.webp", "--range", "-5").body == PICTURE[-5:]
    assert fetch(server, "/picture.webp", "--range", "99999999-").status == 416
    several = fetch(server, "/picture.webp", "--range", "0-1,10-11")
    assert several.status == 206 and several.headers["content-type"].startswith("multipart/byteranges")
    etag = part.headers["etag"]
    assert fetch(server, "/picture.webp", "--range", "0-9", "--header", f"If-Range: {etag}").status == 206
    assert fetch(server, "/picture.webp", "--range", "0-9", "--header", 'If-Range: "other"').status == 200


def test_a_changed_file_is_served_as_it_is_now(tmp_path: Path) -> None:
    with served(tmp_path) as server:
        assert fetch(server, "/page.txt").status == 404
        for content in ("one", "two, longer"):
            write_file(tmp_path / "new.txt", content)
            os.replace(tmp_path / "new.txt", tmp_path / "page.txt")
            assert fetch(server, "/page.txt").text == content
        (tmp_path / "page.txt").unlink()
        assert fetch(server, "/page.txt").status == 404


# ---------------------------------------------------------------------------------------------------- what there is not


def test_a_directory_is_sent_its_slash(server: RunningServer) -> None:
    answer = fetch(server, "/docs?a=b&c=%2e")
    assert (answer.status, answer.headers["location"]) == (301, "/docs/?a=b&c=%2e")
    assert fetch(server, "//docs").headers["location"] == "/docs/"


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/nothing.txt", 404),
        ("/none/", 404),
        ("/.env", 404),
        ("/%2eenv", 404),
        ("/app.js/", 404),
        ("/%252e%252e/secret.txt", 404),
        ("/" + "a" * 300, 404),
        ("/app.js.", 404),
        ("/../secret.txt", 400),
        ("/%2e%2e/secret.txt", 400),
        ("/..%2fsecret.txt", 400),
        ("/..%5csecret.txt", 400),
        ("/app.js%00", 400),
        ("/%c0%ae%c0%ae/secret.txt", 400),
        ("/link.txt", 403),
        ("/away/secret.txt", 403),
    ],
)
def test_what_is_refused(server: RunningServer, site: Path, path: str, status: int) -> None:
    answer = fetch(server, path)
    assert answer.status == status
    assert SECRET not in answer.text and str(site) not in answer.text
    assert answer.text.startswith("<h1>nothing here</h1>" if status == 404 else str(status))
    assert "cache-control" not in answer.headers


@pytest.mark.parametrize(
    "target", ["http://127.0.0.1:{port}/../secret.txt", "http://127.0.0.1:{port}/%2e%2e/secret.txt"]
)
def test_an_absolute_target_leads_nowhere_else(server: RunningServer, target: str) -> None:
    whole = target.format(port=server.port)
    assert fetch(server, "/", "--request-target", whole).status == 400
    inside = whole.rpartition("/")[0].rpartition("/")[0] + "/app.js"
    assert fetch(server, "/", "--request-target", inside).text == "let a = 1"


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH"])
def test_files_are_only_read(server: RunningServer, method: str) -> None:
    answer = fetch(server, "/app.js", "--request", method, "--data", "x")
    assert (answer.status, answer.headers["allow"]) == (405, "GET, HEAD, OPTIONS")


@pytest.mark.parametrize("target", ["/app.js", "*"])
def test_options_says_what_can_be_done(server: RunningServer, target: str) -> None:
    answer = fetch(server, "/", "--request", "OPTIONS", "--request-target", target)
    assert (answer.status, answer.headers["allow"], answer.body) == (204, "GET, HEAD, OPTIONS", b"")


def test_requests_in_a_row_are_answered_in_order(server: RunningServer) -> None:
    names = [b"app.js", b"nothing", b"docs/", b"%2f", b"assets/app.js"]
    asked = b"".join(b"GET /%b HTTP/1.1\r\nHost: a\r\n\r\n" % name for name in names)
    with server.connect() as client:
        client.sendall(asked + b"GET /data HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
        heard = client.makefile("rb").read()
    found = [heard.index(word) for word in (b"let a", b"nothing here", b"docs</h1>", b"400 Bad", b"let b", b"\x00\xff")]
    assert found == sorted(found)


def test_a_client_that_hangs_up_leaves_no_file_open(server: RunningServer, eventually: Callable[..., Any]) -> None:
    for _ in range(50):
        with server.connect() as client:
            client.sendall(b"GET /picture.webp HTTP/1.1\r\nHost: a\r\n\r\n" * 3)
    eventually("the files are closed", lambda: not open_files(server, "picture.webp"))


def open_files(server: RunningServer, name: str) -> list[str]:
    below = f"/proc/{server.status()['processes'][0]['pid']}/fd"
    found = [os.readlink(f"{below}/{fd}") for fd in os.listdir(below)]
    return [target for target in found if target.endswith(name)]


# ---------------------------------------------------------------------------------------------------- the settings


def test_every_host_has_its_root(tmp_path: Path) -> None:
    for name in ("one", "two", "other"):
        write_file(tmp_path / name / "index.html", name)
    roots = {"one.example": str(tmp_path / "one"), "Two.Example.": str(tmp_path / "two")}
    expected = {"one.example": "one", "ONE.example:80": "one", "one.example.": "one", "two.example": "two"}
    with served(roots=roots) as server:
        for host, content in expected.items():
            assert fetch(server, "/", "--header", f"Host: {host}").text == content
        assert fetch(server, "/", "--header", "Host: three.example").status == 421
    with served(roots={**roots, "default": str(tmp_path / "other")}) as server:
        assert fetch(server, "/", "--header", "Host: three.example").text == "other"
        assert fetch(server, "/", "--header", "Host: two.example").text == "two"
        with server.connect() as client:
            client.sendall(b"GET / HTTP/1.0\r\n\r\n")  # before there were hosts
            assert client.makefile("rb").read().endswith(b"\r\n\r\nother")


def test_a_file_for_what_is_not_there(tmp_path: Path) -> None:
    write_file(tmp_path / "app.html", "the application")
    write_file(tmp_path / "real.txt", "real")
    with served(tmp_path, fallback="app.html", index=["start.html"]) as server:
        for path in ("/", "/settings/profile", "/app.html"):
            answer = fetch(server, path)
            assert (answer.status, answer.text) == (200, "the application")
        assert fetch(server, "/real.txt").text == "real"
        assert fetch(server, "/%2e%2e/x").status == 400
        assert fetch(server, "/x", "--data", "y").status == 405


APPLICATION = """
class Bridge:
    def __init__(self, app):
        self.app = app

    async def start(self, worker):
        print("application started for", worker.name, flush=True)

    async def stop(self):
        print("application stopped", flush=True)

    async def serve(self, connection, request):
        connection.send(f"{self.app}: {request.method} {request.path}")
"""


def test_an_application_for_what_is_not_there(tmp_path: Path) -> None:
    write_file(tmp_path / "real.txt", "real")
    # The bridge's place is taken by a small one: what stands in the webserver is tested, not what stands in the bridge.
    hooks = "import sys, types\nbridge = sys.modules['workermand.services.asgi'] = types.ModuleType('bridge')\n"
    files = {"stand_in.py": f"{hooks}exec({APPLICATION!r}, bridge.__dict__)\nfrom {HANDLER} import *\n"}
    options = {"root": str(tmp_path), "fallback": "project.asgi:app"}
    with running_server("stand_in", listen="http://127.0.0.1:0", options=options, files=files) as server:
        server.wait_for("application started for main")
        assert fetch(server, "/api/users").text == "project.asgi:app: GET /api/users"
        assert fetch(server, "/api", "--data", "x").text == "project.asgi:app: POST /api"
        assert fetch(server, "/api", "--request", "OPTIONS").text == "project.asgi:app: OPTIONS /api"
        assert fetch(server, "/real.txt").text == "real"
        assert fetch(server, "/%2e%2e/real.txt").status == 400
        server.stop()
        server.wait_for("application stopped")


def test_hooks_of_your_own(tmp_path: Path) -> None:
    source = """
async def on_worker_start(worker):
    print("hook: started", worker.name, flush=True)

def on_worker_stop(worker):
    print("hook: stopped", worker.name, flush=True)
"""
    options = {"root": str(tmp_path), "hooks": "my_hooks"}
    files = {"my_hooks.py": source}
    with running_server(HANDLER, listen="http://127.0.0.1:0", options=options, files=files) as server:
        server.wait_for("hook: started main")
        server.stop()
        server.wait_for("hook: stopped main")


def test_compressed_neighbours(tmp_path: Path) -> None:
    write_file(tmp_path / "app.js", "plain")
    write_file(tmp_path / "app.js.gz", gzip.compress(b"compressed"))
    write_file(tmp_path / "alone.js", "alone")
    with served(tmp_path, precompressed=True) as server:
        answer = fetch(server, "/app.js", "--compressed")
        assert (answer.text, answer.headers["content-encoding"]) == ("compressed", "gzip")
        plain = fetch(server, "/app.js")
        assert plain.text == "plain" and "content-encoding" not in plain.headers
        assert answer.headers["content-type"] == plain.headers["content-type"]
        assert answer.headers["vary"] == plain.headers["vary"] == "Accept-Encoding"
        assert answer.headers["etag"] != plain.headers["etag"]
        assert fetch(server, "/alone.js", "--compressed").text == "alone"


def test_a_root_beside_code() -> None:
    with served(root="apps.chat:web") as server:
        assert fetch(server, "/").body == Path("apps/chat/web/index.html").read_bytes()


@pytest.mark.parametrize(
    ("given", "complaint"),
    [
        ({"indx": ["a"]}, 'worker main: options.indx: unknown key; did you mean "index"?'),
        ({"root": "www"}, 'options.root: "www" is relative: write the whole path'),
        ({"root": ":www"}, 'options.root: ":www" is relative: write the whole path, or "package:directory"'),
        ({"root": "apps.no:web"}, "options.root: no package apps.no on the app_path"),
        ({"root": "apps.echo:web"}, "options.root: no package apps.echo on the app_path"),
        ({"root": "apps.chat:wbe"}, 'apps/chat/wbe" is no directory that can be reached'),
        ({"root": "/nowhere/at/all"}, 'options.root: "/nowhere/at/all" is no directory that can be reached'),
        ({"root": ""}, "options.root: missing: the directory with the files"),
        ({"roots": {"default": "/tmp"}}, "options.root: this host has a root already"),
        ({"roots": {"a.example": "x"}}, 'options.roots.a.example: "x" is relative'),
        ({"fallback": "../index.html"}, 'options.fallback: "../index.html" is no file below the root'),
        ({"error_pages": {"404": "a//b"}}, 'options.error_pages.404: "a//b" is no file below the root'),
        ({"error_pages": {"200": "a"}}, "options.error_pages: expected int >= 400 for a key"),
        ({"mime": {"js": "text/javascript"}}, 'options: mime: "js"'),
        ({"hooks": "nowhere"}, "options.hooks: no module named nowhere on the app_path"),
        ({"hooks": "json"}, "options.hooks: json has neither on_worker_start nor on_worker_stop"),
    ],
)
def test_options_that_cannot_be_end_the_start(tmp_path: Path, given: dict[str, Any], complaint: str) -> None:
    options = {"root": str(tmp_path), **given}
    with pytest.raises(ServerFailed) as caught, served(**options):
        pass
    assert complaint in str(caught.value)


# ---------------------------------------------------------------------------------------------------- slow disks


class Slow:
    """A disk that finds a file when it is told to."""

    def __init__(self, site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.may_answer = threading.Event()
        self.fd = os.open(site / "data", os.O_RDONLY)
        monkeypatch.setattr(paths, "open_below", self.open_below)

    def open_below(self, root: str, wanted: Wanted, index: object, *, cached: bool = False) -> Found:
        if cached:
            raise BlockingIOError
        self.may_answer.wait(60)
        return Found(self.fd, wanted.names)

    @property
    def is_open(self) -> bool:
        try:
            os.fstat(self.fd)
        except OSError:
            return False
        return True


@pytest.fixture
def slow(site: Path, monkeypatch: pytest.MonkeyPatch) -> Slow:
    return Slow(site, monkeypatch)


def website(site: Path) -> Website:
    """In the loop that runs."""
    return Website(Worker(WorkerSpec(name="web", handler=HANDLER)), Settings(root=str(site)))


def test_nobody_waits_for_a_disk_for_ever(site: Path, slow: Slow, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(webserver, "PATIENCE", 0.01)

    async def ask() -> None:
        with pytest.raises(Refused) as caught:
            await website(site)._open(str(site), Wanted(("data",)))
        assert caught.value.status == 503
        slow.may_answer.set()
        await asyncio.get_running_loop().shutdown_default_executor()
        await asyncio.sleep(0)

    asyncio.run(ask())
    assert not slow.is_open


def test_a_client_that_is_gone_when_the_file_is_found(site: Path, slow: Slow) -> None:
    class Gone:
        status = ConnectionStatus.CLOSED

    slow.may_answer.set()
    request = Request("GET", b"/data", [b"Host", b"a"])

    async def ask() -> None:
        gone: Any = Gone()
        await website(site).serve(gone, request)

    asyncio.run(ask())
    assert not slow.is_open
