"""A TCP proxy that loses MySQL's acknowledgement of a COMMIT, as a failing network would."""

from __future__ import annotations

import asyncio
import contextlib

from failover.mysql.connection import COMMIT
from tests.support.listener import Listener


class AckCutter(Listener):
    """Forwards connections to a server.

    Attributes:
        cut: how many of the server's next answers to a COMMIT or an UPDATE are discarded; the
            connection is closed with each.
        lost: how many answers were discarded.
    """

    def __init__(self, port: int) -> None:
        super().__init__()
        self._upstream = port
        self.cut = 0
        self.lost = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        up_reader, up_writer = await asyncio.open_connection("127.0.0.1", self._upstream)
        discarding = asyncio.Event()

        async def forward() -> None:
            while data := await reader.read(65536):
                if self.cut and (data.endswith(COMMIT.encode()) or data[5:11] == b"UPDATE"):
                    self.cut -= 1
                    discarding.set()
                up_writer.write(data)
            up_writer.close()

        sending = asyncio.create_task(forward())
        try:
            while data := await up_reader.read(65536):
                if discarding.is_set():
                    self.lost += 1
                    break
                writer.write(data)
        finally:
            sending.cancel()
            with contextlib.suppress(Exception):
                writer.transport.abort()
                up_writer.close()
