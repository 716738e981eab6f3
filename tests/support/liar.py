"""A lookup node that says whatever a test wants it to say, instead of what it was asked."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterator
from types import TracebackType

Script = Callable[[list[bytes]], "bytes | Iterator[bytes] | None"]
"""What to answer to a command (its words); an iterator is sent piece by piece, without an end to
wait for; None closes the connection."""

OK = b"+OK\r\n"


class Liar:
    """A server on 127.0.0.1. Connecting to it works; everything else is as `script` says.

    Attributes:
        script: may be replaced at any time.
    """

    def __init__(self, script: Script = lambda _: OK) -> None:
        self.script = script
        self.port = 0
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Liar:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        assert self._server is not None
        self._server.close()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            while True:
                words = await _command(reader)
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
                        # Who it lies to may be in the same loop.
                        await asyncio.sleep(0 if piece else 0.01)
        writer.close()


async def _command(reader: asyncio.StreamReader) -> list[bytes]:
    count = int((await reader.readexactly(4)).strip(b"*\r\n") or b"0")
    words = []
    for _ in range(count):
        length = int((await reader.readline())[1:])
        words.append((await reader.readexactly(length + 2))[:-2])
    return words
