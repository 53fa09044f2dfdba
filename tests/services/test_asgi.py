"""Real frameworks in a real daemon: FastAPI, Django, Starlette, Flask; and what cannot be served."""

from __future__ import annotations

import asyncio
import json
import subprocess
from pathlib import Path
from typing import Any

import httpx
import pytest
from websockets.sync.client import connect

from tests.services.probe import APPLICATION, curl, serving
from workermand import LoadError
from workermand.services.asgi import Bridge, _is_wsgi
from workermand.testing import RunningServer, running_server
from workermand.testing.server import ServerFailed


def client_of(server: RunningServer) -> httpx.Client:
    return httpx.Client(base_url=f"http://127.0.0.1:{server.port}", timeout=60, trust_env=False)


def exceptions(server: RunningServer) -> int:
    return sum(process["exceptions"] for process in server.status()["processes"])


# ---------------------------------------------------------------------------------------------------- FastAPI

FASTAPI = """
import asyncio, contextlib
from fastapi import BackgroundTasks, FastAPI, Form, HTTPException, Request, UploadFile, WebSocket
from fastapi.responses import FileResponse, StreamingResponse
from pydantic import BaseModel


@contextlib.asynccontextmanager
async def lifespan(app):
    print("FastAPI starts", flush=True)
    yield {"pool": "a pool"}
    print("FastAPI ends", flush=True)


app = FastAPI(lifespan=lifespan)


class Item(BaseModel):
    name: str
    price: float


@app.get("/items/{number}")
async def item(number: int, request: Request, q: str = ""):
    return {"number": number, "q": q, "pool": request.state.pool}


@app.get("/thread")
def in_a_thread():
    return "from a thread"


@app.post("/items")
async def create(item: Item, tasks: BackgroundTasks):
    tasks.add_task(print, "in the background:", item.name, flush=True)
    return item


@app.post("/upload")
async def upload(file: UploadFile, name: str = Form()):
    return {"name": name, "file": file.filename, "size": len(await file.read())}


@app.get("/stream")
async def stream():
    async def numbers():
        for number in range(1000):
            yield f"{number}\\n"
    return StreamingResponse(numbers(), media_type="text/plain")


@app.get("/endless")
async def endless():
    async def ticks():
        try:
            while True:
                yield "tick\\n"
                await asyncio.sleep(0.01)
        finally:
            print("the stream has ended", flush=True)
    return StreamingResponse(ticks(), media_type="text/event-stream")


@app.get("/fails")
async def fails():
    raise KeyError("fails")


@app.get("/teapot")
async def teapot():
    raise HTTPException(418, "short and stout")


@app.websocket("/chat/{room}")
async def chat(socket: WebSocket, room: str):
    await socket.accept()
    while True:
        await socket.send_json({"room": room, "said": await socket.receive_text()})
"""


def test_fastapi() -> None:
    with serving("web:app", {"web.py": FASTAPI}, options={"lifespan": "on"}) as server:
        with client_of(server) as client:
            assert client.get("/items/7?q=x").json() == {"number": 7, "q": "x", "pool": "a pool"}
            assert client.get("/items/seven").status_code == 422
            assert client.get("/thread").json() == "from a thread"
            assert client.post("/items", json={"name": "cup", "price": 2.5}).json() == {"name": "cup", "price": 2.5}
            server.wait_for("in the background: cup")
            content = bytes(3_000_000)
            answer = client.post("/upload", files={"file": ("big.bin", content)}, data={"name": "me"})
            assert answer.json() == {"name": "me", "file": "big.bin", "size": 3_000_000}
            assert client.get("/stream").text == "".join(f"{number}\n" for number in range(1000))
            assert client.get("/teapot").status_code == 418
            assert client.get("/nowhere").json() == {"detail": "Not Found"}
            assert client.get("/openapi.json").json()["openapi"].startswith("3.")
            before = exceptions(server)
            with client.stream("GET", "/endless") as endless:
                assert next(endless.iter_lines()) == "tick"
            server.wait_for("the stream has ended")
            with connect(f"ws://127.0.0.1:{server.port}/chat/blue") as socket:
                socket.send("hello")
                assert json.loads(socket.recv()) == {"room": "blue", "said": "hello"}
            assert exceptions(server) == before
            assert client.get("/fails").status_code == 500
        server.wait_for("KeyError: 'fails'")
        assert exceptions(server) == before + 1
        server.stop()
        server.wait_for("FastAPI ends")


# ---------------------------------------------------------------------------------------------------- Django

DJANGO = {
    "shop/__init__.py": "",
    "shop/settings.py": """
import pathlib
BASE_DIR = pathlib.Path(__file__).parent.parent
SECRET_KEY = "only for this test"
DEBUG = False
ALLOWED_HOSTS = ["127.0.0.1"]
ROOT_URLCONF = "shop.urls"
INSTALLED_APPS = ["django.contrib.contenttypes", "django.contrib.auth", "django.contrib.sessions"]
MIDDLEWARE = [
    "django.middleware.security.SecurityMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
]
DATABASES = {"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": BASE_DIR / "db.sqlite3"}}
SESSION_ENGINE = "django.contrib.sessions.backends.signed_cookies"
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
USE_TZ = True
""",
    "shop/urls.py": """
import asyncio
from django.contrib.auth.models import User
from django.http import FileResponse, HttpResponse, JsonResponse, StreamingHttpResponse
from django.urls import path


def count(request):
    request.session["count"] = request.session.get("count", 0) + 1
    return HttpResponse(f"{request.session['count']} for {request.META['REMOTE_ADDR']}")


async def users(request):
    await User.objects.acreate(username=request.GET["name"])
    return JsonResponse({"users": await User.objects.acount()})


async def stream(request):
    async def pieces():
        for number in range(100):
            yield f"{number}\\n"
            await asyncio.sleep(0)
    return StreamingHttpResponse(pieces(), content_type="text/plain")


def upload(request):
    file = request.FILES["file"]
    return JsonResponse({"size": file.size, "temporary": hasattr(file, "temporary_file_path")})


def source(request):
    return FileResponse(open(__file__, "rb"), filename="urls.py")


def fails(request):
    raise KeyError("fails")


urlpatterns = [
    path("count", count), path("users", users), path("stream", stream), path("upload", upload), path("source", source),
    path("fails", fails),
]
""",
    "shop/asgi.py": '''
import os
os.environ.setdefault("DJANGO_SETTINGS_MODULE", "shop.settings")
import django
from django.core.asgi import get_asgi_application
web = get_asgi_application()

import threading
from django.core.management import call_command
migrating = threading.Thread(target=call_command, args=("migrate",), kwargs={"verbosity": 0})
migrating.start()
migrating.join()


async def application(scope, receive, send):
    """As channels routes it."""
    if scope["type"] != "websocket":
        await web(scope, receive, send)
        return
    await receive()
    await send({"type": "websocket.accept"})
    from django.contrib.auth.models import User
    while (message := await receive())["type"] == "websocket.receive":
        await send({"type": "websocket.send", "text": f"{await User.objects.acount()} users, {message['text']}"})
''',
    "shop/channels.py": """
from shop.asgi import web
from channels.generic.websocket import AsyncJsonWebsocketConsumer
from channels.routing import ProtocolTypeRouter, URLRouter
from django.urls import path


class Echo(AsyncJsonWebsocketConsumer):
    async def receive_json(self, content):
        await self.send_json({"echo": content, "path": self.scope["path"]})


application = ProtocolTypeRouter({"http": web, "websocket": URLRouter([path("echo", Echo.as_asgi())])})
""",
    "shop/wsgi.py": """
import os
os.environ.setdefault("DJANGO_SETTINGS_MODULE", "shop.settings")
from django.core.wsgi import get_wsgi_application
application = get_wsgi_application()
""",
}


def test_django() -> None:
    with serving("shop.asgi:application", DJANGO) as server:
        with client_of(server) as client:
            assert client.get("/count").text == "1 for 127.0.0.1"
            assert client.get("/count").text == "2 for 127.0.0.1"
            assert client.get("/users?name=ada").json() == {"users": 1}
            assert client.get("/stream").text.endswith("98\n99\n")
            answer = client.post("/upload", files={"file": ("big.bin", bytes(3_000_000))})
            assert answer.json() == {"size": 3_000_000, "temporary": True}
            answer = client.get("/source")
            assert (answer.text, answer.headers["content-length"]) == (DJANGO["shop/urls.py"], str(len(answer.content)))
            assert client.head("/source").headers["content-length"] == answer.headers["content-length"]
            assert client.get("/fails").status_code == 500
            assert client.get("/nowhere").status_code == 404
        with connect(f"ws://127.0.0.1:{server.port}/") as socket:
            socket.send("hello")
            assert socket.recv() == "1 users, hello"
        assert exceptions(server) == 0


def test_django_channels() -> None:
    with serving("shop.channels:application", DJANGO) as server:
        with connect(f"ws://127.0.0.1:{server.port}/echo") as socket:
            socket.send('{"a": 1}')
            assert json.loads(socket.recv()) == {"echo": {"a": 1}, "path": "/echo"}
        assert curl(server, "/count")[2] == "1 for 127.0.0.1"


# ---------------------------------------------------------------------------------------------------- WSGI

FLASK = """
import threading
from flask import Flask, jsonify, request

app = Flask(__name__)


@app.post("/form/<name>")
def form(name):
    size = len(request.files["file"].read())
    return jsonify(name=name, value=request.form["value"], size=size, root=request.script_root)


@app.get("/stream")
def stream():
    return (f"{number}\\n" for number in range(100)), {"Content-Type": "text/plain"}


@app.get("/fails")
def fails():
    raise KeyError("fails")
"""


@pytest.mark.parametrize("interface", ["auto", "wsgi"])
def test_flask(interface: str) -> None:
    with serving("web:app", {"web.py": FLASK}, options={"interface": interface, "threads": 3}) as server:
        with client_of(server) as client:
            answer = client.post("/form/x", data={"value": "ü"}, files={"file": ("f", bytes(500_000))})
            assert answer.json() == {"name": "x", "value": "ü", "size": 500_000, "root": ""}
            assert client.get("/stream").text.endswith("98\n99\n")
            assert client.get("/fails").status_code == 500
        with pytest.raises(Exception, match="403"):
            connect(f"ws://127.0.0.1:{server.port}/")


def test_django_over_wsgi() -> None:
    with serving("shop.wsgi:application", DJANGO) as server, client_of(server) as client:
        assert client.get("/count").text == "1 for 127.0.0.1"
        assert client.get("/count").text == "2 for 127.0.0.1"


# ---------------------------------------------------------------------------------------------------- Starlette

STARLETTE = """
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.gzip import GZipMiddleware
from starlette.responses import FileResponse, StreamingResponse
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles


async def large(request):
    async def pieces():
        for _ in range(500):
            yield bytes(100_000)
    return StreamingResponse(pieces(), headers={"content-length": "50000000"})


async def back(request):
    return StreamingResponse(request.stream())


async def file(request):
    return FileResponse(__file__)


app = Starlette(routes=[
    Route("/large", large), Route("/back", back, methods=["POST"]), Route("/file", file),
    Mount("/static", StaticFiles(directory=".")),
])
zipped = Starlette(routes=app.routes, middleware=[Middleware(GZipMiddleware)])
"""


def test_starlette(tmp_path: Path) -> None:
    with serving("web:app", {"web.py": STARLETTE}) as server, client_of(server) as client:
        with client.stream("GET", "/large") as answer:
            assert answer.headers["content-length"] == "50000000"
            assert sum(map(len, answer.iter_bytes())) == 50_000_000
        path = tmp_path / "body"
        path.write_bytes(bytes(range(256)) * 20_000)
        url = f"http://127.0.0.1:{server.port}/back"
        command = ["curl", "--silent", "--max-time", "60", "--data-binary", f"@{path}", url]
        assert subprocess.run(command, capture_output=True, check=True).stdout == path.read_bytes()
        assert client.get("/file").text == STARLETTE
        assert client.get("/file", headers={"Range": "bytes=1-4"}).text == STARLETTE[1:5]


def test_an_answer_that_the_application_has_compressed() -> None:
    with serving("web:zipped", {"web.py": STARLETTE}, gzip=True) as server, client_of(server) as client:
        answer = client.get("/large")
        assert (answer.headers["content-encoding"], len(answer.content)) == ("gzip", 50_000_000)


# ---------------------------------------------------------------------------------------------------- another service


def test_the_web_server_hands_on_what_is_no_file(tmp_path: Path) -> None:
    (tmp_path / "page.html").write_text("a page")
    with running_server(
        "workermand.services.webserver",
        listen="http://127.0.0.1:0",
        files={"probe.py": APPLICATION},
        options={"root": str(tmp_path), "fallback": "probe:application"},
    ) as server:
        (tmp_path / "body").write_bytes(bytes(1_000_000))
        assert curl(server, "/page.html")[2] == "a page"
        total, messages = json.loads(curl(server, "/body/x", "--data-binary", f"@{tmp_path / 'body'}")[2])
        assert total == 1_000_000
        assert messages > 1
        server.stop()
        assert "the application has ended" in server.output


# ---------------------------------------------------------------------------------------------------- what cannot be


@pytest.mark.parametrize(
    ("app", "words"),
    [
        ("probe", '"probe" names no application: write "module:name"'),
        ("nowhere:app", "no module named nowhere on the app_path"),
        ("probe:nothing.at.all", "there is no nothing in probe"),
        ("probe:APPLICATION", "the application is a str, which cannot be called"),
        ("broken:app", "NameError"),
        ("imports:app", "No module named 'elsewhere'"),
        ("failing:app", "the application's startup has failed: no database"),
    ],
)
def test_a_worker_whose_application_cannot_be_served_does_not_load(app: str, words: str) -> None:
    files = {
        "probe.py": APPLICATION + "\nAPPLICATION = ''\n",
        "broken.py": "nonsense\n",
        "imports.py": "import elsewhere\n",
        "failing.py": (
            "async def app(scope, receive, send):\n    await receive()\n"
            "    await send({'type': 'lifespan.startup.failed', 'message': 'no database'})\n"
        ),
    }
    with pytest.raises(ServerFailed) as failed, serving(app, files):
        pass
    assert words in str(failed.value)


def test_wrong_options_are_named() -> None:
    for wrong, words in (
        ({"lifespann": "on"}, 'did you mean "lifespan"?'),
        ({"interface": "fastcgi"}, "options.interface"),
    ):
        with pytest.raises(ServerFailed) as failed, serving(options=wrong):
            pass
        assert words in str(failed.value)


def test_asgi_is_told_from_wsgi() -> None:
    def wsgi(environ: Any, start_response: Any) -> Any: ...
    def asgi(scope: Any, receive: Any, send: Any) -> Any: ...
    async def coroutine(scope: Any, receive: Any, send: Any) -> None: ...

    class Wsgi:
        def __call__(self, environ: Any, start_response: Any) -> Any: ...

    class Asgi:
        async def __call__(self, *everything: Any) -> None: ...

    assert [_is_wsgi(app) for app in (wsgi, Wsgi())] == [True, True]
    assert [_is_wsgi(app) for app in (asgi, coroutine, Asgi(), Wsgi, int)] == [False, False, False, False, False]


def test_an_application_may_be_given_as_it_is() -> None:
    with pytest.raises(LoadError, match="a dict"):
        asyncio.run(Bridge({}).start(None))  # type: ignore[arg-type]
