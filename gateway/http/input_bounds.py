"""How many bytes of a connection's input belong to unfinished requests. No I/O.

aiohttp limits a header's length and the number of headers, but not their sum, and does not tell how
much its parser has buffered. Here that is computed from the bytes that arrive, and from what they
complete.
"""

from __future__ import annotations

from aiohttp.http import RawRequestMessage
from aiohttp.http_exceptions import HttpProcessingError
from aiohttp.streams import EMPTY_PAYLOAD, StreamReader

END = b"\r\n\r\n"
"""The end of a head; an unfinished head never contains it."""
LINE_BYTES = 256
"""Memory that the parser needs for a header line, besides its bytes."""


class HeadTooLarge(HttpProcessingError):
    """A request's line and headers, or a body's trailers, are too long together."""

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
    """The unfinished requests of one connection.

    Attributes:
        bytes: of the unfinished head (or trailers, or chunk extensions), as far as known.
        memory: an upper bound, since several requests may arrive in one piece.
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
        return self._body

    def begin_body(self, body: StreamReader) -> None:
        """Another request's head is complete."""
        self._body = body
        self._body_bytes = 0

    def count(self, data: bytes, *, begun: bool, exact: bool, waits: bool) -> None:
        """Count a piece of input that the parser has got.

        Args:
            data: the piece; empty if the parser continued with earlier input.
            begun: whether it completed a head or a body.
            exact: whether the piece ends at the end of a request, if no body follows.
            waits: whether the parser stopped early, and the rest of the piece waits.
        """
        if not data:
            if not waits and self._ended and not self.in_body:
                self.bytes = self.memory = 0
            return
        self._ended = exact
        if waits:
            self.bytes, self.memory = 0, self.memory + len(data)
        elif self.in_body:
            # Bodies have their own limits; trailers and chunk extensions do not.
            if self._body.total_bytes != self._body_bytes:
                self._body_bytes = self._body.total_bytes
                self.bytes = self.memory = 0
            else:
                self._add(data)
        elif exact and begun:
            self.bytes = self.memory = 0
        elif begun:
            found = data.rfind(END)
            rest = data[found + len(END) :] if found >= 0 else data
            self.bytes = self.memory = 0
            self._add(rest)
            if found < 0 or self._body is not EMPTY_PAYLOAD:
                self.bytes = 0  # part of the piece may be the body
        else:
            self._add(data)

    def _add(self, data: bytes) -> None:
        self.bytes += len(data)
        self.memory += len(data) + LINE_BYTES * data.count(b"\n")
