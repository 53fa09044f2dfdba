"""http: llhttp's own corpus, to the parser alone and to the server, whole and byte by byte.

llhttp_requests.json: the strict request cases of llhttp's tests (https://github.com/nodejs/llhttp, MIT licence,
Copyright Fedor Indutny, 2018) as data: the bytes (latin-1), why llhttp refuses them (null: it does not), how many
messages it completes. llhttp_refused.json: what it takes and we refuse, each with its rule, one of policy.RULES.
"""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from httptools import HttpParserError, HttpParserUpgrade, HttpRequestParser

from tests.protocols.test_http import in_bytes, outcome
from workermand.http.policy import RULES

HERE = Path(__file__).parent
CASES = json.loads((HERE / "llhttp_requests.json").read_text())
IDS = [f"{number}: {case['title']}" for number, case in enumerate(CASES)]
REFUSED = json.loads((HERE / "llhttp_refused.json").read_text())

LAST = "Data after `Connection: close`"
"""llhttp's word for what we do not look at any more."""
UPGRADE = "Pause on CONNECT/Upgrade"
"""llhttp ends the HTTP there; we know no CONNECT, and ignore an upgrade to what is not spoken here."""
UNCOUNTED = "Content-Length reset when no body is received"
"""llhttp's tests skip the bodies of this one, which the bytes do not say."""
OTHERWISE = {
    "Fragment in URI": "target",
    "`host:port` and basic auth": "target",
    "Trailing headers": "trailer",
    "Multiple tokens with folding and LWS": "method",  # of what follows an upgrade, which we go on to read as HTTP
    "Emitting part of body and pausing": "syntax",
}
"""Of those that have no Host: what we refuse them for when they are given one, and llhttp does not."""


def verdict(wire: bytes) -> tuple[int, str]:
    """How many requests, and the rule by which no more are read: "" when none has been broken."""
    requests, reason, farewell = outcome([wire])
    assert outcome(in_bytes(wire)) == (requests, reason, farewell)
    assert bool(farewell) == (reason not in ("", "http: the last request"))
    return len(requests), reason.split(": ")[1] if farewell else ""


def test_the_corpus_is_whole() -> None:
    assert len(CASES) == 121
    titles = [case["title"] for case in CASES if case["error"] is None]
    assert {title: titles.count(title) for title in REFUSED} == dict.fromkeys(REFUSED, 1)
    assert set(REFUSED.values()) <= RULES.keys()
    assert 2 * list(REFUSED.values()).count("host") > len(REFUSED)


@pytest.mark.parametrize("case", CASES, ids=IDS)
def test_the_parser_alone_agrees_with_llhttp(case: dict[str, Any]) -> None:
    wire = case["request"].encode("latin-1")
    for pieces in ([wire], in_bytes(wire)):
        assert _alone(pieces) == (case["error"], case["messages"] if case["title"] != UNCOUNTED else 0)


def _alone(pieces: list[bytes]) -> tuple[str | None, int]:
    completed: list[None] = []
    parser = HttpRequestParser(SimpleNamespace(on_message_complete=lambda: completed.append(None)))
    try:
        for piece in pieces:
            parser.feed_data(piece)
    except HttpParserUpgrade:
        return UPGRADE, len(completed)
    except HttpParserError as error:
        return str(error), len(completed)
    return None, len(completed)


@pytest.mark.parametrize("case", CASES, ids=IDS)
def test_the_server_refuses_what_llhttp_refuses_and_by_rule_some_more(case: dict[str, Any]) -> None:
    count, rule = verdict(case["request"].encode("latin-1"))
    if case["error"] == LAST:
        assert (count, rule) == (case["messages"], "")
    elif case["error"] is not None:
        assert rule
    else:
        assert rule == REFUSED.get(case["title"], "")
        if not rule:
            assert count == case["messages"]


@pytest.mark.parametrize("case", CASES, ids=IDS)
def test_it_is_the_same_when_they_have_a_host(case: dict[str, Any]) -> None:
    """So that what lies behind the head of those is looked at, too."""
    wire = case["request"].encode("latin-1")
    if verdict(wire)[1] != "host":
        return
    count, rule = verdict(with_hosts(wire))
    if case["title"] in OTHERWISE:
        assert rule == OTHERWISE[case["title"]]
    elif case["error"] in (None, UPGRADE):
        assert rule == ""
        assert count == case["messages"] or case["title"] == UNCOUNTED
    else:
        assert rule == "syntax"


def with_hosts(wire: bytes) -> bytes:
    """A Host behind each request line."""
    lines = wire.split(b"\r\n")
    return b"\r\n".join(line + b"\r\nHost:" if line.endswith(b" HTTP/1.1") else line for line in lines)
