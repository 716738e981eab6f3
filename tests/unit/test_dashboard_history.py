"""What the dashboard remembers: faults with their lengths, rates, and never more than it may."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest
from prometheus_client.core import Metric

from gateway.dashboard.history import KEEP, MOST_EVENTS, STEP, History
from gateway.dashboard.numbers import Window, point, read, worker_numbers
from gateway.insight import Snapshot
from gateway.telemetry import merge

START = 1_800_000_000.0
PAIR = {
    "primary": "db1:3306",
    "generation": 1,
    "redundant": True,
    "redundancy": None,
    "split": False,
    "lost_for": None,
    "problem": None,
    "waiting": 0,
    "hosts": [],
}


def counter(name: str, value: float, **labels: str) -> Metric:
    family = Metric(name, "", "counter")
    family.add_sample(f"{name}_total", labels, value)
    return family


def requests(count: float, route: str = "/mixes/{id}", status: str = "200", **more: str) -> Metric:
    labels = {"route": route, "method": "GET", "status": status, **more}
    return counter("tapedeck_http_requests", count, **labels)


def iso(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat()


def ring(generation: int = 1, **states: str) -> dict[str, Any]:
    """`ring(lookup1="live")`; anything but `live` is when it was ejected, in seconds."""
    nodes = []
    for name, state in states.items():
        live = state == "live"
        nodes.append(
            {
                "name": name,
                "state": "live" if live else "ejected",
                "since": iso(START) if live else iso(float(state)),
                "reason": None if live else "timeout",
            }
        )
    return {"generation": generation, "nodes": nodes}


def look(
    at: float,
    *families: Metric,
    status: str = "ready",
    reasons: tuple[str, ...] = (),
    ring: dict[str, Any] | None = None,
    mysql: dict[str, Any] | None = None,
) -> Snapshot:
    return Snapshot(START + at, status, reasons, ring, mysql, families)


def learnt(*looks: Snapshot) -> History:
    history = History()
    for one in looks:
        history.learn(one)
    return history


def test_an_ejection_lasts_from_when_the_node_left_to_when_it_was_seen_back() -> None:
    history = learnt(
        look(0, ring=ring(a="live", b="live")),
        look(5, ring=ring(a="live", b=str(START + 3))),
        look(6, ring=ring(a="live", b=str(START + 3))),
    )
    (event,) = history.events
    assert (event.kind, event.part, event.at, event.until) == ("ejected", "b", START + 3, None)
    assert "timeout" in event.text
    back = ring(a="live", b="live")
    back["nodes"][1]["since"] = iso(START + 9)
    history.learn(look(10, ring=back))
    (event,) = history.events
    assert event.until == START + 9


def test_a_node_that_left_and_came_back_between_two_looks_is_told_all_the_same() -> None:
    def of(count: float) -> Metric:
        return counter("tapedeck_lookup_node_ejections", count, node="a")

    history = learnt(look(0, of(0), ring=ring(a="live")), look(5, of(1), ring=ring(a="live")))
    (event,) = history.events
    assert event.kind == "ejected"
    assert event.until == event.at == START + 5


def test_an_ejection_that_was_seen_is_not_told_twice() -> None:
    def of(count: float) -> Metric:
        return counter("tapedeck_lookup_node_ejections", count, node="a")

    history = learnt(
        look(0, of(0), ring=ring(a="live")), look(1, of(1), ring=ring(a=str(START + 0.5)))
    )
    assert len(history.events) == 1


def test_a_node_that_a_reload_removed_is_out_no_longer() -> None:
    history = learnt(
        look(0, ring=ring(a="live", b=str(START - 1))), look(1, ring=ring(2, a="live"))
    )
    assert [(e.kind, e.until is None) for e in history.events] == [
        ("ejected", False),
        ("ring", False),
    ]


def test_a_failover_is_a_time_without_a_primary_and_then_another_one() -> None:
    down = {**PAIR, "primary": None, "problem": "gone", "lost_for": 0.5}
    other = {**PAIR, "primary": "db2:3306", "redundant": False, "redundancy": "no standby"}
    history = learnt(
        look(0, mysql=PAIR), look(1, mysql=down), look(2, mysql=down), look(3, mysql=other)
    )
    events = {event.kind: event for event in history.events}
    assert (events["mysql_down"].at, events["mysql_down"].until) == (START + 0.5, START + 3)
    assert "db2:3306" in events["failover"].text
    assert events["not_redundant"].until is None
    history.learn(look(9, mysql={**other, "redundant": True}))
    assert events["not_redundant"].until == START + 9


def test_a_gateway_that_has_just_begun_has_lost_nothing() -> None:
    never = {**PAIR, "primary": None, "problem": "not contacted yet"}
    assert not learnt(look(0, mysql=never), look(1, mysql=PAIR)).events
    assert learnt(look(0, mysql=never), look(STEP, mysql=never)).events


def test_since_when_is_kept_while_the_words_of_a_reason_change() -> None:
    first = "lookup node b is out of the ring: timeout"
    then = "lookup node b is out of the ring: refused"
    history = learnt(
        look(0, ring=ring(a="live", b="live")),
        look(5, status="degraded", reasons=(first,), ring=ring(a="live", b=str(START + 2))),
        look(9, status="degraded", reasons=(then,), ring=ring(a="live", b=str(START + 2))),
    )
    assert history.status == {
        "status": "degraded",
        "since": START + 2,
        "reasons": [{"text": then, "since": START + 2}],
    }


def test_no_primary_is_told_since_it_was_lost_whatever_it_is_called() -> None:
    down = {**PAIR, "primary": None, "problem": "gone", "lost_for": 0.5}
    history = learnt(
        look(0, mysql=PAIR),
        look(1, mysql=down, status="degraded", reasons=("MySQL fails over: gone",)),
        look(9, mysql=down, status="unavailable", reasons=("no MySQL primary: gone",)),
    )
    # The requests fail since the deadline; the primary is gone for longer.
    assert history.status["since"] == START + 9
    assert history.status["reasons"][0]["since"] == START + 0.5


@pytest.mark.parametrize(
    ("result", "words"), [("applied", "was reloaded"), ("refused", "nothing changed")]
)
def test_a_reload_is_told_with_what_became_of_it(result: str, words: str) -> None:
    def of(count: float) -> Metric:
        return counter("tapedeck_reloads", count, result=result)

    (event,) = learnt(look(0, of(0)), look(1, of(1)), look(2, of(1))).events
    assert event.kind == "reload"
    assert words in event.text


def test_a_quarter_of_an_hour_is_kept_and_no_more() -> None:
    history = History()
    for second in range(0, 3 * KEEP, 5):
        # A node that flaps for all of it.
        state = "live" if second % 10 else str(START + second)
        history.learn(look(second, requests(second), ring=ring(a=state)))
    assert len(history.points) == KEEP / STEP
    assert history.points[0]["at"] >= START + 2 * KEEP - 2 * STEP
    assert len(history.events) <= MOST_EVENTS
    assert all(e.until is None or e.until > START + 2 * KEEP - STEP for e in history.events)


def test_looking_every_second_does_not_make_more_points() -> None:
    history = History()
    for second in range(61):
        history.learn(look(second, requests(second * 10)))
    assert len(history.points) == 12
    assert {p["requests"]["player"] for p in history.points} == {10.0}
    assert history.points_after(START + 50)[0]["at"] == START + 55


def test_a_worker_that_began_anew_counts_from_nothing() -> None:
    old = read(0, [requests(1000, worker="1"), requests(500, worker="2")])
    new = read(10, [requests(1100, worker="1"), requests(50, worker="2")])
    assert point(Window(old, new))["requests"] == {"player": 15.0}
    assert worker_numbers(Window(old, new), "2")["requests"] == 5.0


@pytest.mark.parametrize(
    ("route", "status", "kind"),
    [
        ("/mixes/{id}", "500", "failed"),
        ("/mixes/{id}", "503", "unavailable"),
        ("/states/{user_id}/{playlist_id}", "429", "limited"),
        ("/mixes/{id}", "400", "refused"),
        ("unknown", "404", "refused"),
        # What the licence forbids, and what a states service asked and was told, is no error.
        ("/sets/{play_token}/skip", "403", None),
        ("/states/{user_id}/{playlist_id}", "412", None),
        # The admin port's own answers are nobody's errors.
        ("/readyz", "503", None),
    ],
)
def test_errors_are_told_apart_by_what_is_to_be_done(
    route: str, status: str, kind: str | None
) -> None:
    old, new = (read(at, [requests(at, route, status)]) for at in (0, 10))
    assert point(Window(old, new))["errors"] == ({} if kind is None else {kind: 1.0})


def test_percentiles_come_from_what_happened_since_and_from_all_workers() -> None:
    def buckets(fast: float, slow: float) -> str:
        name = "tapedeck_http_request_seconds"
        lines = [f"# TYPE {name} histogram"]
        for bound, count in (("0.01", fast), ("1.0", fast + slow), ("+Inf", fast + slow)):
            lines.append(f'{name}_bucket{{route="/mixes/{{id}}",le="{bound}"}} {count}')
        return "\n".join(lines) + "\n"

    before = read(0, merge({"1": buckets(0, 1000), "2": buckets(0, 1000)}))
    after = read(5, merge({"1": buckets(100, 1000), "2": buckets(98, 1002)}))
    half, _, most = point(Window(before, after))["latency"]
    assert half == pytest.approx(5.05, abs=0.1)
    assert most == pytest.approx(10, abs=0.2)
