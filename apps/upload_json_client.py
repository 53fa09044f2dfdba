"""Uploads a file to apps.upload_json and prints the answer.

python apps/upload_json_client.py HOST PORT FILE
"""

import base64
import json
import socket
import sys
from pathlib import Path


def main(host: str, port: str, file: str) -> int:
    content = base64.b64encode(Path(file).read_bytes()).decode()
    line = json.dumps({"file_name": Path(file).name, "file_data": content}) + "\n"
    with socket.create_connection((host, int(port)), timeout=60) as connection:
        connection.sendall(line.encode())
        answer = connection.makefile().readline().rstrip("\n")
    print(answer)
    return 0 if answer.startswith("stored ") else 1


if __name__ == "__main__":
    if len(sys.argv) != 4:
        sys.exit(__doc__)
    sys.exit(main(*sys.argv[1:]))
