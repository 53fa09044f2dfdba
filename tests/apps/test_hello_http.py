"""apps.hello_http, asked by curl."""

from __future__ import annotations

import json
import subprocess

from workermand.testing import running_server


def test_pages() -> None:
    with running_server("apps.hello_http", listen="http://127.0.0.1:0") as server:

        def curl(path: str, *options: str) -> str:
            command = ["curl", "--silent", "--max-time", "30", *options, f"http://127.0.0.1:{server.port}{path}"]
            return subprocess.run(command, capture_output=True, text=True, check=True).stdout

        assert curl("/") == "<h1>Hello, world</h1>\n"
        assert curl("/?name=%3Cb%3E") == "<h1>Hello, &lt;b&gt;</h1>\n"
        assert json.loads(curl("/who", "--user-agent", "test")) == {"ip": "127.0.0.1", "agent": "test"}
        assert curl("/nothing", "--write-out", "%{http_code}").endswith("page.\n404")
