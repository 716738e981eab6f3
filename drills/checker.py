"""Checks every acknowledged answer at the end of a drill. No I/O.

Two kinds of states are written by the load, because they show different faults:

- A *counter* (states API) is a list of change ids; each accepted change adds its own and raises the
  version by one. Position, version and order of each acknowledged change are therefore known.
- A *listener* (Player API) walks through a mix. Its rules are known (`gateway/player/rules.py`), so
  an automaton says which answers are possible after all the answers before; see `player_model.py`.

A change that got no answer, or a 503, may have happened: at most once, and possibly later.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from enum import Enum
from itertools import pairwise
from typing import NamedTuple


class Wrong(Enum):
    """How an invariant was broken."""

    LOST = "an acknowledged change is not there at the end, and no read saw it after its answer"
    UNDONE = "an acknowledged change was seen, and is gone"
    DOUBLED = "a change happened more than once"
    REORDERED = "changes do not stand in the order in which they were acknowledged"
    WENT_BACK = "an answer showed an older place than one that was acknowledged before"
    VERSION = "a version did not grow by one with each change"
    UNTRUE = "a change was refused, and happened; or an answer that no history explains"
    ROWS = "a key does not have exactly one row"


class Breach(NamedTuple):
    """One breach: what, of which state, in words."""

    wrong: Wrong
    key: str
    text: str


class Outcome(Enum):
    """What the client knows of a change."""

    OK = "acknowledged"
    REFUSED = "refused: it did not happen"
    UNKNOWN = "no answer, or 503: it may have happened, or happen yet"


@dataclass(slots=True)
class Put:
    """One try of one change of a counter. Times in seconds on one steady clock.

    Attributes:
        change: its id; several tries of one change share it.
        base: the version it was conditional on; 0 for a create.
        version: the version in its acknowledgement.
    """

    change: str
    base: int
    sent: float
    answered: float = float("inf")
    outcome: Outcome = Outcome.UNKNOWN
    version: int | None = None


@dataclass(frozen=True, slots=True)
class Read:
    """One answered GET of a counter; version 0 and no changes for a 404."""

    sent: float
    answered: float
    version: int
    changes: tuple[str, ...]


@dataclass
class CounterHistory:
    """All that was asked of one counter, and answered."""

    key: str
    puts: list[Put] = field(default_factory=list)
    reads: list[Read] = field(default_factory=list)

    def put(self, change: str, base: int, sent: float) -> Put:
        """A try is on its way; its outcome is set on what is returned."""
        self.puts.append(Put(change, base, sent))
        return self.puts[-1]

    @property
    def acknowledged(self) -> int:
        """Changes with an acknowledgement."""
        return sum(put.outcome is Outcome.OK for put in self.puts)

    def check(self, final: Read) -> list[Breach]:
        """Every breach that the history and what is there at the end show together."""
        return [Breach(wrong, self.key, text) for wrong, text in self._breaches(final)]

    def _breaches(self, final: Read) -> Iterable[tuple[Wrong, str]]:
        acknowledged = {put.change: put for put in self.puts if put.outcome is Outcome.OK}
        place = {change: number for number, change in enumerate(final.changes, 1)}
        for change, count in Counter(final.changes).items():
            if count > 1:
                yield Wrong.DOUBLED, f"change {change} is there {count} times"
        for change, put in acknowledged.items():
            if change not in place:
                seen = any(change in read.changes for read in self.reads)
                yield (
                    Wrong.UNDONE if seen else Wrong.LOST,
                    f"change {change}, acknowledged as version {put.version}, is not there",
                )
        yield from self._out_of_order(acknowledged.values(), place)
        yield from self._versions(acknowledged.values(), final)
        yield from self._untrue(acknowledged, final)
        yield from self._backwards(final)

    @staticmethod
    def _out_of_order(
        acknowledged: Iterable[Put], place: dict[str, int]
    ) -> Iterable[tuple[Wrong, str]]:
        ordered = sorted(
            (put for put in acknowledged if put.change in place), key=lambda put: put.version or 0
        )
        for earlier, later in pairwise(ordered):
            if place[earlier.change] > place[later.change]:
                text = (
                    f"change {later.change} (version {later.version}) stands before "
                    f"{earlier.change} (version {earlier.version})"
                )
                yield Wrong.REORDERED, text

    def _versions(self, acknowledged: Iterable[Put], final: Read) -> Iterable[tuple[Wrong, str]]:
        if final.version != len(final.changes):
            yield (
                Wrong.VERSION,
                f"version {final.version} at the end, after {len(final.changes)} changes",
            )
        made: dict[int | None, str] = {}
        for put in acknowledged:
            if put.version in made:
                text = (
                    f"changes {made[put.version]} and {put.change} were both acknowledged as "
                    f"version {put.version}"
                )
                yield Wrong.VERSION, text
            elif put.version != put.base + 1:
                yield (
                    Wrong.VERSION,
                    f"change {put.change} of version {put.base} was acknowledged as {put.version}",
                )
            made[put.version] = put.change

    def _untrue(self, acknowledged: dict[str, Put], final: Read) -> Iterable[tuple[Wrong, str]]:
        maybe = {put.change for put in self.puts if put.outcome is Outcome.UNKNOWN}
        known = {put.change for put in self.puts}
        for change in dict.fromkeys(final.changes):
            if change in acknowledged or change in maybe:
                continue
            how = "was refused each time" if change in known else "was never sent"
            yield Wrong.UNTRUE, f"change {change} {how}, and is there"

    def _backwards(self, final: Read) -> Iterable[tuple[Wrong, str]]:
        """Each read must show at least what was acknowledged or read before it was asked."""
        events: list[tuple[float, int, str]] = [
            (put.answered, put.version or 0, f"version {put.version} was acknowledged")
            for put in self.puts
            if put.outcome is Outcome.OK
        ]
        events += [(r.answered, r.version, f"version {r.version} was read") for r in self.reads]
        events.sort(key=lambda event: event[0])
        index, highest, words = 0, 0, ""
        for read in sorted(self.reads, key=lambda read: read.sent):
            while index < len(events) and events[index][0] < read.sent:
                if events[index][1] > highest:
                    highest, words = events[index][1:]
                index += 1
            if read.version < highest:
                yield Wrong.WENT_BACK, f"version {read.version} was read after {words}"
            if read.changes != final.changes[: len(read.changes)]:
                yield (
                    Wrong.UNDONE,
                    f"what was read as version {read.version} is not how the end begins",
                )


@dataclass
class Verdict:
    """What the checker found.

    Attributes:
        states: how many were read back.
        acknowledged: changes that the load has an acknowledgement of.
        unknown: changes without an answer, which may have happened.
        breaches: every breach.
    """

    states: int = 0
    acknowledged: int = 0
    unknown: int = 0
    breaches: list[Breach] = field(default_factory=list)

    def count(self, wrong: Wrong) -> int:
        """Breaches of one kind."""
        return sum(breach.wrong is wrong for breach in self.breaches)

    @property
    def counts(self) -> dict[str, int]:
        """All kinds, by name, also those that are 0."""
        return {wrong.name.lower(): self.count(wrong) for wrong in Wrong}


def check_rows(key: str, versions: Sequence[int], possible: Iterable[int]) -> list[Breach]:
    """Hold the rows of a key, as they lie in MySQL, against what its history allows.

    Args:
        versions: of each row found, in any partition.
        possible: the versions that the history allows; 0 stands for no row.
    """
    allowed = sorted(set(possible))
    if len(versions) > 1 or (not versions and 0 not in allowed):
        return [Breach(Wrong.ROWS, key, f"it has {len(versions)} rows")]
    version = versions[0] if versions else 0
    if version not in allowed:
        expected = " or ".join(map(str, allowed))
        return [Breach(Wrong.VERSION, key, f"its row has version {version}, not {expected}")]
    return []
