"""What the pages of the chat say, in JSON, read and checked. Nothing of it is changed for HTML: a name or a line goes
to the other pages as it was written, and these show it as text.
"""

import unicodedata

import msgspec

NAME = 30
"""Characters."""
ROOM = 32
CONTENT = 2000
ALL = "all"
JOINERS = "\u200c\u200d"
"""Invisible, and wanted: they make one emoji of several, and shape letters."""


class Refused(Exception):
    """What the client is told."""


class Login(msgspec.Struct, tag="login"):
    client_name: str
    room_id: str


class Say(msgspec.Struct, tag="say"):
    content: str
    to_client_id: str = ALL


class People(msgspec.Struct, tag="people"):
    """Who is there by now? A gateway that was killed has not said goodbye for its clients."""


class Pong(msgspec.Struct, tag="pong"):
    """The answer to the gateway's {"type": "ping"}."""


Message = Login | Say | People | Pong
_decoder = msgspec.json.Decoder(Message)


def read(data: str | bytes) -> Message:
    """Raises Refused."""
    try:
        message: Message = _decoder.decode(data)
    except (msgspec.DecodeError, UnicodeError) as error:
        raise Refused(f"not understood: {error}") from None
    if isinstance(message, Login):
        message.client_name = _name(message.client_name)
        message.room_id = _room(message.room_id)
    elif isinstance(message, Say):
        message.content = _content(message.content)
    return message


def _name(text: str) -> str:
    name = " ".join(_printable(text).split())
    if not name.strip(JOINERS + " "):
        raise Refused("a name has to have a letter at least")
    if len(name) > NAME:
        raise Refused(f"a name has {NAME} characters at the most")
    return name


def _room(text: str) -> str:
    if not (0 < len(text) <= ROOM and text.replace("-", "").replace("_", "").isalnum()):
        raise Refused(f"room_id: 1 to {ROOM} letters, digits, - and _")
    return text


def _content(text: str) -> str:
    content = _printable(text.replace("\r\n", "\n"), keep="\n\t").strip()
    if not content.strip(JOINERS):
        raise Refused("there is nothing in it")
    if len(content) > CONTENT:
        raise Refused(f"a line has {CONTENT:,} characters at the most")
    return content


def _printable(text: str, keep: str = "") -> str:
    """Without control characters, and without those that turn the direction of what follows."""
    kept = keep + JOINERS
    return "".join(letter for letter in text if letter in kept or unicodedata.category(letter)[0] != "C")
