"""The Player's rules compared with a simple model, for any session."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import date
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from config.model import Player as Rules
from gateway.catalog.model import Mix
from gateway.player.rules import (
    Place,
    SkipRefusal,
    UnknownTrack,
    next_track,
    play,
    report,
    skip,
    tracks_played,
)
from sharding.state import Keep, Owner, Stored, Write
from tests.unit.test_player import mix_of

START = 1_763_900_000


rules = st.builds(Rules, skip_limit=st.integers(0, 4), skip_window=st.sampled_from([1, 60, 3600]))
tracks = st.lists(st.integers(1, 12), unique=True, max_size=8)
name = st.sampled_from(["play", "next", "skip", "report"])
track = st.none() | st.integers(1, 12)
steps = st.sampled_from([0, 0, 1, 30, 59, 60, 1800, 3599, 3600])
commands = st.lists(st.tuples(name, track, steps), max_size=40)


def apply(
    command: str, mix: Mix, state: Stored | None, now: float, rules: Rules, track_id: int | None
) -> tuple[Any, Stored | None]:
    """The answer and the state after a command. It is decided twice, as the store may do."""
    calls: dict[str, Callable[[], Any]] = {
        "play": lambda: play(mix, state, now, rules),
        "next": lambda: next_track(mix, state, now, rules, track_id),
        "skip": lambda: skip(mix, state, now, rules, track_id),
        "report": lambda: report(mix, state, track_id or 1),
    }
    try:
        decision = calls[command]()
    except UnknownTrack:
        return "unknown", state
    assert decision == calls[command]()
    if isinstance(decision, Keep):
        return decision.answer, state
    assert isinstance(decision, Write)
    version = 1 if state is None else state.version + 1
    return decision.answer, Stored(decision.body, version, date(2025, 11, 23), Owner.PLAYER)


@dataclass
class Model:
    """A listener of a mix that is not edited: a position and the times of skips."""

    ids: list[int]
    rules: Rules
    position: int = -1  # before the first track; len(ids) is the end
    skips: list[float] = field(default_factory=list)

    def left(self, now: float) -> int:
        used = [s for s in self.skips if now - s < self.rules.skip_window]
        return self.rules.skip_limit - len(used)

    def answer(self, now: float) -> object:
        if self.position >= len(self.ids):
            return Place(False, False, True, False, None)
        last = self.position == len(self.ids) - 1
        known = mix_of(*self.ids).tracks[self.position]
        return Place(self.position == 0, last, False, self.left(now) > 0, known)

    def run(self, command: str, track_id: int | None, now: float) -> object:
        if command == "report":
            return None if (track_id or 1) in self.ids else "unknown"
        ended = self.position >= len(self.ids)
        if command == "play":
            if self.position < 0 or ended:
                self.position = 0
            return self.answer(now)
        if track_id is not None and track_id not in self.ids:
            return "unknown"
        if self.position < 0 and track_id is not None and track_id == self.ids[0]:
            before, self.position = self.position, 0
            answer = self.run(command, track_id, now)
            if answer == "refused":
                self.position = before
            return answer
        if self.position < 0:
            self.position = 0
            if not self.ids and command == "skip":
                return "refused"
            return self.answer(now)
        if track_id is not None and (ended or self.ids.index(track_id) != self.position):
            return self.answer(now)
        if command == "skip":
            if ended or self.left(now) <= 0:
                return "refused"
            self.skips.append(now)
        self.position = min(self.position + 1, len(self.ids))
        return self.answer(now)


@given(tracks, rules, commands)
def test_any_session_gets_the_answers_of_the_simple_model(ids, rules, commands):
    mix, model, state, now = mix_of(*ids), Model(ids, rules), None, START
    for command, track_id, step in commands:
        now += step
        answer, state = apply(command, mix, state, now, rules, track_id)
        expected = model.run(command, track_id, now)
        assert ("refused" if isinstance(answer, SkipRefusal) else answer) == expected
        played = [track.id for track in tracks_played(mix, state)]
        assert played == ids[: model.position + 1]


@given(tracks, rules, commands)
def test_no_window_of_time_has_more_skips_than_the_licence_allows(ids, rules, commands):
    mix, state, now = mix_of(*ids), None, START
    accepted = []
    for command, track_id, step in commands:
        now += step
        before = [track.id for track in tracks_played(mix, state)]
        ended_before = state is not None and b'"at_end":true' in state.body
        answer, state = apply(command, mix, state, now, rules, track_id)
        after = [track.id for track in tracks_played(mix, state)]
        ended = state is not None and b'"at_end":true' in state.body
        moved = (after, ended) != (before, ended_before)
        if command == "skip" and before and moved:
            accepted.append(now)
        assert not (isinstance(answer, SkipRefusal) and moved)
        for start in accepted:
            inside = [s for s in accepted if start <= s < start + rules.skip_window]
            assert len(inside) <= rules.skip_limit


@given(
    tracks,
    rules,
    st.lists(st.tuples(name, track, steps, st.none() | tracks), max_size=20),
    st.sampled_from(["next", "skip", "report"]),
    st.integers(1, 12),
)
def test_a_command_with_a_track_has_the_same_effect_if_sent_twice(
    ids, rules, commands, command, named
):
    """For any state and track, also without a state and after edits of the mix."""
    mix, state, now = mix_of(*ids), None, START
    for earlier, track_id, step, edit in commands:
        now += step
        mix = mix if edit is None else mix_of(*edit)
        _, state = apply(earlier, mix, state, now, rules, track_id)
    first, once = apply(command, mix, state, now, rules, named)
    second, twice = apply(command, mix, once, now, rules, named)
    assert (first, once) == (second, twice)


@given(tracks, rules, commands)
def test_skip_allowed_tells_whether_the_next_skip_is_refused(ids, rules, commands):
    mix, state, now = mix_of(*ids), None, START
    for command, track_id, step in commands:
        now += step
        answer, state = apply(command, mix, state, now, rules, track_id)
        if isinstance(answer, Place):
            refused = isinstance(apply("skip", mix, state, now, rules, None)[0], SkipRefusal)
            assert answer.skip_allowed == (not refused)


@given(
    rules.filter(lambda rules: rules.skip_limit > 0),
    st.lists(
        st.tuples(st.booleans(), st.sampled_from(["skip", "skip", "next"]), steps), max_size=60
    ),
    st.sampled_from([-7200, -3600, -60, 60, 3600, 7200, 86400]),
)
def test_with_two_different_clocks_neither_sees_more_skips_than_the_limit(rules, commands, apart):
    """An old and a new primary may have different clocks."""
    mix, now = mix_of(*range(1, 100)), START
    _, state = apply("play", mix, None, START, rules, None)
    accepted: dict[bool, list[float]] = {False: [], True: []}
    for other, command, step in commands:
        now += step
        told = now + apart * other
        before = len(tracks_played(mix, state))
        _, state = apply(command, mix, state, told, rules, None)
        if command == "skip" and len(tracks_played(mix, state)) > before:
            accepted[other].append(told)
        for times in accepted.values():
            for start in times:
                inside = [t for t in times if start <= t < start + rules.skip_window]
                assert len(inside) <= rules.skip_limit


any_time = st.floats(-1e11, 1e11) | st.integers(START - 7200, START + 7200)
edited = st.lists(st.tuples(name, track, any_time, st.none() | tracks), max_size=40)


@given(tracks, rules, edited)
def test_a_session_stays_valid_with_any_edits_and_clock_jumps(ids, rules, commands):
    mix, state = mix_of(*ids), None
    for command, track_id, now, edit in commands:
        mix = mix if edit is None else mix_of(*edit)
        answer, state = apply(command, mix, state, now, rules, track_id)
        played = [track.id for track in tracks_played(mix, state)]
        assert len(set(played)) == len(played)
        if isinstance(answer, Place):
            assert answer.at_end == (answer.track is None)
            assert answer.track is None or answer.track in mix.tracks
            assert not (answer.at_end and (answer.at_beginning or answer.at_last_track))
            if command == "play" and mix.tracks:
                assert answer.track is not None


edits = st.lists(st.tuples(st.none() | tracks, st.booleans()), max_size=12)


@given(tracks.filter(bool), edits)
def test_after_any_edits_next_goes_to_the_track_after_the_latest_played_one(ids, edits):
    mix, state = mix_of(*ids), None
    for edit, resume in edits:
        mix = mix if edit is None else mix_of(*edit)
        if resume:
            _, state = apply("play", mix, state, START, Rules(), None)
        known = tracks_played(mix, state)
        answer, state = apply("next", mix, state, START, Rules(), None)
        if known and answer.track is not None:
            assert mix.tracks.index(answer.track) == mix.tracks.index(known[-1]) + 1
