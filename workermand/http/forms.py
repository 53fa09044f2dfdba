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
from collections.abc import Iterable, Iterator
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
"""Bytes, of all uploads of a request; what is larger lies in files."""
MOST_TEXT: Final = 10 * 1024 * 1024
"""Bytes, of all other fields of a multipart body."""
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

    def write(self, piece: bytes, room: int) -> int:
        """The next bytes of it, while the body is read. How much more of memory is taken, of the ``room`` that there
        is; less than 0 when it goes to a file."""
        self.size += len(piece)
        if self._path is None and len(piece) <= room:
            self._data += piece
            return len(piece)
        freed = len(self._data)
        with self.path.open("ab") as file:
            file.write(piece)
        return -freed


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
    reader = Multipart(content_type, len(body))
    view = memoryview(body)
    for at in range(0, len(body), _PIECE):
        reader.feed(bytes(view[at : at + _PIECE]))
    return reader.finish()


class Multipart:
    """The same, as it comes: ``feed`` takes the pieces, ``finish`` gives fields and files. Both raise Refusal. What is
    kept in memory is bounded: of uploads IN_MEMORY in all, of fields MOST_TEXT."""

    def __init__(self, content_type: str, length: int = -1) -> None:
        """``length`` in bytes; -1: unknown."""
        self._values: Values = {}
        self._files: dict[str, list[Upload]] = {}
        self._name = ""
        self._upload: Upload | None = None
        self._field = bytearray()
        self._in_memory = self._text = 0
        with _refusing():
            _, options = multipart.parse_options_header(content_type)
            self._parser = multipart.PushMultipartParser(
                options.get("boundary", ""), length, max_segment_count=MOST_PARTS, strict=True
            )

    def feed(self, piece: bytes) -> None:
        with _refusing():
            for event in self._parser.parse(piece):
                self._take(event)

    def finish(self) -> tuple[Values, dict[str, list[Upload]]]:
        with _refusing():
            self._parser.close()
        return self._values, self._files

    def _take(self, event: multipart.MultipartSegment | bytes | None) -> None:
        if isinstance(event, multipart.MultipartSegment):
            self._name, self._field = event.name or "", bytearray()
            self._upload = None
            if event.filename is not None:
                self._upload = Upload(event.filename, event.content_type or "application/octet-stream")
        elif event is None:
            self._end_part()
        elif self._upload is not None:
            self._in_memory += self._upload.write(event, IN_MEMORY - self._in_memory)
        else:
            self._text += len(event)
            if self._text > MOST_TEXT:
                raise Refusal("form-size", f"more than {MOST_TEXT} bytes in fields")
            self._field += event

    def _end_part(self) -> None:
        upload = self._upload
        if upload is None:
            put(self._values, self._name, self._field.decode("utf-8", "replace"))
        elif upload.name or upload.size:  # a browser sends an empty one where nothing was chosen
            self._files.setdefault(self._name.removesuffix("[]"), []).append(upload)


@contextlib.contextmanager
def _refusing() -> Iterator[None]:
    try:
        yield
    except multipart.ParserLimitReached as error:
        raise Refusal("form-size", str(error)) from None
    except (multipart.MultipartError, UnicodeError) as error:
        raise Refusal("form", f"multipart body: {error}") from None


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
