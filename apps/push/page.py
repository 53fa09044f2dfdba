"""The page that all three sites serve, and how they read what is to be pushed."""

import hmac
import html
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

SERVERS = os.environ.get("PUSH_SERVERS", "")
"""Addresses of the gateways, with blanks between them; "": port 7273 of the site's own host."""
TOKEN = os.environ.get("PUSH_TOKEN", "")
"""What a program that pushes has to know; "": nothing, for sites that only this machine can reach."""
CONTENT = 10_000
"""Characters."""
_PAGE = (Path(__file__).parent / "index.html").read_text()


class Mistake(Exception):
    """What the program is told, with status 400."""


class Push(NamedTuple):
    """To one uid, to one group, or else to everybody."""

    uid: str
    group: str
    message: dict[str, Any]


def page(uid: str) -> str:
    """For one visitor."""
    values = {"servers": SERVERS, "uid": uid}
    return _PAGE.format_map({name: html.escape(value) for name, value in values.items()})


def read(form: Mapping[str, Any]) -> Push:
    """A form with ``to`` (uid, group or all), ``name`` of the uid or group, and ``content``. Raises Mistake."""
    to, name, content = (str(form.get(field, "")) for field in ("to", "name", "content"))
    if to not in ("uid", "group", "all"):
        raise Mistake("to: uid, group or all")
    if (to == "all") is bool(name):
        raise Mistake("name: of the uid or group, and none for all")
    if not 0 < len(content) <= CONTENT:
        raise Mistake(f"content: 1 to {CONTENT:,} characters")
    return Push(name if to == "uid" else "", name if to == "group" else "", {"type": "push", "content": content})


def may_push(authorization: str | None) -> bool:
    """Whether the header Authorization says "Bearer TOKEN"."""
    return not TOKEN or hmac.compare_digest((authorization or "").encode(), f"Bearer {TOKEN}".encode())
