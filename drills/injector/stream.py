"""One direction of one connection: from a socket, through the stages of its toxics, to a socket."""

from __future__ import annotations

import asyncio
import contextlib
import math
import time
from collections.abc import Callable

from drills.injector.toxics import Ending, Event, Stage, Toxic

_NEVER = math.inf


class Stream:
    """Carries events from a source to a sink, and slows the source to what the sink takes.

    Args:
        write: hands data to the sink.
        end: is told how the stream ended, once; nothing is written after it.
        throttle: is told whether reading from the source is to pause.
    """

    __slots__ = (
        "_end",
        "_full",
        "_loop",
        "_paused",
        "_stages",
        "_throttle",
        "_timer",
        "_write",
        "ended",
        "fed_up",
    )

    def __init__(
        self,
        write: Callable[[bytes], None],
        end: Callable[[Ending], None],
        throttle: Callable[[bool], None],
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._write = write
        self._end = end
        self._throttle = throttle
        self._stages: list[tuple[Toxic, Stage]] = []
        self._timer: asyncio.TimerHandle | None = None
        self._full = False
        self._paused = False
        self.fed_up = False
        """Whether the source has ended. What it said may still be on its way."""
        self.ended = False
        """Whether its ending has reached the sink."""

    def feed(self, data: bytes) -> None:
        """The source said something."""
        if not self._stages:
            if not self.ended:
                self._write(data)
            return
        self._stages[0][1].take(data, time.monotonic())
        self._run()

    def finish(self, ending: Ending = Ending.EOF) -> None:
        """The source will say no more; what it said goes first."""
        if self.fed_up or self.ended:
            return
        self.fed_up = True
        self._pass_on([ending], 0, time.monotonic())
        self._run()

    def abandon(self) -> None:
        """Drop the bytes on their way: their receiver is gone."""
        self.ended = True
        self._stages.clear()
        self._cancel()

    def attach(self, toxic: Toxic) -> None:
        """From now on all passes the toxic, behind those that are there already."""
        now = time.monotonic()
        stage = toxic.stage(now)
        if stage is not None and not self.ended:
            self._stages.append((toxic, stage))
            self._run()

    def detach(self, toxic: Toxic) -> None:
        """Remove the toxic, and pass on at once what it held back."""
        for index, (of, stage) in enumerate(self._stages):
            if of is toxic:
                del self._stages[index]
                self._pass_on(stage.drain(), index, time.monotonic())
                self._run()
                return

    def sink_full(self, full: bool) -> None:
        """Whether the sink has more to write than it likes."""
        self._full = full
        self._balance()

    def _pass_on(self, events: list[Event], index: int, now: float) -> None:
        """Hand events to the stage at `index`, or to the sink behind the last one."""
        for event in events:
            if index < len(self._stages):
                self._stages[index][1].take(event, now)
            elif self.ended:
                return
            elif isinstance(event, bytes):
                self._write(event)
            else:
                self.abandon()
                self._end(event)

    def _run(self) -> None:
        """Give what is due, and come back when something else is."""
        self._cancel()
        now = time.monotonic()
        # A copy: the end of the stream clears the list.
        for index, (_, stage) in enumerate(list(self._stages), 1):
            self._pass_on(stage.give(now), index, now)
        self._balance()
        due = min(
            (at for _, stage in self._stages if (at := stage.due) is not None), default=_NEVER
        )
        if due < _NEVER:
            # Also what is due already waits for its turn, so that slices are written one by one.
            self._timer = self._loop.call_later(max(0.0, due - now), self._run)

    def _balance(self) -> None:
        if self.fed_up or self.ended:
            return
        pause = self._full or any(stage.held > stage.capacity for _, stage in self._stages)
        if pause != self._paused:
            self._paused = pause
            # The source may be gone already; its end is about to be told.
            with contextlib.suppress(RuntimeError):
                self._throttle(pause)

    def _cancel(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
