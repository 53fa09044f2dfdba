"""apps.mysql_proxy: in front of a real MariaDB, driven by its client."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from apps.mysql_proxy import Counter
from tests.apps.conftest import find
from workermand.testing import running_server


@pytest.mark.real
def test_the_client_of_mariadb(mariadb: int, tmp_path: Path) -> None:
    client, options = find("mariadb"), {"upstream": f"127.0.0.1:{mariadb}"}
    with running_server("apps.mysql_proxy", listen="tcp://127.0.0.1:0", options=options) as server:

        def run(sql: str, password: str = "secret") -> subprocess.CompletedProcess[str]:
            command = [client, "--no-defaults", "--host=127.0.0.1", f"--port={server.port}", "--user=app", "--skip-ssl"]
            command += ["--max-allowed-packet=32M", "--batch", "--skip-column-names", "shop"]
            environment = {**os.environ, "MYSQL_PWD": password}
            return subprocess.run(
                command, check=False, input=sql, capture_output=True, text=True, env=environment, timeout=60
            )

        answer = run("CREATE TABLE item (name VARCHAR(20)); INSERT INTO item VALUES ('a'), ('b'); SELECT * FROM item;")
        assert (answer.stdout, answer.stderr) == ("a\nb\n", "")
        assert "ERROR 1045" in run("SELECT 1", "wrong").stderr
        long = f"SELECT LENGTH('{'x' * 5_000_000}'); SELECT LENGTH(REPEAT('y', 5000000)); SELECT REPEAT('z', 5000000);"
        answer = run(long)
        assert answer.stdout == "5000000\n5000000\n" + "z" * 5_000_000 + "\n"
        server.wait_for(r"\b3 queries, 5\d{6} bytes there, 5\d{6} back")


def test_packets_are_found_however_they_are_cut() -> None:
    query, ping = b"\x09\0\0\0\x03SELECT 1", b"\x01\0\0\0\x0e"
    stream = query + ping + b"\x05\0\0\x01\x03long" + query
    for size in range(1, len(stream) + 1):
        counter = Counter()
        for start in range(0, len(stream), size):
            counter.feed(stream[start : start + size])
        assert counter.queries == 2
