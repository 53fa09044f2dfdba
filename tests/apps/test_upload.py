"""apps.upload: a form, filled in by curl."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from workermand.testing import running_server


def test_a_form_with_files(tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    kept.mkdir()
    large = tmp_path / "large.bin"
    large.write_bytes(os.urandom(3 << 20))
    (tmp_path / "<b>.txt").write_text("small")
    with running_server("apps.upload", listen="http://127.0.0.1:0", options={"directory": str(kept)}) as server:

        def curl(*options: str) -> str:
            command = ["curl", "--silent", "--max-time", "30", *options, f"http://127.0.0.1:{server.port}/"]
            return subprocess.run(command, capture_output=True, text=True, check=True).stdout

        code = "%{http_code}"
        assert "303" in curl("-F", f"file=@{large}", "-F", f'file=@"{tmp_path}/<b>.txt"', "--write-out", code)
        assert (kept / "large.bin").read_bytes() == large.read_bytes()
        assert "<li>&lt;b&gt;.txt</li><li>large.bin</li>" in curl()
        assert curl("-F", f"file=@{large};filename=..", "--write-out", code).endswith("is not a name for a file\n400")
    assert sorted(path.name for path in kept.iterdir()) == ["<b>.txt", "large.bin"]
