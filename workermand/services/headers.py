"""What an answer says about a file beside the file: Content-Type, Cache-Control, Content-Encoding. Pure.

Content-Type is found by the runtime, in Python's table and the machine's. Those tables are older than some formats, so
that the ones that browsers insist on are here; what the options add goes before all of them.
"""

from __future__ import annotations

import posixpath
from collections.abc import Iterator, Mapping

import msgspec

from workermand import Response
from workermand.services.paths import Names

KINDS = {
    ".avif": "image/avif",
    ".ico": "image/x-icon",
    ".map": "application/json",
    ".md": "text/markdown; charset=utf-8",
    ".mjs": "text/javascript; charset=utf-8",
    ".otf": "font/otf",
    ".ttf": "font/ttf",
    ".wasm": "application/wasm",
    ".webmanifest": "application/manifest+json",
    ".webp": "image/webp",
    ".woff": "font/woff",
    ".woff2": "font/woff2",
}
"""By the ending of a name, in lower case. A name with several dots has the last one's."""
ENCODINGS = {"br": ".br", "zstd": ".zst", "gzip": ".gz"}
"""Of neighbours that hold the same file compressed: the first that a client takes."""


class Headers(msgspec.Struct, frozen=True):
    """``kinds`` by ending; ``everywhere``, ``endings`` and ``prefixes`` of Cache-Control, as rules() sorts them."""

    kinds: Mapping[str, str]
    everywhere: str = ""
    endings: Mapping[str, str] = {}
    prefixes: tuple[tuple[str, str], ...] = ()

    def put_on(self, response: Response, names: Names) -> None:
        """``names``: where the file lies below the root."""
        path = "/" + "/".join(names)
        ending = ending_of(path)
        if kind := self.kinds.get(ending):
            response.with_header("Content-Type", kind)
        rule = next((rule for prefix, rule in self.prefixes if path.startswith(prefix)), None)
        if rule is None:
            rule = self.endings.get(ending, self.everywhere)
        if rule:
            response.with_header("Cache-Control", rule)


def rules(mime: Mapping[str, str], cache_control: str | Mapping[str, str]) -> Headers:
    """The options ``mime`` ({".wasm" = ...}) and ``cache_control``: one value for all, or one for each of "/prefix/"
    (the longest counts), ".ending" and "*". Raises ValueError for a key or a value that cannot be."""
    if isinstance(cache_control, str):
        cache_control = {"*": cache_control}
    for ending, kind in mime.items():
        if not ending.startswith(".") or "/" not in kind:
            raise ValueError(
                f'mime: "{ending}" = "{kind}": expected an ending and a type: ".wasm" = "application/wasm"'
            )
    for key in cache_control:
        if key != "*" and not key.startswith((".", "/")):
            raise ValueError(f'cache_control: "{key}": expected "*", an ending (".js") or a prefix ("/assets/")')
    for name, values in (("mime", mime.values()), ("cache_control", cache_control.values())):
        Response().with_header(name, values)
    by_length = sorted(cache_control.items(), key=lambda rule: len(rule[0]), reverse=True)
    return Headers(
        KINDS | {ending.lower(): kind for ending, kind in mime.items()},
        cache_control.get("*", ""),
        {key.lower(): value for key, value in by_length if key.startswith(".")},
        tuple(rule for rule in by_length if rule[0].startswith("/")),
    )


def ending_of(path: str) -> str:
    """ ".js", in lower case."""
    return posixpath.splitext(path)[1].lower()


def encodings(accepted: str) -> Iterator[tuple[str, str]]:
    """Those of ENCODINGS that ``Accept-Encoding: accepted`` names (RFC 9110 12.5.3); "*" is no wish of anybody's."""
    taken = set()
    for part in accepted.lower().split(","):
        name, _, weight = part.partition(";")
        if weight.strip().removeprefix("q=").strip("0.") or not weight.strip():
            taken.add(name.strip())
    return ((name, suffix) for name, suffix in ENCODINGS.items() if name in taken)
