"""What each toxic does to one stream of one connection, apart from sockets and clocks.

A `Toxic` is the setting; a `Stage` is its work on one stream. A stage takes events (bytes, or how
the stream ends), and gives them later, changed, or never. Time is an argument: seconds on any
clock that does not go back.
"""

from __future__ import annotations

import enum
import math
import random
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

STREAMS = ("upstream", "downstream")
_CHANCE = random.Random()  # noqa: S311 - not a secret


class Ending(enum.Enum):
    """How a stream ends."""

    EOF = "the source has closed its side; the other stream stays open"
    CLOSE = "both sockets are closed"
    RESET = "both sockets are closed by a TCP RST"


Event = bytes | Ending


class InvalidToxic(ValueError):
    """A toxic that cannot be; the text is the API's error."""


class Stage:
    """One toxic at work on one stream: first in, first out, each event at its time.

    Attributes:
        held: bytes that were taken and not given.
        capacity: bytes; while more than that are held, nothing more should be read.
    """

    capacity = 64 * 1024

    def __init__(self) -> None:
        self._queue: deque[tuple[float, Event]] = deque()
        self._last = -math.inf
        self.held = 0

    @property
    def due(self) -> float | None:
        """When the next event is to be given; None: not before another is taken."""
        return self._queue[0][0] if self._queue else None

    def take(self, event: Event, now: float) -> None:
        """An event arrives."""
        raise NotImplementedError

    def give(self, now: float) -> list[Event]:
        """What is due by now, in order."""
        events = []
        while self._queue and self._queue[0][0] <= now:
            events.append(self._next())
        return events

    def drain(self) -> list[Event]:
        """What is left to pass on when the toxic is removed."""
        return [self._next() for _ in range(len(self._queue))]

    def _put(self, event: Event, due: float) -> None:
        self._last = max(self._last, due)
        self._queue.append((self._last, event))
        self.held += len(event) if isinstance(event, bytes) else 0

    def _next(self) -> Event:
        event = self._queue.popleft()[1]
        self.held -= len(event) if isinstance(event, bytes) else 0
        return event


class Latency(Stage):
    """Data `latency` +/- `jitter` ms late, in order. The end is not delayed itself."""

    # A delay must not become a throttle: data for a slow line has to fit in.
    capacity = 4 * 1024 * 1024

    def __init__(self, attributes: Mapping[str, int], now: float, chance: random.Random) -> None:
        super().__init__()
        self._latency = attributes["latency"]
        self._jitter = max(0, attributes["jitter"])
        self._chance = chance

    def take(self, event: Event, now: float) -> None:
        delay = 0.0
        if isinstance(event, bytes):
            delay = self._latency + self._chance.uniform(-self._jitter, self._jitter)
        self._put(event, now + max(0.0, delay) / 1000)


class Timeout(Stage):
    """No data passes; after `timeout` ms the connection is closed (0: never).

    Removing it closes the connection too: data was dropped, so nothing after it makes sense.
    """

    def __init__(self, attributes: Mapping[str, int], now: float, chance: random.Random) -> None:
        super().__init__()
        if attributes["timeout"] > 0:
            self._put(Ending.CLOSE, now + attributes["timeout"] / 1000)

    def take(self, event: Event, now: float) -> None:
        if isinstance(event, Ending):
            self._queue.appendleft((now, event))

    def drain(self) -> list[Event]:
        return [Ending.CLOSE]


class Bandwidth(Stage):
    """At most `rate` KB (1000 bytes) a second; 0: nothing passes."""

    def __init__(self, attributes: Mapping[str, int], now: float, chance: random.Random) -> None:
        super().__init__()
        self._rate = max(0, attributes["rate"]) * 1000

    def take(self, event: Event, now: float) -> None:
        if isinstance(event, Ending):
            self._put(event, now)
        elif self._rate == 0:
            self._put(event, math.inf)
        else:
            # In pieces of a tenth of a second, so that a slow line trickles.
            size = self._rate // 10
            for start in range(0, len(event), size):
                piece = event[start : start + size]
                self._put(piece, max(self._last, now) + len(piece) / self._rate)


class SlowClose(Stage):
    """The end comes `delay` ms late."""

    def __init__(self, attributes: Mapping[str, int], now: float, chance: random.Random) -> None:
        super().__init__()
        self._delay = max(0, attributes["delay"]) / 1000

    def take(self, event: Event, now: float) -> None:
        self._put(event, now + (self._delay if isinstance(event, Ending) else 0))


class Slicer(Stage):
    """Data in pieces of `average_size` +/- `size_variation` bytes, `delay` microseconds apart."""

    def __init__(self, attributes: Mapping[str, int], now: float, chance: random.Random) -> None:
        super().__init__()
        self._average = max(1, attributes["average_size"])
        self._variation = min(max(0, attributes["size_variation"]), self._average - 1)
        self._delay = max(0, attributes["delay"]) / 1e6
        self._free = now
        self._chance = chance

    def take(self, event: Event, now: float) -> None:
        for piece in self._pieces(event) if isinstance(event, bytes) else (event,):
            self._put(piece, max(self._free, now))
            self._free = max(self._free, now) + self._delay

    def give(self, now: float) -> list[Event]:
        # One at a time: what is written together travels together.
        due = self.due
        return [self._next()] if due is not None and due <= now else []

    def _pieces(self, data: bytes) -> Iterator[bytes]:
        start = 0
        while start < len(data):
            size = self._average + self._chance.randint(-self._variation, self._variation)
            yield data[start : start + size]
            start += size


class LimitData(Stage):
    """The connection is closed once `bytes` bytes have passed, counted from when it was added."""

    def __init__(self, attributes: Mapping[str, int], now: float, chance: random.Random) -> None:
        super().__init__()
        self._left = max(0, attributes["bytes"])
        self._over = False

    def take(self, event: Event, now: float) -> None:
        if self._over:
            return
        if isinstance(event, Ending):
            self._put(event, now)
            return
        if self._left > 0:
            self._put(event[: self._left], now)
        self._left -= len(event)
        if self._left <= 0:
            self._over = True
            self._put(Ending.CLOSE, now)


class ResetPeer(Stage):
    """After `timeout` ms both sockets get a TCP RST; until then data is held back."""

    def __init__(self, attributes: Mapping[str, int], now: float, chance: random.Random) -> None:
        super().__init__()
        self._at = now + max(0, attributes["timeout"]) / 1000

    @property
    def due(self) -> float:
        return self._at

    def take(self, event: Event, now: float) -> None:
        self._put(event, self._at)

    def give(self, now: float) -> list[Event]:
        return [Ending.RESET] if now >= self._at else []


_Make = Callable[[Mapping[str, int], float, random.Random], Stage]
_TYPES: dict[str, tuple[_Make, tuple[str, ...]]] = {
    "latency": (Latency, ("latency", "jitter")),
    "timeout": (Timeout, ("timeout",)),
    "bandwidth": (Bandwidth, ("rate",)),
    "slow_close": (SlowClose, ("delay",)),
    "slicer": (Slicer, ("average_size", "size_variation", "delay")),
    "limit_data": (LimitData, ("bytes",)),
    "reset_peer": (ResetPeer, ("timeout",)),
}


@dataclass(frozen=True)
class Toxic:
    """A toxic as the API sets it.

    Attributes:
        stream: `upstream` (what the client says) or `downstream` (what it hears).
        toxicity: the share of connections that it meets, 0 to 1.
        attributes: all that its type has; 0 where none was given.
    """

    name: str
    type: str
    stream: str
    toxicity: float
    attributes: dict[str, int]

    @classmethod
    def parse(cls, document: Mapping[str, Any]) -> Toxic:
        """Of the body of a request. Unknown fields and attributes are ignored.

        Raises:
            InvalidToxic: no such type or stream, or a value of another kind.
        """
        kind = _field(document, "type", str, "")
        stream = _field(document, "stream", str, "downstream")
        toxicity = _field(document, "toxicity", (int, float), 1.0)
        given = _field(document, "attributes", dict, {})
        name = _field(document, "name", str, "") or f"{kind}_{stream}"
        if stream not in STREAMS:
            raise InvalidToxic("stream was invalid, can be either upstream or downstream")
        if kind not in _TYPES:
            raise InvalidToxic("invalid toxic type")
        attributes = {field: _field(given, field, int, 0) for field in _TYPES[kind][1]}
        for field, value in attributes.items():
            if abs(value) >= 2**63:
                raise InvalidToxic(f"bad request body: {field} is out of range")
        return cls(name, kind, stream, toxicity, attributes)

    def as_json(self) -> dict[str, Any]:
        """TOXIC in the words of the API."""
        return {
            "attributes": self.attributes,
            "name": self.name,
            "type": self.type,
            "stream": self.stream,
            "toxicity": self.toxicity,
        }

    def stage(self, now: float, chance: random.Random = _CHANCE) -> Stage | None:
        """Its work on one stream from now on; None where chance spares the connection."""
        if chance.random() >= self.toxicity:
            return None
        return _TYPES[self.type][0](self.attributes, now, chance)


def _field(
    document: Mapping[str, Any], name: str, kind: type | tuple[type, ...], default: Any
) -> Any:
    value = document.get(name)
    if value is None:
        return default
    # JSON's true is no number, although Python's is.
    if not isinstance(value, kind) or isinstance(value, bool):
        raise InvalidToxic(f"bad request body: {name} cannot be {value!r}")
    return value
