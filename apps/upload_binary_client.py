"""Uploads a file to apps.upload_binary and prints the answer.

python apps/upload_binary_client.py HOST PORT FILE
"""

import socket
import struct
import sys
from pathlib import Path


def main(host: str, port: str, file: str) -> int:
    name, content = Path(file).name.encode(), Path(file).read_bytes()
    header = struct.pack(">IB", 5 + len(name) + len(content), len(name))
    with socket.create_connection((host, int(port)), timeout=60) as connection:
        connection.sendall(header + name + content)
        answer = connection.makefile().readline().rstrip("\n")
    print(answer)
    return 0 if answer.startswith("stored ") else 1


if __name__ == "__main__":
    if len(sys.argv) != 4:
        sys.exit(__doc__)
    sys.exit(main(*sys.argv[1:]))
