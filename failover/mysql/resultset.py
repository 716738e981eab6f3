"""Reads MySQL's answers to a script directly from the connection's buffer.

aiomysql reads each packet (a short result set has ten) with two calls of its stream, and parses
every column definition: more than half of the time of a load. The format is that of the MySQL
internals manual, "COM_QUERY Response" and "Text Resultset", without CLIENT_DEPRECATE_EOF, which
aiomysql does not ask for.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import NamedTuple, TypeAlias

from pymysql.constants import CR, SERVER_STATUS
from pymysql.err import InternalError, OperationalError, raise_mysql_exception

Values: TypeAlias = tuple[bytes, ...]

_OK, _NULL, _EOF, _ERROR = 0x00, 0xFB, 0xFE, 0xFF
_LOCAL_INFILE = 0xFB
_LARGEST = 0xFFFFFF
_CHUNK = 1 << 18


class Ran(NamedTuple):
    """The result of a statement of a script: how many rows it affected, and the values that it
    read, as bytes in MySQL's text format."""

    affected: int
    rows: Sequence[Values]


class Answers:
    """Reads the answers to one command from a stream on which only they are due.

    Args:
        sequence: the number of the first packet: 1 after a command of one packet.
    """

    def __init__(self, stream: asyncio.StreamReader, sequence: int = 1) -> None:
        self._stream = stream
        self._buffer = b""
        self._at = 0
        self._sequence = sequence

    async def read(self) -> list[Ran]:
        """The result of each statement, until one fails.

        Raises:
            pymysql.err.MySQLError: of the statement that failed; CR_SERVER_LOST; or InternalError
                if the bytes break the protocol.
        """
        ran: list[Ran] = []
        status = SERVER_STATUS.SERVER_MORE_RESULTS_EXISTS
        while status & SERVER_STATUS.SERVER_MORE_RESULTS_EXISTS:
            packet = await self._packet()
            if packet[0] == _OK:
                affected, at = _length(packet, 1)
                _, at = _length(packet, at)  # the last insert id
                status = int.from_bytes(packet[at : at + 2], "little")
                ran.append(Ran(affected, ()))
            elif packet[0] == _LOCAL_INFILE:
                raise InternalError("the server asks for a file")
            else:
                columns, _ = _length(packet, 0)
                rows, status = await self._rows(columns)
                ran.append(Ran(len(rows), rows))
        if self._at != len(self._buffer):
            raise InternalError("more came than was asked for")
        return ran

    async def _rows(self, columns: int) -> tuple[list[Values], int]:
        for _ in range(columns):
            await self._packet()
        if not _is_eof(await self._packet()):
            raise InternalError("column definitions without an end")
        rows: list[Values] = []
        while not _is_eof(packet := await self._packet()):
            rows.append(_values(packet, columns))
        return rows, int.from_bytes(packet[3:5], "little")

    async def _packet(self) -> bytes:
        """The next packet's payload, which is never empty."""
        payload = await self._frame()
        if len(payload) == _LARGEST:
            parts = [payload]
            while len(parts[-1]) == _LARGEST:
                parts.append(await self._frame())
            payload = b"".join(parts)
        if not payload:
            raise InternalError("an empty packet")
        if payload[0] == _ERROR:
            raise_mysql_exception(payload)
        return payload

    async def _frame(self) -> bytes:
        start = self._at + 4
        if len(self._buffer) < start:
            await self._more(4)
            start = self._at + 4
        header = self._buffer[self._at : start]
        if header[3] != self._sequence:
            if header[3] == 0:  # MySQL 8 sends this when it shuts down
                raise OperationalError(CR.CR_SERVER_LOST, "the server ended the connection")
            raise InternalError(f"packet {header[3]} where {self._sequence} is due")
        self._sequence = (self._sequence + 1) & 0xFF
        end = start + int.from_bytes(header[:3], "little")
        if len(self._buffer) < end:
            await self._more(end - self._at)
            start, end = self._at + 4, self._at + end - start + 4
        self._at = end
        return self._buffer[start:end]

    async def _more(self, needed: int) -> None:
        """Read until the buffer has `needed` unread bytes."""
        parts = [self._buffer[self._at :]]
        there = len(parts[0])
        while there < needed:
            try:
                part = await self._stream.read(_CHUNK)
            except OSError as error:
                raise OperationalError(CR.CR_SERVER_LOST, f"lost the server ({error})") from error
            if not part:
                raise OperationalError(CR.CR_SERVER_LOST, "the server closed the connection")
            parts.append(part)
            there += len(part)
        self._buffer, self._at = b"".join(parts), 0


def _is_eof(packet: bytes) -> bool:
    return packet[0] == _EOF and len(packet) < 9


def _length(packet: bytes, at: int) -> tuple[int, int]:
    """A length-encoded integer, and where the next field begins."""
    first = packet[at]
    if first < _NULL:
        return first, at + 1
    if first in (_NULL, _ERROR):
        raise InternalError(f"{first:#x} where a length is due")
    end = at + {0xFC: 3, 0xFD: 4, 0xFE: 9}[first]
    return int.from_bytes(packet[at + 1 : end], "little"), end


def _values(packet: bytes, columns: int) -> Values:
    """A row's values. (No statement of ours reads a NULL.)"""
    values = []
    at = 0
    for _ in range(columns):
        length = packet[at]
        if length < _NULL:
            at += 1
        else:
            length, at = _length(packet, at)
        end = at + length
        values.append(packet[at:end])
        at = end
    if at != len(packet):
        raise InternalError("a row that is longer or shorter than its values")
    return tuple(values)
