"""The verdict: its reasons, their order, and that it does not flap."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import pymysql.err
import pytest
from hypothesis import given
from hypothesis import strategies as st

from failover.mysql.commit_stalls import Commits, Stall, waits_for
from failover.mysql.errors import Fault, MySQLError, classify
from sharding.health_verdict import (
    ORDER,
    DelayedReasons,
    Facts,
    Kind,
    Reason,
    Traffic,
    reasons,
    verdict_of,
)

WELL = Facts(redundant=True, redundancy="a standby acknowledges commits")


def causes(facts: Facts) -> list[Kind]:
    return verdict_of(reasons(facts)).causes


def test_without_a_reason_the_verdict_is_ready() -> None:
    assert verdict_of(reasons(WELL)).status == "ready"


AMISS: list[tuple[Facts, Kind, str]] = [
    (replace(WELL, draining="the process is stopping"), "draining", "draining"),
    (replace(WELL, doubt="MySQL's clock is not trusted"), "clock", "unavailable"),
    (replace(WELL, blocked="another table"), "foreign_today", "unavailable"),
    (replace(WELL, adopted=False, denied=True), "login", "unavailable"),
    (replace(WELL, adopted=False), "primary", "unavailable"),
    (replace(WELL, adopted=False, lost_for=9, deadline=5), "primary", "unavailable"),
    (replace(WELL, adopted=False, lost_for=2, deadline=5), "failover", "degraded"),
    (replace(WELL, stall=Stall(4, "disk", "its disk is full")), "disk", "unavailable"),
    (
        replace(WELL, stall=Stall(4, "standby", "it waits"), redundant=False),
        "standby",
        "unavailable",
    ),
    (replace(WELL, stall=Stall(4, "lock", "it waits")), "lock", "unavailable"),
    (replace(WELL, full="1114 table full"), "disk", "degraded"),
    (replace(WELL, busy="1040 too many connections"), "connections", "degraded"),
    (replace(WELL, starved="it missed 90% of the last 3 s"), "starved", "degraded"),
    (replace(WELL, traffic=[Traffic("play", 10, 100, 5, 0)]), "errors", "degraded"),
    (replace(WELL, traffic=[Traffic("play", 10, 100, 0, 6)]), "slow", "degraded"),
    (replace(WELL, redundant=False, redundancy="no standby"), "redundancy", "degraded"),
    (replace(WELL, out=[("lookup1", "timeout")]), "nodes", "degraded"),
    (replace(WELL, capacity=["lookup1 evicts"]), "capacity", "degraded"),
    (replace(WELL, ahead=-2.5), "skew", "degraded"),
    (replace(WELL, others_ahead={"the gateway b": 3.0}), "skew", "degraded"),
    (replace(WELL, drift=["the gateway b has another configuration"]), "drift", "degraded"),
    (replace(WELL, jobs=["", "the background work fails"]), "job", "degraded"),
    (replace(WELL, redundant=None, redundancy="may not see"), "unknown", "degraded"),
    (replace(WELL, unknown=["whether changes commit is not known"]), "unknown", "degraded"),
]


@pytest.mark.parametrize(("facts", "kind", "status"), AMISS, ids=lambda value: str(value)[:12])
def test_each_fact_gives_its_own_reason_and_no_other(facts: Facts, kind: Kind, status: str) -> None:
    verdict = verdict_of(reasons(facts))
    assert (verdict.causes, verdict.status) == ([kind], status)
    assert verdict.reasons[0]


def test_a_few_failures_or_slow_answers_are_no_reason() -> None:
    assert causes(replace(WELL, traffic=[Traffic("play", 30, 4, 4, 4)])) == []
    assert causes(replace(WELL, traffic=[Traffic("play", 30, 10_000, 10, 90)])) == []


def test_failures_of_one_class_of_requests_are_a_reason_even_if_others_are_served() -> None:
    served, failing = Traffic("start", 30, 1000, 0, 0), Traffic("play", 30, 1000, 15, 0)
    assert causes(replace(WELL, traffic=[served, failing])) == ["errors"]
    [reason] = reasons(replace(WELL, traffic=[failing]))
    assert "fail: 1.5% in 30 s, and 0.1% of them may" in reason.text


def test_a_starved_gateway_reports_only_that_it_is_starved() -> None:
    late = replace(
        WELL,
        starved="it missed 90% of the last 3 s",
        traffic=[Traffic("play", 30, 100, 0, 90)],
        ahead=5.0,
        stall=Stall(4, "commits", "it does not say what it waits for"),
    )
    assert causes(late) == ["starved"]


@given(st.lists(st.sampled_from([facts for facts, _, _ in AMISS]), min_size=1, max_size=4))
def test_the_gravest_reasons_come_first(several: list[Facts]) -> None:
    said = [reason for facts in several for reason in reasons(facts)]
    places = [ORDER.index(reason.kind) for facts in several for reason in reasons(facts)]
    assert len(said) == len(places)
    kept = DelayedReasons().take(said, 0.0)
    assert [ORDER.index(r.kind) for r in kept] == sorted(ORDER.index(r.kind) for r in kept)


@given(st.lists(st.booleans(), min_size=1, max_size=40))
def test_a_reason_does_not_flap(samples: list[bool]) -> None:
    """A skew that changes each second changes the verdict at most once in three seconds."""
    delayed, shown, changes = DelayedReasons(), False, []
    for second, there in enumerate(samples):
        now = bool(delayed.take([Reason("skew", "clocks differ")] if there else [], float(second)))
        if now != shown:
            shown = now
            changes.append(second)
    assert all(later - earlier >= 3 for earlier, later in pairwise(changes))


def test_a_reason_lasts_some_seconds_and_shows_its_newest_text() -> None:
    delayed = DelayedReasons()
    delayed.take([Reason("slow", "requests are slow: 2 %")], 0.0)
    (said,) = delayed.take([Reason("slow", "requests are slow: 9 %")], 1.0)
    assert said.text == "requests are slow: 9 %"
    assert delayed.take([], 4.0)
    assert not delayed.take([], 7.0)


def test_each_reason_has_the_age_since_it_began() -> None:
    delayed, skew = DelayedReasons(), Reason("nodes", "lookup node a is out of the ring: timeout")
    delayed.take([skew], 10.0)
    (said,) = delayed.take([skew], 14.0)
    assert said.age == 4
    # A reason that is known to have begun earlier has that age.
    lost = reasons(replace(WELL, adopted=False, lost_for=60.0, deadline=10.0, problem="gone"))
    verdict = verdict_of(DelayedReasons().take(lost, 0.0))
    assert (verdict.causes, verdict.ages) == (["primary"], [60])


def test_two_classes_that_fail_are_two_reasons() -> None:
    failing = [Traffic(name, 30, 100, 50, 50) for name in ("play", "browse")]
    said = DelayedReasons().take(reasons(replace(WELL, traffic=failing)), 0.0)
    assert [reason.kind for reason in said] == ["errors", "errors", "slow", "slow"]


# --- whether changes commit


@pytest.mark.parametrize(
    ("states", "error", "cause"),
    [
        (["Waiting for someone to free space"], None, "disk"),
        (["Waiting for semi-sync ACK from slave"], None, "standby"),
        (["Waiting for semi-sync ACK from replica"], None, "standby"),
        (["Waiting for backup lock"], None, "lock"),
        (["Waiting for table metadata lock"], None, "lock"),
        ([], (1205, "Lock wait timeout exceeded"), "lock"),
        ([], (1114, "The table is full"), "disk"),
        ([], (1021, "Disk full"), "disk"),
        ([], (3675, "Create table failed, as disk is full"), "disk"),
        ([], (1030, 'Got error 28 "No space left on device" from storage engine InnoDB'), "disk"),
        ([], (1026, "Error writing file './binlog.000001' (errno: 28)"), "disk"),
        ([], (1040, "Too many connections"), "connections"),
        ([], (1226, "User has exceeded max_user_connections"), "connections"),
        (["waiting for handler commit"], None, "commits"),
    ],
)
def test_what_mysql_waits_for_is_read_from_its_states_and_errors(
    states: list[str], error: tuple[int, str] | None, cause: str
) -> None:
    met = classify(pymysql.err.OperationalError(*error)) if error else None
    assert waits_for(states, met)[0] == cause


def test_a_commit_that_waits_for_a_group_is_told_as_one_that_waits() -> None:
    states = ["init", "waiting for handler commit"]
    assert "waits for its group or its disk" in waits_for(states)[1]


def test_changes_have_stopped_after_three_seconds_without_a_commit() -> None:
    commits = Commits()
    commits.begin(0.0)
    assert commits.stall(10.0) is None, "without heartbeats a missing commit means nothing"
    commits.watched = True
    commits.committed(10.0)
    assert commits.stall(12.9) is None
    commits.cause = waits_for(["Waiting for semi-sync ACK from slave"])
    stall = commits.stall(13.0)
    assert stall is not None
    assert (stall.seconds, stall.cause) == (3.0, "standby")
    commits.committed(14.0, heartbeat=True)
    assert commits.stall(14.0) is None


def test_a_heartbeat_that_succeeds_does_not_hide_that_saves_fail_on_a_full_disk() -> None:
    commits, full = Commits(), MySQLError(Fault.FULL, 1114, "The table is full")
    commits.begin(0.0)
    commits.watched = True
    for second in range(1, 6):
        commits.failed(float(second), full)
        commits.committed(float(second), heartbeat=True)
    stall = commits.stall(5.0)
    assert stall is not None
    assert stall.cause == "disk"
    commits.committed(5.5)
    assert commits.stall(5.6) is None
    assert commits.recent(Fault.FULL, 5.6) is None
