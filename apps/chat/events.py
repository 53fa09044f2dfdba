"""What the chat does: rooms, a list of who is there, lines for all of a room or for one in it, and the last ones kept.

    make run, and http://127.0.0.1:55151/?room_id=1 in several browsers

Three workers make a cluster (docs/chat.md has their tables): gateways hold the browsers and never reload, the workers
that run this module reload at any time, a register introduces them to each other. What a client is, its name and room,
stands in its session, which the gateway keeps: this module has no memory of its own.
"""

import secrets
import time
from datetime import UTC, datetime
from typing import Any

from apps.chat import messages
from apps.chat.history import History
from apps.chat.messages import ALL, Login, People, Refused, Say
from workermand import Worker, WorkermandError
from workermand.services.gateway import Gateway

PEOPLE = 200
"""In one room: each of them is sent the list, and each line."""
BURST, RATE = 10.0, 2.0
"""Messages of one client at once, and in a second from then on."""
FLOOD = 50.0
"""Who has sent so many more than that is closed."""
OUTSIDE = "come in first: log in"

history = History()


async def on_message(client_id: str, message: str | bytes) -> None:
    asked = None
    try:
        spend(Gateway.session)
        asked = messages.read(message)
        if isinstance(asked, Login):
            await log_in(client_id, asked)
        elif isinstance(asked, Say):
            await say(client_id, asked)
        elif isinstance(asked, People):
            people = await people_in(Gateway.session.get("room_id"))
            await Gateway.send_to_client(client_id, {"type": "people", "client_list": people})
    except Refused as refusal:
        await complain(client_id, str(refusal))
    except WorkermandError as error:
        print(f"{client_id}: {error}")  # a gateway has gone, and the cluster does not know yet
        if isinstance(asked, Login):
            await Gateway.close_client(client_id)  # its page comes back, and begins anew
        else:
            await complain(client_id, "that did not work: try again")


async def on_close(client_id: str) -> None:
    if "room_id" in Gateway.session:
        who = {"from_client_id": client_id, "from_client_name": Gateway.session["client_name"]}
        await Gateway.send_to_group(group(Gateway.session["room_id"]), {"type": "logout", **who, "time": now()})


async def on_worker_stop(worker: Worker) -> None:
    await history.close()


async def log_in(client_id: str, asked: Login) -> None:
    if "room_id" in Gateway.session:
        raise Refused(f"you are in room {Gateway.session['room_id']} already")
    room = group(asked.room_id)
    if await Gateway.get_client_id_count_by_group(room) >= PEOPLE:
        raise Refused("this room is full")
    who = {"client_name": asked.client_name, "room_id": asked.room_id}
    # Known and in the room first, told about the others then: of two who come at once each sees the other.
    await Gateway.update_session(client_id, who)
    await Gateway.join_group(client_id, room)
    people = await people_in(asked.room_id)
    news = {"type": "login", "client_id": client_id, "client_name": asked.client_name, "time": now()}
    await Gateway.send_to_client(client_id, {**news, "client_list": people})
    await Gateway.send_to_client(client_id, {"type": "history", "lines": await history.lines(asked.room_id)})
    await Gateway.send_to_group(room, news, exclude_client_id=[client_id])


async def complain(client_id: str, words: str) -> None:
    complaint = {"type": "error", "message": words}
    if Gateway.session["allowance"] < -FLOOD:
        await Gateway.close_client(client_id, complaint)
    else:
        await Gateway.send_to_client(client_id, complaint)


async def say(client_id: str, asked: Say) -> None:
    room = Gateway.session.get("room_id")
    if room is None:
        raise Refused(OUTSIDE)
    line = {
        "type": "say",
        "id": secrets.token_hex(8),
        "from_client_id": client_id,
        "from_client_name": Gateway.session["client_name"],
        "to_client_id": asked.to_client_id,
        "content": asked.content,
        "time": now(),
    }
    if asked.to_client_id == ALL:
        await history.add(room, line)  # before it is sent: who comes in between finds it there
        await Gateway.send_to_group(group(room), line)
        return
    other = await Gateway.get_session(asked.to_client_id)
    if not other or other.get("room_id") != room:
        raise Refused("whom you are talking to is not in this room")
    line["to_client_name"] = other["client_name"]
    for receiver in {client_id, asked.to_client_id}:
        await Gateway.send_to_client(receiver, line)


async def people_in(room: str | None) -> dict[str, str]:
    """Their names, by client_id."""
    if room is None:
        raise Refused(OUTSIDE)
    sessions = await Gateway.get_client_sessions_by_group(group(room))
    return {id: session["client_name"] for id, session in sessions.items() if "client_name" in session}


def spend(session: dict[str, Any]) -> None:
    """A message out of the client's allowance, which grows with time. Raises Refused when there is none left."""
    seconds = max(0.0, time.time() - session.get("spent_at", time.time()))
    session["allowance"] = min(BURST, session.get("allowance", BURST) + RATE * seconds) - 1
    session["spent_at"] = time.time()
    if session["allowance"] < 0:
        raise Refused("not so fast: wait a few seconds")


def group(room_id: str) -> str:
    return f"chat.{room_id}"


def now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
