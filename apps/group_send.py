"""The manual's group send: browsers join groups, and what one sends to a group comes to all in it, in every process.

    [worker.channel]
    listen = "unix://channel.sock"
    protocol = "frame"
    handler = "workermand.services.channel.server"
    reloadable = false

    [worker.groups]
    listen = "websocket://127.0.0.1:4238"
    handler = "apps.group_send"
    count = 4

    python -m websockets ws://127.0.0.1:4238
    > {"cmd": "join", "group": "tea"}
    < {"joined": "tea", "here": 1}
    > {"cmd": "send", "group": "tea", "text": "milk?"}
    < {"group": "tea", "text": "milk?"}
    > {"cmd": "leave", "group": "tea"}

Who closes the browser leaves all groups.
"""

import json

from workermand import Connection, Worker
from workermand.services.channel import Channel


async def on_worker_start(worker: Worker) -> None:
    worker.channel = await Channel.connect(worker.options.get("url"), secret=worker.options.get("secret", ""))


async def on_message(browser: Connection, words: str) -> None:
    channel: Channel = browser.worker.channel
    try:
        command = json.loads(words)
        verb, group = command["cmd"], command["group"]
        if verb == "join":
            await channel.join_group(group, browser)
            browser.send(json.dumps({"joined": group, "here": channel.group_size(group)}))
        elif verb == "leave":
            browser.send(json.dumps({"left": group, "was_in": channel.leave_group(group, browser)}))
        elif verb == "send":
            channel.send_to_group(group, json.dumps({"group": group, "text": command["text"]}))
        else:
            raise ValueError(f"no such cmd: {verb}")
    except (ValueError, KeyError, TypeError) as error:
        browser.send(json.dumps({"error": f"{type(error).__name__}: {error}"}))
