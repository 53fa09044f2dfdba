"""Bodies that are handed over while they come: every cut, every end, and answers that are out before the body is in."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import Any

import pytest

from workermand.errors import CloseReason, ConnectionLost, EndOfInput, ProtocolError
from workermand.http.policy import Refusal
from workermand.http.request import CLOSE, CONTINUE, Request
from workermand.http.response import Chunk, Response
from workermand.protocols.answering import INTERIM
from workermand.protocols.bodies import SPARE, STREAMED_FROM
from workermand.protocols.http import Http

LONG = bytes(range(256)) * 257
"""More than STREAMED_FROM."""
GET = b"GET /next HTTP/1.1\r\nHost: a\r\n\r\n"


def sized(length: int, *lines: bytes) -> bytes:
    more = b"".join(line + b"\r\n" for line in lines)
    return b"POST /up HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n%b\r\n" % (length, more)


HEAD = b"POST /up HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
CHUNKED = HEAD + b"5\r\nhel\r\n\r\nB\r\n\r\n\r\no world\r\n0\r\nX-Sum: 7\r\n\r\n"


class Streams(Http):
    """With the parts of a runtime: ``invited`` is what went out beside the answers."""

    __slots__ = ("gave_up", "invited", "regulated")

    def __init__(self, **settings: Any) -> None:
        super().__init__(streams=True, **settings)
        self.invited: list[bytes] = []
        self.gave_up = False
        self.regulated = 0
        self.connection = self

    def send(self, data: bytes, raw: bool) -> None:
        assert raw
        self.invited.append(data)

    def future(self) -> Awaitable[None]:
        return asyncio.get_running_loop().create_future()

    def regulate(self) -> None:
        super().regulate()
        self.regulated += 1

    def give_up(self) -> None:
        super().give_up()
        self.gave_up = True


def rest_of(request: Request) -> bytes:
    async def read() -> bytes:
        return b"".join([piece async for piece in request.stream()])

    return asyncio.run(read())


def begun(wire: bytes, **settings: Any) -> tuple[Streams, Request]:
    http = Streams(**settings)
    (request,) = http.feed(wire)
    return http, request


def read_one_step(request: Request) -> None:
    """Its handler begins to read, and finds nothing."""

    async def step() -> None:
        task = asyncio.ensure_future(anext(aiter(request.stream())))
        await asyncio.sleep(0)
        assert not task.done()
        task.cancel()

    asyncio.run(step())


# ---------------------------------------------------------------------------------------------------- the plain way


def test_a_short_body_is_whole_and_a_stream_of_one_piece() -> None:
    for length in (5, STREAMED_FROM):
        _, request = begun(sized(length) + bytes(length))
        assert request.raw_body == rest_of(request) == bytes(length)
        assert asyncio.run(request.read()) == bytes(length)


def test_without_streams_a_long_body_is_whole() -> None:
    (request,) = Http().feed(sized(len(LONG)) + LONG)
    assert request.raw_body == LONG
    (request,) = Http().feed(CHUNKED)
    assert request.raw_body == b"hel\r\n\r\n\r\no world"


@pytest.mark.parametrize("step", [1, 7, 4096, 10**6])
@pytest.mark.parametrize(
    ("wire", "body"),
    [(sized(len(LONG)) + LONG, LONG), (CHUNKED, b"hel\r\n\r\n\r\no world")],
    ids=["length", "chunked"],
)
def test_a_long_body_is_handed_over_at_its_head(wire: bytes, body: bytes, step: int) -> None:
    http = Streams()
    requests: list[Request] = []
    head = wire.index(b"\r\n\r\n") + 4
    stream = wire + GET
    for at in range(0, len(stream), step):
        requests += http.feed(stream[at : at + step])
        taken = min(at + step, len(stream))
        assert (not requests) == (taken < head)
        if head <= taken < len(wire):
            assert (http.waits_for, http.wants_more) == ("body", taken - head < 256 * 1024)
            assert http.buffered == taken
            assert len(http._raw) < 100
    up, following = requests
    assert (up.uri, following.uri) == ("/up", "/next")
    assert (http.waits_for, http.buffered, http.owes, http.wants_more) == ("", 0, 2, None)
    assert rest_of(up) == body
    assert up.trailer("x-sum") == ("7" if wire == CHUNKED else None)
    assert http.encode("one").startswith(b"HTTP/1.1 200")
    assert http.encode("two").endswith(b"two")


def test_the_protocol_says_when_there_is_enough() -> None:
    http, request = begun(sized(10**6) + bytes(300_000))
    assert (http.wants_more, http.regulated) == (False, 1)

    async def take() -> None:
        assert len(await anext(aiter(request.stream()))) == 300_000

    asyncio.run(take())
    assert (http.wants_more, http.regulated) == (True, 2)


def test_the_whole_or_a_form_must_be_waited_for() -> None:
    _, request = begun(CHUNKED)
    for read in (lambda: request.raw_body, request.json, lambda: request.raw_body):
        with pytest.raises(RuntimeError, match="is a stream: await"):
            read()
    assert asyncio.run(request.read()) == request.raw_body == b"hel\r\n\r\n\r\no world"
    _, request = begun(CHUNKED.replace(b"Host", b"Content-Type: application/x-www-form-urlencoded\r\nHost"))
    with pytest.raises(RuntimeError, match="is a stream: await"):
        request.post()
    assert asyncio.run(request.read_form()) == {"hel\r\n\r\n\r\no world": ""}


def test_a_multipart_form_is_read_as_it_comes() -> None:
    body = b'--b\r\nContent-Disposition: form-data; name="a"\r\n\r\n1\r\n' + (
        b'--b\r\nContent-Disposition: form-data; name="f"; filename="x.bin"\r\n\r\n%b\r\n--b--\r\n' % LONG
    )
    http, request = begun(sized(len(body), b"Content-Type: multipart/form-data; boundary=b") + body[:1000])

    async def read() -> None:
        reading = asyncio.create_task(request.read_form())
        for at in range(1000, len(body), 10_000):
            await asyncio.sleep(0)
            http.feed(body[at : at + 10_000])
        assert await reading == {"a": "1"}

    asyncio.run(read())
    upload = request.file("f")
    assert upload is not None
    assert (upload.name, upload.read(), request.post("a")) == ("x.bin", LONG, "1")
    with pytest.raises(RuntimeError):
        _ = request.raw_body


# ---------------------------------------------------------------------------------------------------- bad ends


def feed_into(requests: list[Request], http: Http, pieces: list[bytes]) -> None:
    for piece in pieces:
        requests += http.feed(piece)


def failure_of(request: Request) -> Exception:
    try:
        rest_of(request)
    except Exception as error:
        return error
    raise AssertionError("it came to its end")


@pytest.mark.parametrize("step", [1, 5, 10**6])
@pytest.mark.parametrize(
    ("wire", "status", "reason"),
    [
        (HEAD + b"5\r\nhello\r\n" * 40, 413, CloseReason.PACKAGE_TOO_BIG),
        (HEAD + b"5\r\nhello\r\nnonsense\r\n", 400, CloseReason.PROTOCOL_ERROR),
        (HEAD + b"5\r\nhello\r\n0\r\nHost: b\r\n\r\n", 400, CloseReason.PROTOCOL_ERROR),
    ],
    ids=["too long", "badly chunked", "a trailer that may not be"],
)
def test_what_is_refused_is_raised_in_the_handler(wire: bytes, status: int, reason: CloseReason, step: int) -> None:
    http = Streams(max_package=200)
    requests: list[Request] = []
    with pytest.raises(ProtocolError) as raised:
        feed_into(requests, http, [wire[at : at + step] for at in range(0, len(wire), step)])
    requests += raised.value.messages
    assert (raised.value.farewell, raised.value.close_reason, http.cut_short) == (b"", reason, True)
    refusal = failure_of(requests[0])
    assert isinstance(refusal, Refusal)
    assert refusal.status == status
    answer = http.encode(http.answer_to(refusal))
    assert answer.startswith(b"HTTP/1.1 %d" % status)
    assert b"\r\nConnection: close\r\n" in answer


def test_a_length_over_the_limit_is_refused_at_the_head() -> None:
    with pytest.raises(ProtocolError) as raised:
        Streams(max_package=99_999).feed(sized(100_000))
    assert raised.value.farewell.startswith(b"HTTP/1.1 413")


def test_an_end_in_the_middle_is_a_lost_connection() -> None:
    ends = {
        "ended its sending": lambda http: http.feed_eof(),
        "has ended within the body of a request: idle timeout": lambda http: http.lose(CloseReason.IDLE),
        "another protocol": lambda http: http.detach(),
    }
    for words, end in ends.items():
        http, request = begun(sized(100_000) + b"half")
        end(http)
        error = failure_of(request)
        assert isinstance(error, ConnectionLost)
        assert isinstance(error, ConnectionError)
        assert words in str(error)
        assert http.wants_more is None
        http.lose(CloseReason.CLOSED)  # of what is over nothing is lost


def test_a_slow_body_gets_a_408_before_it_has_an_answer() -> None:
    http, _ = begun(sized(100_000))
    assert http.farewell(CloseReason.BODY_TIMEOUT).startswith(b"HTTP/1.1 408")
    assert http.farewell(CloseReason.HANDLER_ERROR).startswith(b"HTTP/1.1 500")
    http.encode(Response(200, {"Transfer-Encoding": "chunked"}))
    assert http.farewell(CloseReason.BODY_TIMEOUT) == b""


def test_undelivered_requests_become_bytes_again() -> None:
    wire = GET + sized(100_000) + b"half"
    http = Streams()
    requests = http.feed(wire)
    assert http.detach(requests[1:], wire) == wire[len(GET) :]
    for cut, rest in (
        (len(CHUNKED), b"10\r\nhel\r\n\r\n\r\no world\r\n0\r\nX-Sum: 7\r\n\r\n"),
        (len(HEAD) + 10, b""),
    ):
        http = Streams()
        requests = http.feed(GET + CHUNKED[:cut])
        assert http.detach(requests[1:], GET + CHUNKED[:cut]) == HEAD + (rest or b"5\r\nhel\r\n\r\n"[:10])


# ---------------------------------------------------------------------------------------------------- early answers


def test_a_short_rest_is_thrown_away_and_the_connection_goes_on() -> None:
    http, request = begun(sized(SPARE) + bytes(10))
    answer = http.encode("early")
    assert b"Connection: close" not in answer
    assert (http.regulated, http.gave_up, http.cut_short, http.waits_for) == (1, False, False, "body")
    assert http.wants_more
    assert "is answered" in str(failure_of(request))
    assert http.feed(bytes(SPARE - 11)) == []
    (following,) = http.feed(b"x" + GET)
    assert following.uri == "/next"
    assert http.encode("late").endswith(b"late")


def test_a_long_rest_ends_the_connection_after_the_answer_which_says_so() -> None:
    http, _ = begun(sized(SPARE + 11) + bytes(10))
    assert b"\r\nConnection: close\r\n" in http.encode("early")
    assert (http.gave_up, http.cut_short) == (True, True)
    with pytest.raises(EndOfInput) as raised:
        http.feed(b"more")
    assert not isinstance(raised.value, ProtocolError)


def test_an_answer_in_pieces_may_be_sent_while_the_body_is_read() -> None:
    http, request = begun(sized(SPARE + 11) + bytes(10))
    assert b"Connection: close" not in http.encode(Response(200, {"Transfer-Encoding": "chunked"}))
    http.feed(bytes(SPARE + 1))
    assert len(rest_of(request)) == SPARE + 11
    http.encode(Chunk())
    assert not http.gave_up
    http, _ = begun(sized(SPARE + 11) + bytes(10))
    http.encode(Response(200, {"Transfer-Encoding": "chunked"}))
    http.encode(Chunk())
    assert http.gave_up


def test_a_chunked_rest_is_thrown_away_up_to_a_bound() -> None:
    http, _ = begun(HEAD)
    http.encode("early")
    piece = b"10000\r\n%b\r\n" % bytes(0x10000)
    for _ in range(SPARE // 0x10000):
        assert http.feed(piece) == []
    with pytest.raises(EndOfInput) as raised:
        http.feed(piece)
    assert not isinstance(raised.value, ProtocolError)


def test_a_fault_in_what_is_thrown_away_has_no_answer() -> None:
    http, _ = begun(HEAD)
    http.encode("early")
    with pytest.raises(ProtocolError) as raised:
        http.feed(b"nonsense\r\n")
    assert raised.value.farewell == b""


def test_the_last_request_of_a_connection_ends_it_with_its_body() -> None:
    http, request = begun(sized(100_000, b"Connection: close") + bytes(10))
    with pytest.raises(EndOfInput):
        http.feed(bytes(99_990))
    assert len(rest_of(request)) == 100_000
    assert b"Connection: close" in http.encode("x")
    assert not http.gave_up


def test_winding_down_in_the_middle() -> None:
    left = 10
    for is_answered in (False, True):
        http, request = begun(sized(100_000) + bytes(100_000 - left))
        if is_answered:
            http.encode("early")
        http.wind_down()
        assert bool(request.demands & CLOSE) is not is_answered
        if is_answered:  # the next request is the last, and is told
            (following,) = _last(http, bytes(left) + GET)
            assert following.demands & CLOSE
        else:
            with pytest.raises(EndOfInput):
                http.feed(bytes(left))


def _last(http: Http, wire: bytes) -> list[Request]:
    with pytest.raises(EndOfInput) as raised:
        http.feed(wire)
    return list(raised.value.messages)


# ---------------------------------------------------------------------------------------------------- 100 Continue

EXPECT = sized(100_000, b"Expect: 100-continue")


def test_who_waits_for_a_100_gets_it_when_the_handler_reads() -> None:
    http, request = begun(EXPECT)
    assert (http.take_replies(), http.invited, http.wants_more) == (b"", [], False)
    read_one_step(request)
    assert (http.wants_more, http.regulated) == (True, 1)
    read_one_step(request)
    assert http.invited == [INTERIM]


def test_a_100_waits_for_the_answers_before_it() -> None:
    http = Streams()
    first, request = http.feed(GET + EXPECT)
    read_one_step(request)
    assert (http.invited, first.demands & CONTINUE) == ([], CONTINUE)
    assert http.encode("first").endswith(b"first" + INTERIM)


def test_no_100_comes_behind_an_answer_and_none_when_the_body_is_on_its_way() -> None:
    http, request = begun(EXPECT)
    assert b"Connection: close" in http.encode("early")
    assert http.gave_up
    http, request = begun(EXPECT)
    assert b"Connection: close" in http.encode(Response(200, {"Transfer-Encoding": "chunked"}))
    read_one_step(request)
    assert http.invited == []
    http, request = begun(EXPECT)
    http.feed(b"x")
    assert asyncio.run(_one(request)) == b"x"
    read_one_step(request)
    assert http.invited == []


async def _one(request: Request) -> bytes:
    return await anext(aiter(request.stream()))


def test_without_a_runtime_nothing_can_be_waited_for() -> None:
    http = Http(streams=True)
    (request,) = http.feed(sized(100_000))
    with pytest.raises(RuntimeError, match="in the runtime only"):
        asyncio.run(_one(request))
    http.regulate()
