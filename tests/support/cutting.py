"""A TCP proxy that loses MySQL's acknowledgement of a COMMIT, as a failing network would."""

from __future__ import annotations

import asyncio
import contextlib
from types import TracebackType


class AckCutter:
    """Forwards to a server; the next `cut` answers to a COMMIT, or to an UPDATE, are thrown away
    with their connection, once the server has given them."""

    def __init__(self, port: int) -> None:
        self._upstream = port
        self.cut = 0
        self.lost = 0
        self.port = 0
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> AckCutter:
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
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        up_reader, up_writer = await asyncio.open_connection("127.0.0.1", self._upstream)
        doomed = asyncio.Event()

        async def forward() -> None:
            while data := await reader.read(65536):
                if self.cut and (data.endswith(b"COMMIT") or data[5:11] == b"UPDATE"):
                    self.cut -= 1
                    doomed.set()
                up_writer.write(data)
            up_writer.close()

        sending = asyncio.create_task(forward())
        try:
            while data := await up_reader.read(65536):
                if doomed.is_set():
                    self.lost += 1
                    break
                writer.write(data)
        finally:
            sending.cancel()
            with contextlib.suppress(Exception):
                writer.transport.abort()
                up_writer.close()
