"""The Player's rules: what each command does with a listener's state in one mix.

All rules are here, without sockets, clocks or the catalog. A rule is a plain function from the
stored state (and the time) to a decision of `sharding.state`. The store may call it again after a
conflict, so the same input always gives the same decision.

Theory
======
What a command does depends on the situation:

    EMPTY      the mix has no tracks: it is at its end at once
    UNSTARTED  there is no state, or nothing in it was played (it was made by a report)
    PLAYING    a track plays
    LOST       a track was playing, but an edit of the catalog has removed it from the mix since
    ENDED      the listener has gone past the last track
    APART      the command names the track that the client believes is playing (`track_id`), and it
               is not the current one: a retry of a command that took effect, or a device that
               lags. It moves nothing, so that retries are safe.

A command with a `track_id` moves a listener only from that track, so that it moves once even if it
is sent twice. Before the first play, a command that names the first track acts as if `play` had
been sent before. A command that names another track starts at the first track, however often it is
sent.

The whole table (in code: `_TABLE`):

              EMPTY    UNSTARTED  PLAYING     LOST        ENDED    APART
    play      stay     start      stay        settle      start    -
    next      stay     start      step        step        stay     stay
    skip      refuse   start      step, *     step, *     refuse   stay

    start   the first track, as if nothing had been played. The skip window, what was reported and
            `listened` stay: a restart buys no skips.
    stay    nothing is written; the answer is the current place.
    step    to the following track; from the last one to the end.
    settle  to the track that now has the lost track's place, which is written.
    refuse  nothing is written; the answer says why.
    *       refused while the licence's skips are used up; otherwise the step is counted.

The licence allows `skip_limit` skips in any `skip_window` seconds, per listener and mix. These do
not count: a step by `next`, a skip that starts the mix, and a skip that is APART.

The place
=========
The current track is the one played last, identified by its id and not by its number, so that an
edit of the catalog moves no listener. If an edit removed this track, its place is after the latest
played track that is still in the mix, or, if there is none, at its old number. So no track is
skipped unheard. In a written state `played` has each track of the mix at most once.

The time is MySQL's, the same for every gateway. Two servers' clocks may differ at a failover, and a
clock may be set back. So a skip counts while it is less than a window away from now, before or
after: a skip that a wrong clock put a year ahead locks no listener out. No clock removes a skip
from the state: it has the last accepted skips, twice as many as the licence allows, which is enough
for two clocks that differ.

The body
========
Compact JSON, defaults left out: `played`, `at_end`, `skips`, `reported`, `listened`, `left` (see
`_State`).
Fields that a later version may add are ignored, and lost at the next write.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from enum import Enum, auto
from typing import Any, NamedTuple, TypeAlias

import msgspec

from config.model import Player as Rules
from gateway.catalog.model import Mix, Track
from sharding.state import Decision, Keep, Owner, Stored, Write


class WrongOwner(Exception):
    """The state belongs to the states API: the Player neither reads nor changes it."""


class UnknownTrack(Exception):
    """The command names a track that is not in the mix."""


class UnreadableState(Exception):
    """The stored body was not written by the Player. Nothing was changed."""


class Place(msgspec.Struct, frozen=True):
    """A listener's place in a mix, as in the API's `set`. At the end there is no track."""

    at_beginning: bool = False
    at_last_track: bool = False
    at_end: bool = False
    skip_allowed: bool = False
    track: Track | None = None


class SkipRefusal(msgspec.Struct, frozen=True):
    """A skip that is not allowed; `notice` is a sentence for the listener."""

    notice: str


Answer: TypeAlias = Place | SkipRefusal | None


class _State(msgspec.Struct, frozen=True, omit_defaults=True):
    """The stored state.

    Attributes:
        played: ids of the tracks since the last start, in order; the last one is the current one.
        at_end: whether the listener has gone past the last track.
        skips: when the last skips were accepted, seconds since 1970, in the order of acceptance.
        reported: ids of the tracks reported as listened to.
        listened: whether the mix's last track was ever reported.
        left: the id of the track that was LOST before the last move, for retries that name it.
    """

    played: tuple[int, ...] = ()
    at_end: bool = False
    skips: tuple[float, ...] = ()
    reported: tuple[int, ...] = ()
    listened: bool = False
    left: int | None = None


def body_of(**values: Any) -> bytes:
    """The body of an imported state; the arguments are `_State`'s attributes."""
    return _encode(_State(**values))


class _Situation(Enum):
    EMPTY = auto()
    UNSTARTED = auto()
    PLAYING = auto()
    LOST = auto()
    ENDED = auto()
    APART = auto()


def play(mix: Mix, stored: Stored | None, now: float, rules: Rules) -> Decision[Answer]:
    """Start the mix, resume it, or start it again after its end.

    Args:
        mix: in the catalog's present edition; the listener may have played another one.
        stored: the listener's state in the mix.
        now: MySQL's time, seconds since 1970.
        rules: the licence's.

    Raises:
        WrongOwner, UnreadableState: `stored` is not the Player's, as for all commands here.
    """
    turn = _Turn(mix, stored, now, rules)
    return _TABLE[turn.situation].play(turn)


def next_track(
    mix: Mix, stored: Stored | None, now: float, rules: Rules, track_id: int | None = None
) -> Decision[Answer]:
    """Go to the next track; past the last one to the end; before the first play to the first.

    `track_id` is the track that the client believes is playing: if it is not the current one,
    nothing moves. None stands for the current track. UnknownTrack: it is not in the mix.
    """
    turn = _Turn(mix, stored, now, rules, track_id)
    return _TABLE[turn.situation].next(turn)


def skip(
    mix: Mix, stored: Stored | None, now: float, rules: Rules, track_id: int | None = None
) -> Decision[Answer]:
    """As `next_track`, but counted; refused at the end, and beyond the licence's limit."""
    turn = _Turn(mix, stored, now, rules, track_id)
    return _TABLE[turn.situation].skip(turn)


def report(mix: Mix, stored: Stored | None, track_id: int) -> Decision[Answer]:
    """Mark a track as listened to; the last track marks the mix too. May be repeated. Raises
    UnknownTrack if `track_id` is not in the mix.
    """
    state = _read(stored)
    order = mix.order
    _check_track(track_id, order, state)
    if track_id not in order:
        return Keep(None)
    known = track_id in state.reported
    listened = state.listened or track_id == mix.tracks[-1].id
    if known and listened == state.listened:
        return Keep(None)
    reported = state.reported if known else (*state.reported, track_id)
    changed = msgspec.structs.replace(
        state, reported=tuple(i for i in reported if i in order), listened=listened
    )
    return Write(_encode(changed), Owner.PLAYER, None)


def tracks_played(mix: Mix, stored: Stored | None) -> list[Track]:
    """The tracks played since the last start that are still in the mix, in order."""
    tracks = {track.id: track for track in mix.tracks}
    return [tracks[i] for i in _read(stored).played if i in tracks]


class _Turn:
    """One command on one state: its situation, and the steps of the table."""

    def __init__(
        self, mix: Mix, stored: Stored | None, now: float, rules: Rules, track_id: int | None = None
    ) -> None:
        self.mix = mix
        self.state = _read(stored)
        self.now = now
        self.rules = rules
        self.order = mix.order
        self.counted = tuple(s for s in self.state.skips if abs(now - s) < rules.skip_window)
        if track_id is not None:
            _check_track(track_id, self.order, self.state)
            if not self.state.played and mix.tracks and track_id == mix.tracks[0].id:
                self.state = msgspec.structs.replace(self.state, played=(track_id,))
        self.situation = self._situation(track_id)

    def _situation(self, track_id: int | None) -> _Situation:
        state = self.state
        if not self.mix.tracks:
            return _Situation.EMPTY
        if state.at_end:
            return _Situation.ENDED if track_id is None else _Situation.APART
        if not state.played:
            return _Situation.UNSTARTED
        if track_id is not None and track_id != state.played[-1]:
            return _Situation.APART
        return _Situation.PLAYING if state.played[-1] in self.order else _Situation.LOST

    def start(self) -> Decision[Answer]:
        return self._move_to(0, played=())

    def stay(self) -> Decision[Answer]:
        ended = self.state.at_end or not self.mix.tracks
        return Keep(self._place(None if ended else self._index(), len(self.counted)))

    def settle(self) -> Decision[Answer]:
        return self._move_to(self._index(), self.state.played)

    def step(self) -> Decision[Answer]:
        return self._move_to(self._following(), self.state.played)

    def counted_step(self) -> Decision[Answer]:
        if len(self.counted) >= self.rules.skip_limit:
            return Keep(SkipRefusal(_licence(self.counted, self.now, self.rules)))
        return self._move_to(self._following(), self.state.played, skipped=True)

    def refuse_at_end(self) -> Decision[Answer]:
        return Keep(SkipRefusal("The mix is at its end: there is no track to skip."))

    def _following(self) -> int:
        """The number of the track after the current one; after the last one, the end's."""
        played = self.state.played
        for track_id in reversed(played):
            if track_id in self.order:
                return self.order[track_id] + 1
        return len(played) - 1

    def _index(self) -> int:
        """The number of the current track, or of the track that has a lost one's place."""
        current = self.order.get(self.state.played[-1])
        return min(self._following(), len(self.mix.tracks) - 1) if current is None else current

    def _move_to(
        self, index: int, played: tuple[int, ...], *, skipped: bool = False
    ) -> Decision[Answer]:
        still = [i for i in played if i in self.order]
        at_end = index >= len(self.mix.tracks)
        if not at_end:
            # After an edit a track may be played twice; `played` has it at its last place.
            current = self.mix.tracks[index].id
            still = [i for i in still if i != current] + [current]
        before, skips = self.state, self.state.skips
        if skipped:
            skips = (*skips, self.now)[-2 * self.rules.skip_limit :]
        left = before.played[-1] if self.situation is _Situation.LOST else None
        state = _State(tuple(still), at_end, skips, before.reported, before.listened, left)
        place = self._place(None if at_end else index, len(self.counted) + skipped)
        return Write(_encode(state), Owner.PLAYER, place)

    def _place(self, index: int | None, counted: int) -> Place:
        if index is None:
            return Place(at_end=True)
        return Place(
            at_beginning=index == 0,
            at_last_track=index == len(self.mix.tracks) - 1,
            skip_allowed=counted < self.rules.skip_limit,
            track=self.mix.tracks[index],
        )


_Action: TypeAlias = Callable[[_Turn], Decision[Answer]]


class _Row(NamedTuple):
    play: _Action
    next: _Action
    skip: _Action


_TABLE = {
    _Situation.EMPTY: _Row(_Turn.stay, _Turn.stay, _Turn.refuse_at_end),
    _Situation.UNSTARTED: _Row(_Turn.start, _Turn.start, _Turn.start),
    _Situation.PLAYING: _Row(_Turn.stay, _Turn.step, _Turn.counted_step),
    _Situation.LOST: _Row(_Turn.settle, _Turn.step, _Turn.counted_step),
    _Situation.ENDED: _Row(_Turn.start, _Turn.stay, _Turn.refuse_at_end),
    # `play` names no track, so it is never apart.
    _Situation.APART: _Row(_Turn.stay, _Turn.stay, _Turn.stay),
}


def _licence(skips: tuple[float, ...], now: float, rules: Rules) -> str:
    """Why a skip is refused while `skips` are in the window."""
    if rules.skip_limit == 0:
        return "The music licence allows no skips."
    # The next skip is possible once fewer than the limit remain in the window.
    leaves = sorted(skips)[len(skips) - rules.skip_limit] + rules.skip_window
    skips_allowed, window = _count(rules.skip_limit, "skip"), _duration(rules.skip_window)
    return (
        f"The music licence allows {skips_allowed} in {window}: "
        f"the next one in this mix is possible in {_duration(leaves - now)}."
    )


def _duration(seconds: float) -> str:
    """A duration in words, rounded up, so that no listener retries too early."""
    whole = max(1, math.ceil(seconds))
    if whole > 60:
        whole = math.ceil(whole / 60) * 60
    for unit, length in (("hour", 3600), ("minute", 60)):
        if whole % length == 0:
            return _count(whole // length, unit)
    return _count(whole, "second")


def _count(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


def _check_track(track_id: int, order: dict[int, int], state: _State) -> None:
    # The client may name a track that the listener played before an edit removed it.
    if track_id not in order and track_id not in state.played and track_id != state.left:
        raise UnknownTrack(f"There is no track {track_id} in this mix.")


_decoder = msgspec.json.Decoder(_State)
_encode = msgspec.json.Encoder().encode


def _read(stored: Stored | None) -> _State:
    if stored is None:
        return _State()
    if stored.owner is not Owner.PLAYER:
        raise WrongOwner("The state of this listener in this mix belongs to the states API.")
    try:
        return _decoder.decode(stored.body)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise UnreadableState(f"version {stored.version} is no Player state: {error}") from error
