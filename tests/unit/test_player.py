"""The Player's rules, command by command."""

from __future__ import annotations

import json
from datetime import date

import pytest

from config.model import Player as Rules
from gateway.catalog.model import Mix, MixUser, Track
from gateway.player.rules import (
    Place,
    SkipRefusal,
    UnknownTrack,
    UnreadableState,
    WrongOwner,
    next_track,
    play,
    report,
    skip,
    tracks_played,
)
from sharding.state import Keep, Owner, Stored, Write

NOW = 1_763_900_000.25
RULES = Rules()


def mix_of(*ids: int) -> Mix:
    tracks = tuple(
        Track(i, f"Track {i}", "Somebody", None, None, None, "https://media.example.org/t", 60)
        for i in ids
    )
    user = MixUser(1, "somebody", "somebody")
    return Mix(9, "Mix", "mix", "/somebody/mix", None, "", 60 * len(ids), user, tracks)


EIGHT = mix_of(*range(1, 9))


def stored(body: bytes, owner: Owner = Owner.PLAYER) -> Stored:
    return Stored(body, 1, date(2025, 11, 23), owner)


class Listener:
    """A listener of a mix, whose state is kept as the store would keep it."""

    def __init__(self, mix: Mix = EIGHT, rules: Rules = RULES, now: float = NOW) -> None:
        self.mix, self.rules, self.now = mix, rules, now
        self.stored: Stored | None = None
        self.writes = 0

    def _apply(self, decision):
        if isinstance(decision, Write):
            assert decision.owner is Owner.PLAYER
            self.stored = stored(decision.body)
            self.writes += 1
        else:
            assert isinstance(decision, Keep)
        return decision.answer

    def play(self):
        return self._apply(play(self.mix, self.stored, self.now, self.rules))

    def next(self, track_id=None):
        return self._apply(next_track(self.mix, self.stored, self.now, self.rules, track_id))

    def skip(self, track_id=None):
        return self._apply(skip(self.mix, self.stored, self.now, self.rules, track_id))

    def report(self, track_id):
        return self._apply(report(self.mix, self.stored, track_id))

    def played(self):
        return [track.id for track in tracks_played(self.mix, self.stored)]

    @property
    def body(self):
        return json.loads(self.stored.body)


def at(place: Place | SkipRefusal | None) -> int | str:
    assert isinstance(place, Place), place
    return place.track.id if place.track else "end"


def shape(place):
    if isinstance(place, SkipRefusal):
        return "refused"
    track = place.track.id if place.track else None
    return (place.at_beginning, place.at_last_track, place.at_end, place.skip_allowed, track)


END = (False, False, True, False, None)


def test_the_recorded_session_gets_the_same_answers():
    listener = Listener()
    commands = ["play", "next", "skip", "skip", "skip"] + ["next"] * 5
    answers = [shape(getattr(listener, command)()) for command in commands]
    assert answers == [
        (True, False, False, True, 1),
        (False, False, False, True, 2),
        (False, False, False, True, 3),
        (False, False, False, False, 4),
        "refused",
        (False, False, False, False, 5),
        (False, False, False, False, 6),
        (False, False, False, False, 7),
        (False, True, False, False, 8),
        END,
    ]


# -- play -----------------------------------------------------------------------------------------


def test_play_resumes_at_the_current_track_without_a_write():
    listener = Listener()
    listener.play()
    listener.next()
    writes = listener.writes
    assert at(listener.play()) == 2
    assert listener.writes == writes


def test_play_after_the_end_starts_again_and_keeps_skips_and_reports():
    listener = Listener(mix_of(1, 2))
    listener.play()
    listener.skip()
    listener.report(2)
    assert at(listener.skip()) == "end"
    place = listener.play()
    assert at(place) == 1
    assert not place.skip_allowed
    assert listener.played() == [1]
    assert listener.body["reported"] == [2]
    assert listener.body["listened"] is True


# -- next -----------------------------------------------------------------------------------------


def test_next_at_the_end_changes_nothing():
    listener = Listener(mix_of(1))
    listener.play()
    assert at(listener.next()) == "end"
    writes = listener.writes
    assert shape(listener.next()) == END
    assert listener.writes == writes


@pytest.mark.parametrize("command", ["next", "skip"])
@pytest.mark.parametrize(("left", "answer"), [((1, 3), 3), ((1,), "end"), ((), "end")])
def test_a_retry_from_a_track_that_the_catalog_no_longer_has_moves_once(command, left, answer):
    listener = Listener(mix_of(1, 2, 3))
    listener.play()
    listener.next(1)
    listener.mix = mix_of(*left, *((9,) if not left else ()))
    assert at(getattr(listener, command)(2)) == answer
    assert at(getattr(listener, command)(2)) == answer


# -- skip -----------------------------------------------------------------------------------------


def test_a_refused_skip_says_when_the_next_one_is_possible_and_changes_nothing():
    listener = Listener()
    listener.play()
    listener.skip()
    listener.now += 600
    listener.skip()
    before = listener.stored
    listener.now += 60
    assert listener.skip() == SkipRefusal(
        "The music licence allows 2 skips in 1 hour: "
        "the next one in this mix is possible in 49 minutes."
    )
    assert listener.stored is before


def test_a_skip_is_kept_even_if_its_time_is_far_from_the_clock():
    listener = Listener()
    listener.play()
    listener.skip()
    listener.now += 7200
    listener.skip()
    assert listener.body["skips"] == [NOW, NOW + 7200]
    listener.next()
    listener.now -= 7200
    listener.skip()
    assert isinstance(listener.skip(), SkipRefusal)


def test_twice_the_limit_of_skips_is_kept_for_two_clocks():
    listener = Listener(mix_of(*range(1, 30)))
    listener.play()
    for _ in range(10):
        listener.skip()
        listener.now += 3600
    assert listener.body["skips"] == [NOW + 3600 * hour for hour in range(6, 10)]


def test_a_skip_at_the_end_is_refused():
    listener = Listener(mix_of(1))
    listener.play()
    listener.next()
    assert listener.skip() == SkipRefusal("The mix is at its end: there is no track to skip.")


def test_a_limit_of_zero_allows_no_skip():
    listener = Listener(rules=Rules(skip_limit=0))
    assert not listener.play().skip_allowed
    assert listener.skip() == SkipRefusal("The music licence allows no skips.")


def test_after_the_limit_is_lowered_skips_are_refused_until_enough_are_old():
    listener = Listener(rules=Rules(skip_limit=3))
    listener.play()
    for _ in range(3):
        listener.skip()
        listener.now += 60
    listener.rules = Rules(skip_limit=1, skip_window=3600)
    refusal = listener.skip()
    assert "1 skip in 1 hour" in refusal.notice
    listener.now = NOW + 120 + 3600
    assert at(listener.skip()) == 5


def test_a_clock_set_back_allows_no_further_skip_and_refuses_none_for_ever():
    listener = Listener()
    listener.play()
    listener.skip()
    listener.skip()
    listener.now = NOW - 60
    assert isinstance(listener.skip(), SkipRefusal)
    listener.now = NOW - 365 * 86400
    assert at(listener.skip()) == 4


# -- report ---------------------------------------------------------------------------------------


def test_a_report_sent_twice_is_stored_once():
    listener = Listener()
    listener.play()
    listener.report(1)
    before = listener.stored
    listener.report(1)
    assert listener.stored is before
    assert listener.body["reported"] == [1]


def test_a_mix_counts_as_listened_when_its_last_track_is_reported():
    listener = Listener(mix_of(1, 2))
    listener.report(1)
    assert "listened" not in listener.body
    listener.report(2)
    assert listener.body["listened"] is True


def test_a_report_before_play_does_not_move_the_listener():
    listener = Listener()
    listener.report(3)
    assert listener.played() == []
    assert shape(listener.play()) == (True, False, False, True, 1)


# -- places ---------------------------------------------------------------------------------------


def test_a_mix_without_tracks_is_at_its_end_and_nothing_is_stored():
    listener = Listener(mix_of())
    assert shape(listener.play()) == END
    assert shape(listener.next()) == END
    assert isinstance(listener.skip(), SkipRefusal)
    assert listener.played() == []
    assert listener.writes == 0
    with pytest.raises(UnknownTrack):
        listener.report(1)


# -- edits of the catalog -------------------------------------------------------------------------


def playing(*played: int) -> Listener:
    listener = Listener(mix_of(*played))
    for _ in played:
        listener.next()
    return listener


def test_added_or_moved_tracks_do_not_change_the_current_track():
    listener = playing(1, 2, 3)
    listener.mix = mix_of(9, 3, 1, 8, 2)
    assert shape(listener.play()) == (False, False, False, True, 3)
    assert at(listener.next()) == 1
    assert listener.played() == [2, 3, 1]


def test_after_the_current_track_was_removed_play_resumes_at_the_one_in_its_place():
    listener = playing(1, 2, 3, 4)
    listener.mix = mix_of(1, 3, 5, 6)
    assert at(listener.play()) == 5
    assert at(listener.play()) == 5
    assert at(listener.next()) == 6
    assert listener.played() == [1, 3, 5, 6]


def test_next_from_a_removed_track_omits_no_track():
    listener = playing(1, 2, 3, 4)
    listener.mix = mix_of(1, 2, 3, 5, 6)
    assert at(listener.next(4)) == 5
    assert listener.played() == [1, 2, 3, 5]


def test_after_the_last_track_was_removed_play_resumes_at_the_new_last_one():
    listener = playing(1, 2, 3)
    listener.mix = mix_of(1, 2)
    assert at(listener.next()) == "end"
    listener = playing(1, 2, 3)
    listener.mix = mix_of(1, 2)
    assert at(listener.play()) == 2
    assert at(listener.next()) == "end"


@pytest.mark.parametrize(
    ("tracks", "current", "following"), [((11, 12, 13, 14), 13, 13), ((11,), 11, "end")]
)
def test_a_completely_replaced_mix_goes_on_at_the_same_position(tracks, current, following):
    listener = playing(1, 2, 3)
    listener.mix = mix_of(*tracks)
    assert at(listener.next()) == following
    listener = playing(1, 2, 3)
    listener.mix = mix_of(*tracks)
    assert at(listener.play()) == current


def test_an_ended_mix_stays_ended_when_tracks_are_added_or_replaced():
    listener = playing(1, 2)
    listener.next()
    listener.mix = mix_of(1, 2, 3)
    assert at(listener.next()) == "end"
    listener.mix = mix_of(7, 8)
    assert at(listener.next()) == "end"
    assert at(listener.play()) == 7


def test_a_mix_that_was_emptied_and_filled_again_keeps_the_listener_s_place():
    listener = playing(1, 2)
    listener.mix = mix_of()
    assert shape(listener.play()) == END
    assert shape(listener.next(2)) == END
    listener.report(2)
    listener.mix = mix_of(1, 2, 3)
    assert at(listener.play()) == 2


# -- what is stored -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "body", [b'{"played":[1,2],"mood":{"a":[1]}}', b'{"played":[1,2],"favourite":null,"skips":[]}']
)
def test_unknown_fields_of_a_later_version_are_ignored(body):
    place = play(EIGHT, stored(body), NOW, RULES).answer
    assert at(place) == 2


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"null",
        b"[]",
        b'{"played":7}',
        b'{"played":["1"]}',
        b'{"at_end":1}',
        b'{"skips":[null]}',
        b"\xff\xfe",
        b'{"played":["\xff"]}',
        b'{"x":' * 100_000,
    ],
)
def test_a_body_that_is_no_place_of_the_player_is_an_unreadable_state(body):
    for command in (
        lambda s: play(EIGHT, s, NOW, RULES),
        lambda s: next_track(EIGHT, s, NOW, RULES),
        lambda s: skip(EIGHT, s, NOW, RULES, 1),
        lambda s: report(EIGHT, s, 1),
        lambda s: tracks_played(EIGHT, s),
    ):
        with pytest.raises(UnreadableState):
            command(stored(body))


def test_a_state_of_the_states_api_is_refused_by_the_player():
    foreign = stored(b'{"played":[1]}', Owner.STATES_API)
    for command in (
        lambda: play(EIGHT, foreign, NOW, RULES),
        lambda: next_track(EIGHT, foreign, NOW, RULES),
        lambda: skip(EIGHT, foreign, NOW, RULES),
        lambda: report(EIGHT, foreign, 1),
        lambda: tracks_played(EIGHT, foreign),
    ):
        with pytest.raises(WrongOwner):
            command()


def test_a_body_is_compact_json_without_defaults():
    listener = Listener()
    listener.play()
    assert listener.stored.body == b'{"played":[1]}'
