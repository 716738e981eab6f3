"""Unfinished request heads have a limit of bytes: for one request, and for all together."""

from __future__ import annotations

import asyncio
import contextlib
import random
import re

import pytest
from prometheus_client import REGISTRY

from tests.support.serving import SERVICE_KEY, Served, serving
from tests.unit.test_admission import connect

HEAD = b"GET /mixes/1 HTTP/1.1\r\nHost: x\r\n"
FILLING = b"X-Filling: " + b"a" * 4000 + b"\r\n"
Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


async def end_of(connection: Streams) -> bytes:
    """Everything until the other side closes."""
    reader, writer = connection
    try:
        async with asyncio.timeout(20):
            return await reader.read(-1)
    finally:
        writer.close()


async def settled(gateway: Served) -> None:
    """Wait until the gateway has read what was sent: it answers another connection after that."""
    for _ in range(3):
        async with gateway.http.get("/mixes/1") as answer:
            assert answer.status == 200


def held(gateway: Served) -> int:
    admission = gateway.application.admission
    assert admission is not None
    return admission.held


@pytest.mark.parametrize("pieces", [1, 2, 50], ids=lambda n: f"{n} pieces")
@pytest.mark.parametrize("finished", [True, False], ids=["finished", "unfinished"])
async def test_headers_that_are_too_long_together_get_431(pieces: int, finished: bool) -> None:
    async with serving() as gateway:
        connection = await connect(gateway)
        text = HEAD + FILLING * 9 + (b"\r\n" if finished else b"")
        size = -(-len(text) // pieces)
        for at in range(0, len(text), size):
            connection[1].write(text[at : at + size])
            await asyncio.sleep(0)
        answer = await end_of(connection)
        assert answer.split()[1] == b"431"
        assert b"together are longer than 32768 bytes" in answer
        assert answer.count(b"HTTP/1.") == 1
        assert held(gateway) == 0


async def test_empty_lines_before_a_request_count_as_its_head() -> None:
    async with serving(limits={"header_seconds": 2}) as gateway:
        few = await connect(gateway)
        few[1].write(b"\r\n" * 100 + HEAD + b"Connection: close\r\n\r\n")
        assert (await end_of(few)).split()[1] == b"200"
        many = await connect(gateway)
        many[1].write(b"\r\n" * 20_000)
        assert (await end_of(many)).split()[1] == b"431"


async def test_requests_before_one_with_too_long_headers_are_answered() -> None:
    async with serving() as gateway:
        connection = await connect(gateway)
        connection[1].write(HEAD + b"\r\n" + HEAD + FILLING * 9 + b"\r\n" + HEAD + b"\r\n")
        answer = await end_of(connection)
        statuses = re.findall(rb"HTTP/1\.[01] ([0-9]+)", answer)
        assert statuses == [b"200", b"431"]


@pytest.mark.parametrize("seed", range(30))
async def test_requests_are_not_refused_as_too_long_however_their_bytes_are_split(
    seed: int,
) -> None:
    """They are pipelined; bodies look like heads; a piece may be far longer than a head may be."""
    cut = random.Random(seed)
    body = b'{"a": "' + b"b" * 3000 + b'"}' + b"\r\n\r\n" * 2
    put = (
        b"PUT /states/1/1 HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
        b"Authorization: Bearer %b\r\n" % SERVICE_KEY.encode()
    )
    kinds = [
        HEAD + b"\r\n",
        put + b"Content-Length: %d\r\n\r\n" % len(body) + body,
        put + b"Transfer-Encoding: chunked\r\n\r\n%x\r\n%b\r\n0\r\n\r\n" % (len(body), body),
        put + b"Content-Length: 2\r\n\r\n{}",
    ]
    chosen = [*(cut.choice(kinds) for _ in range(60)), kinds[0]]
    text = b"".join(chosen)
    async with serving(limits={"request_head_bytes": 1024}) as gateway:
        connection = await connect(gateway)

        async def send() -> None:
            at = 0
            while at < len(text):
                size = cut.choice([1, 2, 5, 100, 3000, 60_000])
                connection[1].write(text[at : at + size])
                at += size
                await asyncio.sleep(0)

        sending = asyncio.create_task(send())
        statuses = []
        async with asyncio.timeout(30):
            for _ in chosen:
                head = await connection[0].readuntil(b"\r\n\r\n")
                statuses.append(int(head.split()[1]))
                length = head.lower().partition(b"content-length: ")[2].partition(b"\r")[0]
                await connection[0].readexactly(int(length or b"0"))
            await sending
        assert set(statuses) <= {200, 201, 204, 428}, statuses
        assert held(gateway) == 0  # the last one is answered, and nothing is behind it
        connection[1].close()


async def test_past_the_limit_for_all_heads_together_the_connections_with_the_longest_get_503() -> (
    None
):
    def crowded() -> float:
        labels = {"reason": "unfinished"}
        name = "tapedeck_http_connections_cut_off_total"
        return REGISTRY.get_sample_value(name, labels) or 0

    before = crowded()
    async with serving(limits={"unfinished_bytes": 65_536}) as gateway:
        small = await connect(gateway)
        small[1].write(HEAD)
        await settled(gateway)
        large = [await connect(gateway) for _ in range(8)]
        for connection in large:
            connection[1].write(HEAD + FILLING * 4)
        await settled(gateway)
        assert held(gateway) <= 65_536
        ended = int(crowded() - before)
        assert ended
        # The connection with a short head is still served.
        small[1].write(b"\r\n")
        assert (await small[0].readline()).startswith(b"HTTP/1.1 200")
        small[1].close()
        answers = []
        for connection in large:
            if connection[0].at_eof() or connection[0]._buffer:  # type: ignore[attr-defined]
                answers.append(await end_of(connection))
            else:
                connection[1].close()
        assert len(answers) == ended
        for answer in answers:
            assert answer.startswith(b"HTTP/1.1 503 ")
            assert b"Retry-After: 1" in answer
        async with asyncio.timeout(10):
            while held(gateway):
                await asyncio.sleep(0.01)


async def test_many_tiny_headers_count_with_the_memory_that_they_take() -> None:
    async with serving() as gateway:
        connection = await connect(gateway)
        connection[1].write(HEAD + b"a:\r\n" * 100)
        await settled(gateway)
        assert held(gateway) > 100 * 200
        connection[1].close()


async def test_a_head_that_follows_a_request_with_a_body_counts() -> None:
    async with serving() as gateway:
        connection = await connect(gateway)
        post = b"POST /sets/new HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n"
        connection[1].write(post + HEAD + FILLING * 5)
        await settled(gateway)
        assert held(gateway) >= 5 * 4000
        connection[1].close()


@pytest.mark.parametrize("what", ["trailers", "extensions"])
async def test_trailers_and_chunk_extensions_that_are_too_long_are_refused(what: str) -> None:
    async with serving(limits={"headers": 1024}) as gateway:
        connection = await connect(gateway)
        reader, writer = connection
        writer.write(
            b"POST /sets/new HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n"
            b"Content-Type: application/x-www-form-urlencoded\r\n\r\n1\r\na\r\n"
        )
        writer.write(b"0\r\n" if what == "trailers" else b"1;")
        await writer.drain()
        piece = FILLING if what == "trailers" else b"a" * 4000
        with contextlib.suppress(ConnectionError):
            for _ in range(200):
                writer.write(piece)
                await writer.drain()
                await asyncio.sleep(0)
                if reader.at_eof() or reader._buffer:  # type: ignore[attr-defined]
                    break
        with contextlib.suppress(ConnectionError):
            line = await asyncio.wait_for(reader.readline(), 20)
            assert line.startswith(b"HTTP/1.1 400 ")
        await settled(gateway)
        assert held(gateway) == 0
        writer.close()
