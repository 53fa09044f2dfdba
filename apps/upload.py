"""A form with a file: what is uploaded is kept and listed. A large file lies on the disk before this is called.

    workermand run http://127.0.0.1:8082 apps.upload
    curl -F file=@README.md http://127.0.0.1:8082/

options = { directory = "/srv/uploads" }     # without it: worker.state_dir
"""

import html
from pathlib import Path

from apps.storage import safe
from workermand import Connection, Request, Response, Worker

FORM = """<!doctype html><title>Upload</title>
<form method="post" enctype="multipart/form-data"><input type="file" name="file" multiple><button>Upload</button></form>
<ul>{}</ul>
"""


def on_message(connection: Connection, request: Request) -> None:
    directory = directory_of(connection.worker)
    if request.method == "POST":
        try:
            for upload in request.file().get("file", []):
                upload.move(directory / safe(upload.name))
        except ValueError as error:
            connection.send(Response(400, {"Content-Type": "text/plain; charset=utf-8"}, f"{error}\n"))
        else:
            connection.send(Response.redirect(request.path, 303))
        return
    names = sorted(path.name for path in directory.iterdir() if path.is_file())
    connection.send(FORM.format("".join(f"<li>{html.escape(name)}</li>" for name in names)))


def directory_of(worker: Worker) -> Path:
    return Path(worker.options.get("directory") or worker.state_dir)
