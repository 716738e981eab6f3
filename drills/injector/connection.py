"""One proxied connection: the client's socket, the upstream's, and the two streams between them."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Callable, Iterable
from typing import cast

from drills.injector.stream import Stream
from drills.injector.toxics import STREAMS, Ending, Toxic

_WRITE_BUFFER = 256 * 1024
_CONNECT_SECONDS = 10
_FAREWELL_SECONDS = 1
_LINGER_NOT = struct.pack("ii", 1, 0)


class Side(asyncio.Protocol):
    """One of the two sockets.

    Args:
        opened: called when the socket is connected.
        lost: called when it is gone, for whatever reason.
    """

    transport: asyncio.Transport
    reads: Stream
    """What it reads goes in here."""
    fills: Stream
    """What comes out of this is written to it."""

    def __init__(self, opened: Callable[[], None], lost: Callable[[Side], None]) -> None:
        self._opened = opened
        self._lost = lost
        self.open = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # No isinstance: uvloop's transports are not asyncio's by class.
        self.transport = cast("asyncio.Transport", transport)
        self.open = True
        self.transport.set_write_buffer_limits(high=_WRITE_BUFFER)
        self._opened()

    def data_received(self, data: bytes) -> None:
        self.reads.feed(data)

    def eof_received(self) -> bool:
        self.reads.finish()
        return True  # the other direction stays open

    def pause_writing(self) -> None:
        self.fills.sink_full(True)

    def resume_writing(self) -> None:
        self.fills.sink_full(False)

    def connection_lost(self, exc: Exception | None) -> None:
        self.open = False
        self._lost(self)

    def write(self, data: bytes) -> None:
        self.transport.write(data)

    def throttle(self, pause: bool) -> None:
        if pause:
            self.transport.pause_reading()
        else:
            self.transport.resume_reading()

    def end(self) -> None:
        """Send a FIN behind what was written."""
        if self.open and not self.transport.is_closing():
            self.transport.write_eof()

    def close(self) -> None:
        """Close behind what was written."""
        if self.open:
            self.transport.close()

    def abort(self, *, reset: bool = False) -> None:
        """Close now, whatever was not written yet; with a TCP RST if so wanted."""
        if not self.open:
            return
        if reset:
            sock: socket.socket = self.transport.get_extra_info("socket")
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_NOT)
        self.transport.abort()


class Connection:
    """From its accept until both sockets are gone.

    Args:
        upstream: host and port.
        toxics: asked for when the upstream has answered.
        gone: called at the end.
    """

    def __init__(
        self,
        upstream: tuple[str, int],
        toxics: Callable[[], Iterable[Toxic]],
        gone: Callable[[Connection], None],
    ) -> None:
        self._upstream_address = upstream
        self._toxics = toxics
        self._gone = gone
        self._dial: asyncio.Task[None] | None = None
        self._farewell: asyncio.TimerHandle | None = None
        self.client = Side(self._accepted, self._lost)
        self.upstream = Side(self._opened, self._lost)
        up = self._stream(self.client, self.upstream)
        down = self._stream(self.upstream, self.client)
        self._streams = dict(zip(STREAMS, (up, down), strict=True))
        # What the client says before the upstream has answered.
        self._early: list[bytes] = []
        self.client.reads = self._waiting = Stream(self._wait, self._wait_no_more, _ignore)

    def _stream(self, source: Side, sink: Side) -> Stream:
        def ended(ending: Ending) -> None:
            self._ended(ending, sink)

        stream = Stream(sink.write, ended, source.throttle)
        source.reads = sink.fills = stream
        return stream

    def attach(self, toxic: Toxic) -> None:
        """Expose it to a toxic, from now on."""
        # While the upstream has not answered, the toxic is found later, among all of them.
        if self.upstream.open:
            self._streams[toxic.stream].attach(toxic)

    def detach(self, toxic: Toxic) -> None:
        """Free it of a toxic."""
        self._streams[toxic.stream].detach(toxic)

    def cut(self) -> None:
        """Close both sockets now."""
        if self._dial is not None:
            self._dial.cancel()
        self._over()
        self.client.abort()
        self.upstream.abort()

    def _accepted(self) -> None:
        self._dial = asyncio.get_running_loop().create_task(self._connect())

    async def _connect(self) -> None:
        host, port = self._upstream_address
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(_CONNECT_SECONDS):
                await loop.create_connection(lambda: self.upstream, host, port)
        except OSError:  # TimeoutError is one
            self._dismiss()
        finally:
            self._dial = None
            self._if_gone()

    def _opened(self) -> None:
        if not self.client.open or self.client.transport.is_closing():
            self.upstream.abort()
            return
        for toxic in self._toxics():
            self._streams[toxic.stream].attach(toxic)
        up = self.client.reads = self._streams["upstream"]
        for data in self._early:
            up.feed(data)
        if self._waiting.fed_up:
            up.finish()
        # A toxic may have closed it by now.
        elif self._early and not self.client.transport.is_closing():
            self.client.throttle(False)
        self._early.clear()

    def _dismiss(self) -> None:
        """No upstream: the client reads EOF.

        Closing a socket that holds unread data sends an RST; so the client's last words are read.
        """
        self._streams["downstream"].abandon()
        self._streams["upstream"].abandon()
        if self.client.open:
            self.client.end()
            if self._waiting.fed_up:
                self.client.close()
                return
            self.client.reads = Stream(_ignore, lambda _: self.client.close(), _ignore)
            self.client.throttle(False)
            loop = asyncio.get_running_loop()
            self._farewell = loop.call_later(_FAREWELL_SECONDS, self.client.abort)

    def _wait(self, data: bytes) -> None:
        self._early.append(data)
        # Not in `_accepted`: uvloop begins to read after it, whatever was said there.
        self.client.throttle(True)

    def _wait_no_more(self, ending: Ending) -> None:
        """The stream remembers it."""

    def _ended(self, ending: Ending, sink: Side) -> None:
        """The end of one stream has reached its sink."""
        if ending is Ending.EOF:
            sink.end()
            if all(stream.ended for stream in self._streams.values()):
                self._close()
        elif ending is Ending.CLOSE:
            self._close()
        else:
            self._over()
            self.client.abort(reset=True)
            self.upstream.abort(reset=True)

    def _close(self) -> None:
        self._over()
        self.client.close()
        self.upstream.close()

    def _over(self) -> None:
        for stream in self._streams.values():
            stream.abandon()

    def _lost(self, side: Side) -> None:
        if not (self.client.open or self.upstream.open):
            self._if_gone()
            return
        # What it said before still reaches the other side; what it was to hear does not matter.
        side.fills.abandon()
        side.reads.finish()
        if side.reads.ended:
            self._close()

    def _if_gone(self) -> None:
        if self.client.open or self.upstream.open or self._dial is not None:
            return
        self._over()
        if self._farewell is not None:
            self._farewell.cancel()
        self._gone(self)


def _ignore(_: object) -> None:
    pass
