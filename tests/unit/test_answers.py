"""MySQL's answers to scripts are read, however their bytes are split."""

from __future__ import annotations

import asyncio
import itertools
import struct
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pymysql.err import InternalError, MySQLError, OperationalError

from failover.mysql.errors import Fault, classify
from failover.mysql.resultset import Answers, Ran

MORE = 0x0008


def length(number: int) -> bytes:
    if number < 251:
        return bytes([number])
    if number < 1 << 16:
        return b"\xfc" + struct.pack("<H", number)
    if number < 1 << 24:
        return b"\xfd" + struct.pack("<I", number)[:3]
    return b"\xfe" + struct.pack("<Q", number)


class Server:
    """Writes answers as MySQL's manual describes them."""

    def __init__(self) -> None:
        self.said = bytearray()
        self._sequence = 1

    def packet(self, payload: bytes, sequence: int | None = None) -> None:
        while True:
            part, payload = payload[:0xFFFFFF], payload[0xFFFFFF:]
            number = self._sequence if sequence is None else sequence
            self.said += struct.pack("<I", len(part))[:3] + bytes([number]) + part
            self._sequence = (self._sequence + 1) % 256
            if len(part) < 0xFFFFFF:
                return

    def ok(self, affected: int, more: bool) -> None:
        self.packet(b"\0" + length(affected) + length(0) + struct.pack("<HH", MORE * more, 0))

    def error(self, code: int, reason: str) -> None:
        self.packet(b"\xff" + struct.pack("<H", code) + b"#HY000" + reason.encode())

    def result(self, rows: Sequence[Sequence[bytes]], columns: int, more: bool) -> None:
        self.packet(length(columns))
        for _ in range(columns):
            self.packet(b"\x03def" + b"\0" * 20)
        self.packet(b"\xfe\0\0" + struct.pack("<H", MORE * more))
        for row in rows:
            self.packet(b"".join(length(len(value)) + value for value in row))
        self.packet(b"\xfe\0\0" + struct.pack("<H", MORE * more))


async def read(said: bytes, cuts: Sequence[int] = (), *, end: bool = True) -> list[Ran]:
    """Read a script's answers from bytes that arrive in pieces."""
    stream = asyncio.StreamReader(limit=1 << 30)
    bounds = [0, *sorted(cut % (len(said) + 1) for cut in cuts), len(said)]

    async def say() -> None:
        for start, stop in itertools.pairwise(bounds):
            stream.feed_data(said[start:stop])
            await asyncio.sleep(0)
        if end:
            stream.feed_eof()

    saying = asyncio.create_task(say())
    try:
        return await Answers(stream).read()
    finally:
        saying.cancel()


values = st.binary(max_size=40) | st.sampled_from([b"x" * 251, b"y" * 70_000])
results = st.integers(1, 7).flatmap(
    lambda columns: st.tuples(
        st.just(columns), st.lists(st.lists(values, min_size=columns, max_size=columns), max_size=4)
    )
)
oks = st.sampled_from([0, 1, 2, 128, 250, 251, 65_536, 1 << 30])


@given(
    statements=st.lists(oks | results, min_size=1, max_size=5), cuts=st.lists(st.integers(0, 10**6))
)
async def test_each_statement_s_answer_is_read_however_the_bytes_are_split(
    statements: list[int | tuple[int, list[list[bytes]]]], cuts: list[int]
) -> None:
    server = Server()
    expected = []
    for number, statement in enumerate(statements, 1):
        more = number < len(statements)
        if isinstance(statement, int):
            server.ok(statement, more)
            expected.append(Ran(statement, ()))
        else:
            columns, rows = statement
            server.result(rows, columns, more)
            expected.append(Ran(len(rows), [tuple(row) for row in rows]))
    assert await read(bytes(server.said), cuts) == expected


async def test_a_value_longer_than_a_packet_is_read_whole() -> None:
    server = Server()
    server.result([[b"z" * (0xFFFFFF + 5)], [b""]], 1, more=False)
    (ran,) = await read(bytes(server.said))
    assert [len(value) for (value,) in ran.rows] == [0xFFFFFF + 5, 0]


async def test_the_first_statement_that_fails_ends_the_script() -> None:
    server = Server()
    server.ok(1, more=True)
    server.error(1062, "Duplicate entry")
    with pytest.raises(MySQLError, match="Duplicate") as caught:
        await read(bytes(server.said))
    known = classify(caught.value)
    assert known is not None
    assert (known.fault, known.code) == (Fault.DUPLICATE, 1062)


@pytest.mark.parametrize("cut", [0, 3, 4, 10, 60])
async def test_an_answer_that_breaks_off_is_a_lost_connection(cut: int) -> None:
    server = Server()
    server.result([[b"1", b"2"]], 2, more=False)
    with pytest.raises(OperationalError) as caught:
        await read(bytes(server.said[:cut]))
    known = classify(caught.value)
    assert known is not None
    assert known.fault is Fault.LOST


def _said(*payloads: bytes, sequence: int | None = None) -> bytes:
    server = Server()
    for payload in payloads:
        server.packet(payload, sequence)
    return bytes(server.said)


@pytest.mark.parametrize(
    "said",
    [
        pytest.param(_said(b"\0\1\0\0\0\0\0", sequence=7), id="another packet's number"),
        pytest.param(_said(b""), id="an empty packet"),
        pytest.param(_said(b"\xfb/etc/passwd"), id="a request for a file"),
        pytest.param(_said(b"\1", b"def", b"def"), id="columns without an end"),
        pytest.param(_said(b"\1", b"def", b"\xfe\0\0\0\0", b"\xfb"), id="a NULL"),
        pytest.param(_said(b"\1", b"def", b"\xfe\0\0\0\0", b"\1ab"), id="a row too long"),
        pytest.param(_said(b"\1", b"def", b"\xfe\0\0\0\0", b"\7ab"), id="a row too short"),
        pytest.param(_said(b"\0\1\0\0\0\0\0", b"\0\1\0\0\0\0\0"), id="one answer too many"),
    ],
)
async def test_bytes_that_are_no_answer_count_as_a_lost_connection(said: bytes) -> None:
    with pytest.raises(InternalError) as caught:
        await read(said, end=False)
    known = classify(caught.value)
    assert known is not None
    assert known.fault is Fault.LOST
