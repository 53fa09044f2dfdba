"""apps.ws_client, with the websockets package as the server: it talks, it is heard, and it comes back."""

from __future__ import annotations

import queue
import socket
import threading

from websockets.sync.server import ServerConnection, serve

from tests.conftest import PATIENCE
from workermand.testing import running_server


def test_it_talks_and_comes_back() -> None:
    heard: queue.Queue[str | bytes] = queue.Queue()

    def play(connection: ServerConnection) -> None:
        """Two messages of each connection, then its end."""
        for _ in range(2):
            heard.put(connection.recv(timeout=PATIENCE))
            connection.send("well")

    with socket.create_server(("127.0.0.1", 0)) as listening, serve(play, sock=listening) as peer:
        thread = threading.Thread(target=peer.serve_forever)
        thread.start()
        try:
            url = f"ws://127.0.0.1:{listening.getsockname()[1]}"
            options = {"url": url, "every": 0.05, "again": 0.05}
            with running_server("apps.ws_client", listen=None, options=options) as server:
                told = [heard.get(timeout=PATIENCE) for _ in range(4)]
                server.wait_for(rf"(?s)(connected to {url}.*heard 'well'.*lost {url}: .*){{2}}")
        finally:
            peer.shutdown()
            thread.join()
    assert told[0] == told[2] == "hello"
    assert all(str(words).startswith("it is ") for words in (told[1], told[3]))


def test_a_server_that_is_not_there_is_told_of_and_asked_again() -> None:
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        options = {"url": f"ws://127.0.0.1:{nobody.getsockname()[1]}", "again": 0.01}
        with running_server("apps.ws_client", listen=None, options=options) as server:
            server.wait_for(r"(?s)(connect ws://\S+ failed after .*Connection refused.*){3}")
