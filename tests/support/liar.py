"""A lookup node whose answers a test decides."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterator

from tests.support.listener import Listener

Script = Callable[[list[bytes]], "bytes | Iterator[bytes] | None"]
"""Gives the answer to a command, which is a list of words. The pieces of an iterator, which may be
endless, are sent one by one. None closes the connection."""

OK = b"+OK\r\n"


class Liar(Listener):
    """A server on 127.0.0.1 that accepts every sign-in; `script` gives its other answers.

    Attributes:
        script: may be replaced at any time.
    """

    def __init__(self, script: Script = lambda _: OK) -> None:
        super().__init__()
        self.script = script

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            while True:
                words = await read_command(reader)
                if words[0].upper() in (b"CLIENT", b"AUTH", b"SELECT", b"HELLO"):
                    writer.write(OK)
                    continue
                said = self.script(words)
                if said is None:
                    break
                if isinstance(said, bytes):
                    writer.write(said)
                else:
                    for piece in said:
                        writer.write(piece)
                        await writer.drain()
                        # The client may run in the same event loop.
                        await asyncio.sleep(0 if piece else 0.01)
        writer.close()


async def read_command(reader: asyncio.StreamReader) -> list[bytes]:
    """The words of the next command."""
    count = int((await reader.readexactly(4)).strip(b"*\r\n") or b"0")
    words = []
    for _ in range(count):
        length = int((await reader.readline())[1:])
        words.append((await reader.readexactly(length + 2))[:-2])
    return words
