"""A name server on loopback that answers what the test says, and is silent for all else."""

from __future__ import annotations

import asyncio
import ipaddress
import struct
from typing import Any

A, AAAA = 1, 28


class NameServer(asyncio.DatagramProtocol):
    """``zone``: (name, A or AAAA) -> addresses; an empty list: there is none of this kind; None: no such name.
    ``late``: seconds to wait before the answer. Whatever is in neither gets no answer, ever."""

    def __init__(self) -> None:
        self.zone: dict[tuple[str, int], list[str] | None] = {}
        self.late: dict[tuple[str, int], float] = {}
        self.asked: list[tuple[str, int]] = []
        self.address = ""

    async def start(self) -> None:
        loop = asyncio.get_running_loop()
        self.transport, _ = await loop.create_datagram_endpoint(lambda: self, ("127.0.0.1", 0))
        host, port = self.transport.get_extra_info("sockname")
        self.address = f"{host}:{port}"

    def datagram_received(self, data: bytes, peer: Any) -> None:
        labels, at = [], 12
        while size := data[at]:
            labels.append(data[at + 1 : at + 1 + size].decode())
            at += size + 1
        question = data[12 : at + 5]
        key = ".".join(labels).lower(), int.from_bytes(data[at + 1 : at + 3])
        self.asked.append(key)
        if key not in self.zone:
            return
        addresses = self.zone[key]
        code = 3 if addresses is None else 0
        answers = b"".join(_record(address) for address in addresses or ())
        header = struct.pack(">HHHHHH", int.from_bytes(data[:2]), 0x8180 | code, 1, len(addresses or ()), 0, 0)
        asyncio.get_running_loop().call_later(
            self.late.get(key, 0.0), self.transport.sendto, header + question + answers, peer
        )


def _record(address: str) -> bytes:
    packed = ipaddress.ip_address(address).packed
    return struct.pack(">HHHIH", 0xC00C, A if len(packed) == 4 else AAAA, 1, 0, len(packed)) + packed
