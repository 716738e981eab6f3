"""How much of a connection's input belongs to requests that it has not finished. No I/O.

aiohttp bounds a header and their number, not their sum, and says nothing of what its parser holds.
It is derived here from what every connection sees: the bytes that come, and what they complete.
"""

from __future__ import annotations

from aiohttp.http import RawRequestMessage
from aiohttp.http_exceptions import HttpProcessingError
from aiohttp.streams import EMPTY_PAYLOAD, StreamReader

END = b"\r\n\r\n"
"""What ends a head; an unfinished one never holds it."""
LINE_BYTES = 256
"""What the parser takes for a header line beside its bytes."""


class HeadTooLarge(HttpProcessingError):
    """A request's line and headers, or a body's trailers, are together more than they may be."""

    code = 431

    def __init__(self, most: int) -> None:
        super().__init__(
            message=f"The request line and headers together are longer than {most} bytes."
        )


def size_of(message: RawRequestMessage) -> int:
    """Bytes of a request's line and headers."""
    return len(message.path) + sum(
        len(name) + len(value) + 4 for name, value in message.raw_headers
    )


class Unfinished:
    """What one connection has begun and not finished.

    Attributes:
        bytes: of the unfinished head (or trailers, or chunk extensions) that are known to belong
            to it.
        memory: what is held, in bytes: an upper bound, for several requests may come in one piece.
    """

    __slots__ = ("_body", "_body_bytes", "_ended", "bytes", "memory")

    def __init__(self) -> None:
        self.bytes = self.memory = self._body_bytes = 0
        self._body: StreamReader = EMPTY_PAYLOAD
        self._ended = False

    @property
    def in_body(self) -> bool:
        """Whether the newest request's body is still to come."""
        return not self._body.is_eof()

    @property
    def body(self) -> StreamReader:
        """The newest request's body."""
        return self._body

    def begin_body(self, body: StreamReader) -> None:
        """Another request's head is complete."""
        self._body = body
        self._body_bytes = 0

    def came(self, data: bytes, *, begun: bool, exact: bool, waits: bool) -> None:
        """Take a piece of input into account, after the parser had it.

        Args:
            data: the piece; empty where the parser went on with what it had.
            begun: a head or a body was completed by it.
            exact: the piece ends where a request ends, if no body is to come.
            waits: the parser took no more than it had to; the rest waits as it came.
        """
        if not data:
            if not waits and self._ended and not self.in_body:
                self.bytes = self.memory = 0
            return
        self._ended = exact
        if waits:
            self.bytes, self.memory = 0, self.memory + len(data)
        elif self.in_body:
            # Bodies have limits of their own; trailers and the extensions of chunks have not.
            if self._body.total_bytes != self._body_bytes:
                self._body_bytes = self._body.total_bytes
                self.bytes = self.memory = 0
            else:
                self._add(data)
        elif exact:
            self.bytes = self.memory = 0
        elif begun:
            found = data.rfind(END)
            rest = data[found + len(END) :] if found >= 0 else data
            self.bytes = self.memory = 0
            self._add(rest)
            if found < 0 or self._body is not EMPTY_PAYLOAD:
                self.bytes = 0  # part of it may be the body
        else:
            self._add(data)

    def _add(self, data: bytes) -> None:
        self.bytes += len(data)
        self.memory += len(data) + LINE_BYTES * data.count(b"\n")
