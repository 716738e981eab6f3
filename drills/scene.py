"""What a scenario is written in: promises, a stage under load, and marks on the time line."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, ParamSpec, TypeVar

from drills.client import Client
from drills.measure import Met
from drills.noise import Beat
from drills.stage import Plan, Stage
from drills.story import Story

P = ParamSpec("P")
R = TypeVar("R")
T = TypeVar("T")


@dataclass(frozen=True)
class Promise:
    """What clients may meet. That no acknowledged change is lost is promised always.

    Attributes:
        errors: the kinds that are allowed.
        latency: "hint": at most the hint's deadline is added until ejection, then the p99 stays
            under twice that before; "outage": nothing takes longer than the outage lasts, plus 1 s;
            "reported": nothing is promised.
        recovery: seconds after the end of the outage within which all is as before; None: reported.
    """

    errors: frozenset[Met] = frozenset()
    latency: Literal["hint", "outage", "reported"] = "reported"
    recovery: float | None = None

    @property
    def sentences(self) -> list[str]:
        """For people."""
        allowed = " and ".join(sorted(met.value for met in self.errors))
        found = [
            f"errors seen by clients: {f'only {allowed}' if allowed else 'none'}",
            "acknowledged changes lost or undone: none",
        ]
        if self.latency == "hint":
            found.append(
                "added latency: at most the hint's deadline until ejection, "
                "then under 2x the p99 before"
            )
        elif self.latency == "outage":
            found.append("added latency: no longer than the outage, plus 1 s")
        if self.recovery is not None:
            found.append(f"recovery within {self.recovery:g} s of its return")
        return found


class Finding(NamedTuple):
    """A promise, whether it held, and what was measured.

    Attributes:
        timing: it is about time, so that a machine with too much else to do can break it.
    """

    promise: str
    held: bool
    measured: str
    timing: bool = False


@dataclass
class Scene:
    """A drill under way.

    Attributes:
        long: at length, not short.
        story: is told the drill's own steps.
        beats: what the machine's disk took meanwhile.
        calm: from when on the drill is compared with.
        injections: when a fault began, each time.
        healed: when the fault ended.
        over: when the outage was over, where the system itself ends it; else `healed`.
    """

    stage: Stage
    client: Client
    long: bool
    story: Story
    beats: Sequence[Beat] = ()
    expectations: list[Finding] = field(default_factory=list)
    calm: float | None = None
    injections: list[float] = field(default_factory=list)
    healed: float | None = None
    over: float | None = None
    _calls: set[asyncio.Future[Any]] = field(default_factory=set)

    def pick(self, short: float, long: float) -> float:
        """Seconds, by the length of the drill."""
        return long if self.long else short

    async def wait(self, short: float, long: float) -> None:
        """Let the load run for a while."""
        await asyncio.sleep(self.pick(short, long))

    async def do(self, call: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        """Make a blocking call in a thread, beside the load."""
        under_way = asyncio.ensure_future(asyncio.to_thread(call, *args, **kwargs))
        self._calls.add(under_way)
        under_way.add_done_callback(self._calls.discard)
        # A step that is given up still runs in its thread until it returns.
        return await asyncio.shield(under_way)

    async def calls_ended(self) -> None:
        """Wait for what `do` called and no step waits for any more."""
        await asyncio.gather(*self._calls, return_exceptions=True)

    async def inject(self, text: str, call: Callable[[], object]) -> None:
        """The fault begins."""
        self.injections.append(self.client.now())
        self.mark(text)
        await self.do(call)

    async def heal(self, text: str, call: Callable[[], object]) -> None:
        """The fault ends (once `call` returns)."""
        self.mark(text)
        await self.do(call)
        self.healed = self.client.now()

    def outage_over(self, text: str) -> None:
        """The system has ended the outage itself."""
        self.over = self.client.now()
        self.mark(text)

    def mark(self, text: str) -> None:
        """Put a text on the time line."""
        self.story.say(text)

    def expect(self, promise: str, held: bool, measured: str) -> None:
        """Check a promise of this drill's own."""
        self.expectations.append(Finding(promise, held, measured))

    async def until(self, wanted: Callable[[], bool], seconds: float) -> bool:
        """Wait for a condition that is asked in a thread; whether it came in time."""
        end = time.monotonic() + seconds
        while not await self.do(wanted):
            if time.monotonic() > end:
                return False
            await asyncio.sleep(0.02)
        return True


@dataclass(frozen=True)
class Scenario:
    """A drill.

    Attributes:
        name: on the command line.
        about: one line.
        steps: injects and heals; the load runs around it.
        prepare: what comes before, under load already, and is not measured.
        rate: steps a second.
        words: what else its command has to say.
    """

    name: str
    about: str
    promise: Promise
    steps: Callable[[Scene], Awaitable[None]]
    plan: Plan = field(default_factory=Plan)
    prepare: Callable[[Scene], Awaitable[None]] | None = None
    rate: float = 110
    words: Sequence[str] = ()


def by_gateway(values: Iterable[object]) -> str:
    """A value for each gateway, in words."""
    return ", ".join(f"{value} at gateway {number}" for number, value in enumerate(values, 1))


def each(things: Iterable[T], act: Callable[[T], object]) -> Callable[[], None]:
    """A call that does the same with each of them."""
    listed = list(things)

    def call() -> None:
        for thing in listed:
            act(thing)

    return call


def by_name(scenarios: Sequence[Scenario]) -> Mapping[str, Scenario]:
    """The table of drills."""
    return {scenario.name: scenario for scenario in scenarios}
