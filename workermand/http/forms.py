"""Query strings, forms, uploads and cookies: bytes of a request as Python values.

A name that stands there once has a str, one that repeats a list of them. Uploads above 1 MiB lie in temporary files,
which go when the request does. What cannot be read raises Refusal, whose status the client may get.
"""

from __future__ import annotations

import contextlib
import io
import os
import shutil
import tempfile
import weakref
from collections.abc import Iterable
from pathlib import Path
from typing import BinaryIO, Final
from urllib.parse import unquote, unquote_to_bytes

import multipart  # type: ignore[import-untyped]

from workermand.http.policy import Refusal

Values = dict[str, str | list[str]]

MOST_FIELDS: Final = 1000
"""Of a query or form: PHP's max_input_vars."""
MOST_PARTS: Final = 1024
"""Of a multipart body: Workerman's maxFileUploads."""
IN_MEMORY: Final = 1024 * 1024
"""Bytes; a larger upload lies in a file."""
_PIECE = 256 * 1024


class Upload:
    """One file of a form. ``name`` is what the client calls it, without directories and not to be trusted further;
    ``type`` what it says of its content; ``size`` in bytes."""

    def __init__(self, name: str, type: str) -> None:
        self.name = name.replace("\\", "/").rpartition("/")[2].replace("\0", "")
        self.type = type
        self.size = 0
        self._data = bytearray()
        self._path: Path | None = None
        self._remove: weakref.finalize[..., Upload] | None = None

    def __repr__(self) -> str:
        return f"<Upload {self.name!r}, {self.size} bytes of {self.type}>"

    @property
    def path(self) -> Path:
        """Where it lies; a file is made when it is still in memory. It goes with the request: move() keeps it."""
        if self._path is None:
            fd, name = tempfile.mkstemp(prefix="workermand.upload.")
            self._path = Path(name)
            self._remove = weakref.finalize(self, _forget, name)
            with open(fd, "wb") as file:
                file.write(self._data)
            self._data = bytearray()
        return self._path

    def open(self) -> BinaryIO:
        """A binary file, at its beginning."""
        return io.BytesIO(self._data) if self._path is None else self._path.open("rb")

    def read(self) -> bytes:
        """All of it."""
        return bytes(self._data) if self._path is None else self._path.read_bytes()

    def move(self, target: str | os.PathLike[str]) -> Path:
        """Keeps it as ``target``, which is replaced when it exists. May block: it copies between file systems."""
        shutil.move(self.path, target)
        assert self._remove is not None, "path has set it"
        self._remove.detach()
        self._path = Path(target)
        return self._path

    def write(self, piece: bytes) -> None:
        """The next bytes of it, while the body is read."""
        self.size += len(piece)
        if self._path is None:
            self._data += piece
            if self.size > IN_MEMORY:
                self.path  # noqa: B018 - made now, and written to from here on
        else:
            with self._path.open("ab") as file:
                file.write(piece)


def parse_query(text: str | bytes) -> Values:
    """ "a=1&b=2&b=3" -> {"a": "1", "b": ["2", "3"]}: a query string, or a form of application/x-www-form-urlencoded.
    A name with "[]" at its end has a list always, and loses the brackets, as PHP's forms have it."""
    if isinstance(text, str):
        text = text.encode("latin-1", "replace")
    pieces = text.split(b"&", MOST_FIELDS + 1)
    if len(pieces) > MOST_FIELDS:
        raise Refusal("form-size", f"more than {MOST_FIELDS} fields")
    values: Values = {}
    for piece in pieces:
        if piece:
            name, _, value = piece.replace(b"+", b" ").partition(b"=")
            put(values, _decode(name), _decode(value))
    return values


def put(values: Values, name: str, value: str) -> None:
    if name.endswith("[]"):
        name = name[:-2]
        values.setdefault(name, [])
    present = values.get(name)
    if present is None:
        values[name] = value
    elif isinstance(present, list):
        present.append(value)
    else:
        values[name] = [present, value]


def parse_multipart(body: bytes, content_type: str) -> tuple[Values, dict[str, list[Upload]]]:
    """Fields and files of multipart/form-data. Raises Refusal."""
    values: Values = {}
    files: dict[str, list[Upload]] = {}
    try:
        _, options = multipart.parse_options_header(content_type)
        parser = multipart.PushMultipartParser(
            options.get("boundary", ""), len(body), max_segment_count=MOST_PARTS, strict=True
        )
        with parser:
            _read_parts(parser, body, values, files)
    except multipart.ParserLimitReached as error:
        raise Refusal("form-size", str(error)) from None
    except (multipart.MultipartError, UnicodeError) as error:
        raise Refusal("form", f"multipart body: {error}") from None
    return values, files


def _read_parts(
    parser: multipart.PushMultipartParser, body: bytes, values: Values, files: dict[str, list[Upload]]
) -> None:
    upload: Upload | None = None
    name, field = "", bytearray()
    for at in range(0, len(body), _PIECE):
        for event in parser.parse(body[at : at + _PIECE]):
            if isinstance(event, multipart.MultipartSegment):
                name, field = event.name or "", bytearray()
                upload = None
                if event.filename is not None:
                    upload = Upload(event.filename, event.content_type or "application/octet-stream")
            elif event is None:
                if upload is None:
                    put(values, name, field.decode("utf-8", "replace"))
                elif upload.name or upload.size:  # a browser sends an empty one where nothing was chosen
                    files.setdefault(name.removesuffix("[]"), []).append(upload)
            elif upload is not None:
                upload.write(event)
            else:
                field += event


def parse_cookies(lines: Iterable[str]) -> dict[str, str]:
    """Of Cookie headers. Values are decoded as Response.cookie() encodes them; of two with one name the first counts,
    which is the one of the more specific path (RFC 6265 5.4)."""
    cookies: dict[str, str] = {}
    for line in lines:
        for pair in line.split(";"):
            name, equals, value = pair.strip(" \t").partition("=")
            if equals and name not in cookies:
                if len(value) > 1 and value[0] == value[-1] == '"':
                    value = value[1:-1]
                cookies[name] = unquote(value, errors="surrogateescape") if "%" in value else value
    return cookies


def _decode(piece: bytes) -> str:
    return (unquote_to_bytes(piece) if b"%" in piece else piece).decode("utf-8", "replace")


def _forget(path: str) -> None:
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)
