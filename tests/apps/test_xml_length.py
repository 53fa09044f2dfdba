"""apps.xml_length: ten digits and XML."""

from __future__ import annotations

from typing import Any
from xml.etree import ElementTree

from apps.xml_length import XmlWithLength
from workermand.protocols.base import Protocol
from workermand.protocols.custom import adapt
from workermand.testing import Case, check_protocol, running_server


class Comparable(XmlWithLength):
    """Elements are not equal to their like: strings are."""

    @staticmethod
    def decode(package: bytes, connection: Any) -> Any:
        return ElementTree.tostring(XmlWithLength.decode(package, connection))


def make() -> Protocol:
    return adapt(Comparable, "xml")(1000)


def package(xml: bytes) -> bytes:
    return b"%010d" % (len(xml) + 10) + xml


def test_the_protocol() -> None:
    long = b"<a>" + b"x" * 300 + b"</a>"
    cases: list[Case] = [(package(xml), [xml]) for xml in (b"<a />", b"<a><b>1</b></a>", long)]
    violations = [
        b"0000000010",
        b"+000000020",
        b" 000000020",
        b"00000_0020",
        b"hello, who",
        package(b"<a>"),
        b"0000001001",
    ]
    check_protocol(make, cases, violations=violations, round_trip=False)


def test_the_handler() -> None:
    listen, protocol = "tcp://127.0.0.1:0", "apps.xml_length:XmlWithLength"
    with running_server("apps.xml_length", listen=listen, protocol=protocol) as server, server.connect() as client:
        client.sendall(package(b"<request><module>user</module></request>"))
        answer = package(b'<response to="request"><module>user</module></response>')
        assert client.makefile("rb").read(len(answer)) == answer
