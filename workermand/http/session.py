"""Session: what a server remembers of one browser, by the id in its cookie. Workerman's Session in snake_case.

No store is read here and none written: worker/sessions.py does that. A Session knows what it began with and which of
its keys have changed since, so that two requests of one browser that run at once do not undo each other's work: a store
merges the changes (``apply``), it never writes a whole Session over another.

Every value is kept encoded (MessagePack), each by itself: one that nobody asks for is never decoded, and a list or dict
that was changed in place is found by encoding it again.
"""

from __future__ import annotations

import re
import secrets
import typing
from collections.abc import Iterable, Iterator, Mapping, MutableMapping
from typing import Any, Final

import msgspec

LIMIT: Final = 64 * 1024
"""Bytes, where nobody says how large a session may get."""
_ID = re.compile(r"[0-9a-f]{32}")
_IMMUTABLE: Final = (str, int, float, bool, bytes, type(None))
_encode = msgspec.msgpack.encode
_decode = msgspec.msgpack.decode


def new_id() -> str:
    """128 random bits."""
    return secrets.token_hex(16)


def is_id(text: str) -> bool:
    """Whether it looks like one of ours; only then does it get near a path or a key."""
    return _ID.fullmatch(text) is not None


class Changes(msgspec.Struct, frozen=True):
    """What is to become of a session in its store."""

    id: str
    """Under which it is to be found from now on."""
    former: str = ""
    """The id that it had before, when that is to be forgotten."""
    is_new: bool = False
    """It is written whatever the store has. Not: when the store has it no more, somebody has ended it, and nothing is
    written."""
    is_cleared: bool = False
    """Everything that is stored goes first."""
    is_ended: bool = False
    """Nothing is left of it."""
    values: dict[str, bytes] = {}
    """Set: key -> encoded."""
    deleted: frozenset[str] = frozenset()

    @property
    def stored_as(self) -> str:
        """The id that the store knows."""
        return self.former or self.id

    def apply(self, stored: Mapping[str, bytes]) -> dict[str, bytes]:
        """``stored``, which may have changed since it was read, with these changes."""
        kept = {} if self.is_cleared else {key: value for key, value in stored.items() if key not in self.deleted}
        return kept | self.values


class Keeper(typing.Protocol):
    """What saves sessions."""

    def changed(self, session: Session) -> None:
        """There may be something to save: told once, until somebody asks for ``session.changes()``."""

    def save(self, session: Session) -> Any:
        """See Session.save()."""


class Session(MutableMapping[str, Any]):
    """A dict of what is remembered, which is saved by itself: before the answer goes out, and what changes later soon
    after. Process: the child; thread: the one that runs the loop.

    Values are what MessagePack can hold: None, bool, int of 64 bits, float, str, bytes, datetime with a zone, lists and
    dicts of them (tuples and sets come back as lists). TypeError for others, when they are set; ValueError when the
    session gets larger than ``session.size`` of the TOML file; RuntimeError when a session would begin after the answer
    that could bring its cookie. Before there is something to remember, nothing is stored and no cookie set. Of two
    requests at once that set one key, the later one wins; their other keys do not disturb each other.
    """

    __slots__ = (
        "_announced", "_changed", "_encoded", "_former", "_id", "_is_cleared", "_is_kept", "_is_prolonged",
        "_is_refreshed", "_keeper", "_limit", "_size", "_values", "is_answered", "is_new", "is_told", "saving",
    )  # fmt: skip

    def __init__(
        self,
        id: str = "",
        stored: Mapping[str, bytes] | None = None,
        *,
        limit: int = LIMIT,
        keeper: Keeper | None = None,
    ) -> None:
        """``stored``: what the store has for ``id``, key -> encoded; None: there is no such session, and it gets an id
        of its own. ``limit`` in bytes."""
        self._id = id if stored is not None else new_id()
        self.is_new = stored is None
        """The store does not have it yet."""
        self.is_answered = False
        """For the runtime: no answer is to come that could tell the browser of another id."""
        self.is_told = False
        """For the runtime: its keeper knows that there may be something to save."""
        self.saving: Any = None
        """For the runtime: who is saving it now."""
        self._announced = "" if stored is None else id
        """The id that the browser has, or is told; "" when it has none that is worth anything."""
        self._encoded: dict[str, bytes] = dict(stored or {})
        self._values: dict[str, Any] = {}
        self._changed: set[str] = set()
        self._former = ""
        self._is_kept = self._is_cleared = self._is_refreshed = self._is_prolonged = False
        self._size = sum(map(_size_of, self._encoded.items()))
        self._limit = limit
        self._keeper = keeper

    def __repr__(self) -> str:
        return f"<Session with {', '.join(self) or 'nothing'}>"  # the id is as good as a password

    # ------------------------------------------------------------------ reading

    def __getitem__(self, key: str) -> Any:
        value = self._values[key] if key in self._values else _decode(self._encoded[key])
        self._values[key] = value
        if not isinstance(value, _IMMUTABLE):
            self._tell()  # it may be changed in place
        return value

    def __contains__(self, key: object) -> bool:
        return key in self._encoded

    def __iter__(self) -> Iterator[str]:
        return iter(tuple(self._encoded))

    def __len__(self) -> int:
        return len(self._encoded)

    def has(self, key: str) -> bool:
        """It is there, and not None."""
        return self.get(key) is not None

    def exists(self, key: str) -> bool:
        """It is there."""
        return key in self

    def all(self) -> dict[str, Any]:
        """A copy."""
        return dict(self)

    # ------------------------------------------------------------------ changing

    def __setitem__(self, key: str, value: Any) -> None:
        self.put({key: value})

    def __delitem__(self, key: str) -> None:
        self._size -= _size_of((key, self._encoded.pop(key)))
        self._values.pop(key, None)
        self._change(key)

    def set(self, key: str, value: Any) -> None:
        self[key] = value

    def put(self, values: Mapping[str, Any] | str, value: Any = None) -> None:
        """Several at once; or one, as set()."""
        values = {values: value} if isinstance(values, str) else values
        for key, each in values.items():
            self._put(key, each, self._encode(key, each))

    def delete(self, key: str) -> None:
        """Also when it is not there."""
        if key in self:
            del self[key]

    def forget(self, keys: str | Iterable[str]) -> None:
        """One key, or several."""
        for key in [keys] if isinstance(keys, str) else list(keys):
            self.delete(key)

    def pull(self, key: str, default: Any = None) -> Any:
        """Its value; then it is deleted."""
        return self.pop(key, default)

    def flush(self) -> None:
        """Ends it: nothing is left in the store, and the browser is told to forget the id. What is set afterwards
        begins a session with a new one."""
        if not self.is_new:
            self._former = self._former or self._id
            self._is_cleared = True
        self._begin_anew()
        self._tell()

    clear = flush

    # ------------------------------------------------------------------ keeping

    def refresh(self) -> None:
        """Its lifetime, and that of the cookie, begins again. This happens by itself when half of it is over."""
        self._is_refreshed = self._is_prolonged = not self.is_new
        self._tell()

    def save(self) -> Any:
        """Writes the changes now. With the store of redis ``await`` it. Raises Refusal (503) when the store fails."""
        return self._keeper.save(self) if self._keeper is not None else None

    @property
    def id(self) -> str:
        """While the session lives it is as good as its user's password."""
        return self._id

    def keep(self) -> str:
        """Its id, for good: from now on it is stored even when there is nothing in it."""
        if self.is_new:
            self._must_be_told()
            self._is_kept = True
            self._tell()
        return self._id

    def regenerate_id(self) -> str:
        """A new id for the same content; the former one is worth nothing any more. To be called whenever somebody logs
        in: the id from before may be known to another. RuntimeError when the answer has been sent."""
        if self.is_answered:
            raise RuntimeError("the id of a session cannot change any more: its answer has been sent")
        if not self.is_new:
            self._former = self._former or self._id
        self._id = new_id()
        self._is_kept = True
        self._tell()
        return self._id

    # ------------------------------------------------------------------ for the runtime

    def changes(self) -> Changes | None:
        """What is to be saved; None: nothing. ValueError or TypeError for what was changed in place and cannot be."""
        self.is_told = False
        for key, value in self._values.items():
            if not isinstance(value, _IMMUTABLE) and (encoded := self._encode(key, value)) != self._encoded[key]:
                self._put(key, value, encoded)
        is_empty = not self._encoded and not self._is_kept
        if is_empty and self._is_cleared:
            return Changes(self._id, self._former, True, True, is_ended=True)
        if (is_empty and self.is_new) or not (self._changed or self._former or self._is_refreshed or self._is_kept):
            return None
        values = {key: self._encoded[key] for key in self._changed if key in self._encoded}
        deleted = frozenset(self._changed - values.keys())
        is_new = self.is_new or self._is_cleared
        return Changes(self._id, self._former, is_new, self._is_cleared, False, values, deleted)

    def saved(self, changes: Changes, *, is_there: bool = True) -> None:
        """The store has taken ``changes``, while more may have come. Not ``is_there``: somebody has ended the session
        meanwhile, and it is as if there had never been one."""
        if not is_there:
            self._begin_anew()
            self._announced = ""
        self._changed -= {key for key in self._changed if self._encoded.get(key) == changes.values.get(key)}
        self.is_new = changes.is_ended or not is_there
        is_other = self._id != changes.id
        self._former = changes.id if is_other and not self.is_new else ""
        self._is_cleared &= bool(self._former)
        self._is_kept &= is_other
        self._is_refreshed = False

    def news(self, changes: Changes | None) -> str | None:
        """What the browser has to be told, with ``changes`` that are saved, or about to be: an id; "": to forget the
        one that it has; None: nothing. It counts as told."""
        is_there = not changes.is_ended if changes is not None else not self.is_new
        news = self._id if is_there else ""
        if news == self._announced and not (news and self._is_prolonged):
            return None
        self._announced = news
        self._is_prolonged = False
        return news

    def dropped(self) -> None:
        """The changes so far are not to be saved."""
        self._changed.clear()
        self._former = ""
        self._is_kept = self._is_cleared = self._is_refreshed = self._is_prolonged = False

    def _begin_anew(self) -> None:
        self._id = new_id()
        self._encoded.clear()
        self._values.clear()
        self._changed.clear()
        self._size = 0
        self._is_kept = False

    def _put(self, key: str, value: Any, encoded: bytes) -> None:
        self._must_be_told()
        before = self._encoded.get(key)
        size = self._size + _size_of((key, encoded)) - (_size_of((key, before)) if before is not None else 0)
        if size > self._limit:
            raise ValueError(f"session.{key}: with it the session has {size} bytes, session.size allows {self._limit}")
        self._size = size
        self._encoded[key], self._values[key] = encoded, value
        self._change(key)

    def _encode(self, key: str, value: Any) -> bytes:
        try:
            if not key.encode():
                raise TypeError("an empty key")
            return _encode(value)
        except (AttributeError, TypeError, OverflowError, UnicodeEncodeError, RecursionError) as error:
            raise TypeError(f"session.{key} cannot be stored: {error}") from None

    def _change(self, key: str) -> None:
        self._changed.add(key)
        self._tell()

    def _tell(self) -> None:
        if not self.is_told and self._keeper is not None:
            self.is_told = True
            self._keeper.changed(self)

    def _must_be_told(self) -> None:
        if self.is_answered and self._id != self._announced:
            raise RuntimeError("a session cannot begin any more: its answer has been sent without its cookie")


def _size_of(item: tuple[str, bytes]) -> int:
    return len(item[0].encode()) + len(item[1])
