"""Datagrams: on_message comes for each, and the connection stands for its sender.

    workermand run udp://127.0.0.1:2348 apps.udp_echo
    nc -u 127.0.0.1 2348

There is no on_connect and no on_close: UDP knows neither.
"""

from workermand import UdpConnection


def on_message(connection: UdpConnection, data: bytes) -> None:
    connection.send(data)
