"""A listener's walk through a mix: which answers are possible after all those before. No I/O.

The Player's rules, written down a second time and more simply (tracks are numbers from 1, the
catalog does not change), and run as a non-deterministic automaton: a command without an answer may
take effect at any later moment or never, so there may be several places at once. An answer that
none of them explains is a breach.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, NamedTuple, TypeAlias

from drills.checker import Breach, Wrong

Kind: TypeAlias = Literal["play", "next", "skip", "report", "tracks_played"]
REFUSED = -1
DONE = -2
UNKNOWN = -3
"""Answers that are no track number; UNKNOWN is a track that the mix does not have."""


class Command(NamedTuple):
    """A command of the Player API; `track` is its track_id, as a number in the mix."""

    kind: Kind
    track: int | None = None


class Place(NamedTuple):
    """A listener's state. `at` is 0 before the first track, and tracks + 1 at the end."""

    at: int = 0
    skips: int = 0
    reported: frozenset[int] = frozenset()
    version: int = 0


def apply(command: Command, place: Place, tracks: int, skip_limit: int) -> tuple[Place, int]:
    """What a command makes of a place, and its answer.

    The answer of play, next and skip is the current track (tracks + 1 at the end), or REFUSED; that
    of tracks_played is how many; that of report is DONE.
    """
    end = tracks + 1
    if command.kind == "tracks_played":
        return place, min(place.at, tracks)
    if command.kind == "report":
        assert command.track is not None
        if command.track in place.reported:
            return place, DONE
        reported = place.reported | {command.track}
        return place._replace(reported=reported, version=place.version + 1), DONE
    starts = place.at in (0, end) if command.kind == "play" else place.at == 0
    if starts and command.kind != "play" and command.track == 1:
        # The client has what play would have answered: on from the first track.
        moved, said = apply(command, place._replace(at=1), tracks, skip_limit)
        return (place if said == REFUSED else moved), said
    if starts:
        return place._replace(at=1, version=place.version + 1), 1
    if command.kind == "play":
        return place, place.at
    if command.track is not None and command.track != place.at:
        return place, place.at  # another track is current: a retry, or a client that lags
    if command.kind == "next":
        if place.at == end:
            return place, end
        return place._replace(at=place.at + 1, version=place.version + 1), place.at + 1
    if place.at == end or place.skips >= skip_limit:
        return place, REFUSED
    moved = place._replace(at=place.at + 1, skips=place.skips + 1, version=place.version + 1)
    return moved, moved.at


class _World(NamedTuple):
    """One possibility: the place, and which commands without an answer may take effect yet."""

    place: Place
    pending: frozenset[int]


MOST_PENDING = 4
"""Commands without an answer after which a listener had better stop: possibilities multiply."""


@dataclass
class ListenerHistory:
    """All that one listener was answered in one mix.

    Args:
        tracks: how many the mix has.
        skip_limit: the licence's.

    Attributes:
        acknowledged: answered commands that changed the state for certain.
    """

    key: str
    tracks: int
    skip_limit: int
    acknowledged: int = 0
    breaches: list[Breach] = field(default_factory=list)
    _unanswered: list[Command] = field(default_factory=list)
    _worlds: set[_World] = field(default_factory=lambda: {_World(Place(), frozenset())})

    @property
    def unknown(self) -> int:
        """Commands without an answer."""
        return len(self._unanswered)

    def unanswered(self, command: Command) -> None:
        """A command got no answer, or 503: it may have happened, or happen yet."""
        number = len(self._unanswered)
        self._unanswered.append(command)
        self._worlds = {_moved(w, w.pending | {number}) for w in self._worlds}

    def answered(self, command: Command, answer: int) -> None:
        """Check a command's answer. An impossible one is a breach, and true from then on."""
        before = self._reachable()
        after: set[_World] = set()
        changed = bool(before)
        for world in before:
            place, said = apply(command, world.place, self.tracks, self.skip_limit)
            if said == answer:
                after.add(_World(place, world.pending))
                changed = changed and place != world.place
        if after:
            self.acknowledged += changed
            self._worlds = after
            return
        self.breaches.append(Breach(self._kind(command, answer), self.key, self._words(answer)))
        self._worlds = {self._believe(world, command, answer) for world in self._worlds}

    def check(self, played: int) -> list[Breach]:
        """Every breach; `played` is what tracks_played says at the end."""
        breaches = list(self.breaches)
        possible = {min(w.place.at, self.tracks) for w in self._reachable()}
        if played not in possible:
            wrong = Wrong.LOST if played < max(possible) else Wrong.DOUBLED
            expected = " or ".join(map(str, sorted(possible)))
            text = f"{played} tracks played at the end, not {expected}"
            breaches.append(Breach(wrong, self.key, text))
        return breaches

    @property
    def versions(self) -> set[int]:
        """Those that the row may have at the end."""
        return {world.place.version for world in self._reachable()}

    def _reachable(self) -> set[_World]:
        """The worlds, with each subset of the pending commands carried out in each order."""
        found: set[_World] = set()
        todo = list(self._worlds)
        while todo:
            world = todo.pop()
            if world in found:
                continue
            found.add(world)
            for number in world.pending:
                command = self._unanswered[number]
                place, _ = apply(command, world.place, self.tracks, self.skip_limit)
                todo.append(_World(place, world.pending - {number}))
        return found

    def _kind(self, command: Command, answer: int) -> Wrong:
        if command.kind == "report" or answer == REFUSED:
            return Wrong.UNTRUE
        expected = {
            apply(command, w.place, self.tracks, self.skip_limit)[1] for w in self._reachable()
        }
        if answer < max(expected):
            return Wrong.WENT_BACK
        return Wrong.DOUBLED if min(expected) > 0 else Wrong.UNDONE

    def _words(self, answer: int) -> str:
        places = sorted({world.place.at for world in self._reachable()})
        names = {REFUSED: "refused", DONE: "done", self.tracks + 1: "the end"}
        return (
            f"the answer was {names.get(answer, f'track {answer}')}, "
            f"where the listener was at {' or '.join(map(str, places))}"
        )

    @staticmethod
    def _believe(world: _World, command: Command, answer: int) -> _World:
        if answer < 0:
            return world
        return _moved(world, frozenset(), at=answer)


def _moved(world: _World, pending: frozenset[int], at: int | None = None) -> _World:
    """The world with other pending commands, and elsewhere if `at` says so."""
    place = world.place if at is None else world.place._replace(at=at)
    return _World(place, pending)
