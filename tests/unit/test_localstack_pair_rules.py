"""When the local stack's pair fails over, and when commits stop waiting for the standby."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stack.pair_rules import (
    ALONE_AFTER,
    FROZEN_AFTER,
    HUNG_AFTER,
    NEAR,
    Action,
    Host,
    Situation,
    decide,
)

WELL = Situation()
DEAD = Host(running=False, silent=1)
FROZEN = Host(stopped=True, silent=FROZEN_AFTER)
UNWANTED = Host(running=False, wanted=False)

hosts = st.builds(
    Host,
    running=st.booleans(),
    stopped=st.booleans(),
    silent=st.floats(0, 20),
    wanted=st.booleans(),
)
situations = st.builds(
    Situation,
    primary=hosts,
    standby=hosts,
    redundant=st.booleans(),
    waits=st.booleans(),
    following=st.booleans(),
    hopeless=st.booleans(),
    linking=st.booleans(),
    behind=st.integers(0, 2 * NEAR),
    unlinked=st.floats(0, 20),
)


def test_nothing_is_done_while_both_hosts_are_well() -> None:
    assert decide(WELL) == []


@pytest.mark.parametrize("lost", [DEAD, FROZEN, Host(silent=HUNG_AFTER)])
def test_a_lost_primary_is_replaced_by_a_standby_that_has_every_change(lost: Host) -> None:
    assert decide(replace(WELL, primary=lost)) == [Action.PROMOTE]


def test_a_slow_primary_is_not_lost() -> None:
    slow = replace(WELL, primary=Host(silent=HUNG_AFTER - 0.1))
    assert decide(slow) == []


def test_a_standby_whose_link_broke_just_before_is_still_promoted() -> None:
    # Since then commits waited for the standby, so it has every acknowledged one.
    assert decide(replace(WELL, primary=DEAD, following=False, unlinked=3)) == [Action.PROMOTE]


def test_a_primary_lost_before_the_pair_is_redundant_is_not_replaced() -> None:
    assert decide(replace(WELL, primary=DEAD, redundant=False)) == [Action.REFUSE]


def test_if_both_are_lost_at_once_none_is_promoted_and_the_standby_is_started() -> None:
    assert decide(replace(WELL, primary=DEAD, standby=DEAD)) == [
        Action.NOT_REDUNDANT,
        Action.REFUSE,
        Action.RESTART_STANDBY,
    ]


@pytest.mark.parametrize("lost", [DEAD, FROZEN])
def test_a_lost_standby_is_started_again_and_the_pair_is_not_redundant_meanwhile(
    lost: Host,
) -> None:
    assert decide(replace(WELL, standby=lost, following=False)) == [
        Action.NOT_REDUNDANT,
        Action.RESTART_STANDBY,
    ]


def test_a_standby_that_was_stopped_on_purpose_stays_stopped() -> None:
    assert decide(replace(WELL, standby=UNWANTED, redundant=False, following=False)) == []


def test_commits_stop_waiting_for_a_standby_that_stays_away() -> None:
    away = replace(WELL, standby=UNWANTED, redundant=False, following=False)
    assert decide(replace(away, unlinked=ALONE_AFTER - 0.1)) == []
    assert decide(replace(away, unlinked=ALONE_AFTER)) == [Action.GO_ALONE]


def test_before_commits_stop_waiting_the_pair_is_recorded_as_not_redundant() -> None:
    assert decide(replace(WELL, following=False, unlinked=ALONE_AFTER)) == [
        Action.NOT_REDUNDANT,
        Action.GO_ALONE,
    ]


def test_a_standby_that_is_linked_anew_may_lack_what_it_had_received() -> None:
    stopped = replace(WELL, following=False, linking=False)
    assert decide(stopped) == [Action.NOT_REDUNDANT, Action.LINK]


def test_a_returned_standby_is_linked_then_waited_for_then_counted_as_redundant() -> None:
    back = replace(WELL, redundant=False, waits=False, following=False, linking=False)
    assert decide(back) == [Action.LINK]
    assert decide(replace(back, linking=True)) == []
    linked = replace(back, linking=True, following=True)
    assert decide(replace(linked, behind=NEAR + 1)) == []
    assert decide(replace(linked, behind=NEAR)) == [Action.WAIT_FOR_STANDBY]
    waited_for = replace(linked, waits=True)
    assert decide(replace(waited_for, behind=1)) == []
    assert decide(replace(waited_for, behind=0)) == [Action.REDUNDANT]


def test_a_standby_that_can_never_follow_gets_a_new_copy() -> None:
    assert decide(replace(WELL, redundant=False, following=False, hopeless=True)) == [Action.COPY]


@given(situations)
def test_a_standby_is_promoted_only_if_the_pair_was_redundant_and_the_primary_is_lost(
    seen: Situation,
) -> None:
    if Action.PROMOTE in decide(seen):
        assert seen.redundant
        assert seen.primary.lost
        assert not seen.standby.lost


@given(situations)
def test_the_pair_counts_as_redundant_only_while_commits_wait_for_a_standby_that_has_all(
    seen: Situation,
) -> None:
    actions = decide(seen)
    if Action.REDUNDANT in actions:
        assert seen.waits
        assert seen.following
        assert seen.behind == 0
    if Action.GO_ALONE in actions and seen.redundant:
        assert actions.index(Action.NOT_REDUNDANT) < actions.index(Action.GO_ALONE)
    if Action.RESTART_STANDBY in actions and seen.redundant:
        assert actions.index(Action.NOT_REDUNDANT) < actions.index(Action.RESTART_STANDBY)
