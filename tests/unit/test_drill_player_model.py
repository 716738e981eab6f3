"""The drills' model of a listener: it agrees with the Player, and finds answers that the Player
never gives."""

from __future__ import annotations

import json
from datetime import date

import pytest
from hypothesis import given
from hypothesis import strategies as st

from config.model import Player
from drills.checker import Wrong
from drills.player_model import DONE, REFUSED, Command, ListenerHistory
from gateway.catalog.model import Mix, MixUser, Track
from gateway.player import rules
from sharding.state import Owner, Remove, Stored, Write

TRACKS = 4
MIX = Mix(
    1,
    "m",
    "m",
    "/u/m",
    None,
    "",
    0,
    MixUser(1, "u", "u"),
    tuple(Track(k, "t", "p", None, None, None, "https://a/t", 1) for k in range(1, TRACKS + 1)),
)

tracks = st.one_of(st.none(), st.integers(1, TRACKS))
commands = st.one_of(
    st.builds(Command, st.just("play")),
    st.builds(Command, st.sampled_from(["next", "skip"]), tracks),
    st.builds(Command, st.just("report"), st.integers(1, TRACKS)),
    st.builds(Command, st.just("tracks_played")),
)


class RealPlayer:
    """The product's own rules, on a state in memory."""

    def __init__(self) -> None:
        self.stored: Stored | None = None

    def do(self, command: Command) -> int:
        """Carry out a command; its answer as the checker writes it."""
        allowed = Player()
        if command.kind == "tracks_played":
            return len(rules.tracks_played(MIX, self.stored))
        if command.kind == "play":
            decision = rules.play(MIX, self.stored, 0.0, allowed)
        elif command.kind == "report":
            assert command.track is not None
            decision = rules.report(MIX, self.stored, command.track)
        else:
            rule = rules.next_track if command.kind == "next" else rules.skip
            decision = rule(MIX, self.stored, 0.0, allowed, command.track)
        if isinstance(decision, Write):
            version = self.stored.version + 1 if self.stored is not None else 1
            self.stored = Stored(decision.body, version, date(2026, 1, 1), Owner.PLAYER)
        assert not isinstance(decision, Remove)
        answer = decision.answer
        if answer is None:
            return DONE
        if isinstance(answer, rules.SkipRefusal):
            return REFUSED
        return answer.track.id if answer.track is not None else TRACKS + 1

    @property
    def version(self) -> int:
        return self.stored.version if self.stored is not None else 0

    @property
    def played(self) -> int:
        return len(json.loads(self.stored.body).get("played", ())) if self.stored else 0


def history() -> ListenerHistory:
    return ListenerHistory("k", TRACKS, skip_limit=2)


@given(st.lists(commands, max_size=25))
def test_the_model_agrees_with_the_player(listed: list[Command]) -> None:
    real, walk = RealPlayer(), history()
    for command in listed:
        walk.answered(command, real.do(command))
    assert walk.check(real.played) == []
    assert walk.versions == {real.version}


@given(st.lists(st.tuples(commands, st.sampled_from(["answer", "lost", "never"])), max_size=15))
def test_commands_without_an_answer_may_have_happened_or_not(
    listed: list[tuple[Command, str]],
) -> None:
    real, walk = RealPlayer(), history()
    for command, fate in listed:
        if fate == "answer" or walk.unknown >= 4:
            walk.answered(command, real.do(command))
            continue
        if fate == "lost":
            real.do(command)
        walk.unanswered(command)
    assert walk.check(real.played) == []
    assert real.version in walk.versions


@given(st.lists(commands, max_size=6), st.lists(commands, max_size=6))
def test_a_command_without_an_answer_may_be_carried_out_later(
    before: list[Command], after: list[Command]
) -> None:
    real, walk = RealPlayer(), history()
    late = Command("next")
    walk.unanswered(late)
    for command in before:
        walk.answered(command, real.do(command))
    real.do(late)
    for command in after:
        walk.answered(command, real.do(command))
    assert walk.check(real.played) == []
    assert real.version in walk.versions


def walked(moves: int) -> ListenerHistory:
    """The history of a listener who is at track `moves`."""
    walk = history()
    walk.answered(Command("play"), 1)
    for track in range(2, moves + 1):
        walk.answered(Command("next"), track)
    return walk


@pytest.mark.parametrize(
    ("command", "answer", "wrong"),
    [
        (Command("next"), 2, Wrong.WENT_BACK),
        (Command("play"), 1, Wrong.WENT_BACK),
        (Command("next"), 4 + 1, Wrong.DOUBLED),
        (Command("tracks_played"), 1, Wrong.WENT_BACK),
        (Command("skip"), REFUSED, Wrong.UNTRUE),
    ],
)
def test_an_impossible_answer_is_a_breach(command: Command, answer: int, wrong: Wrong) -> None:
    walk = walked(3)
    walk.answered(command, answer)
    assert [breach.wrong for breach in walk.breaches] == [wrong]


@pytest.mark.parametrize(("played", "wrong"), [(2, Wrong.LOST), (4, Wrong.DOUBLED)])
def test_another_number_of_played_tracks_at_the_end_is_a_breach(played: int, wrong: Wrong) -> None:
    assert [breach.wrong for breach in walked(3).check(played)] == [wrong]


def test_a_third_skip_within_the_hour_is_a_breach() -> None:
    walk = walked(1)
    walk.answered(Command("skip"), 2)
    walk.answered(Command("skip"), 3)
    walk.answered(Command("skip"), 4)
    assert len(walk.breaches) == 1


def test_a_retry_that_names_its_track_moves_once() -> None:
    walk = walked(2)
    command = Command("next", 2)
    walk.unanswered(command)
    walk.answered(command, 3)
    assert walk.check(3) == []
    assert walk.check(4) != []
