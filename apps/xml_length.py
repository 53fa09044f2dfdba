"""The manual's first example of a protocol: ten ASCII digits, the length of all of it, and then XML.

0000000050<request><module>user</module></request>

[worker.xml]
listen = "tcp://127.0.0.1:2354"
protocol = "apps.xml_length:XmlWithLength"
handler = "apps.xml_length"

printf '0000000034<request>hello</request>' | nc -q 1 127.0.0.1 2354
"""

from xml.etree import ElementTree

from workermand import Connection

HEADER = 10


class XmlWithLength:
    @staticmethod
    def input(buffer: bytes, connection: Connection | None) -> int:
        if len(buffer) < HEADER:
            return 0
        digits = buffer[:HEADER]
        # int() alone would take "+1", " 7" and "1_0" too.
        return int(digits) if digits.isdigit() and int(digits) > HEADER else -1

    @staticmethod
    def decode(package: bytes, connection: Connection | None) -> ElementTree.Element:
        return ElementTree.fromstring(package[HEADER:])

    @staticmethod
    def encode(message: ElementTree.Element, connection: Connection | None) -> bytes:
        body = ElementTree.tostring(message)
        return b"%010d" % (HEADER + len(body)) + body


def on_message(connection: Connection, data: ElementTree.Element) -> None:
    response = ElementTree.Element("response", to=data.tag)
    response.extend(data)
    response.text = data.text
    connection.send(response)
