"""What the dashboard remembers: faults with their lengths, rates, and never more than it may."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import pytest
from prometheus_client.core import Metric

from failover.mysql.shown import MySQL
from gateway.admin_answers import Snapshot
from gateway.api.endpoints import CLASSES
from gateway.dashboard.guide import page, runbook
from gateway.dashboard.history import KEEP, MOST_EVENTS, STEP, Held, History, Standing
from gateway.dashboard.numbers import Window, point, read, worker_numbers
from gateway.telemetry import merge
from sharding.health_verdict import ORDER, Reason, Status
from sharding.shown import Ring
from tests.support.serving import a_pair

START = 1_800_000_000.0
STATUSES = ("200", "403", "500", "503")


def counter(name: str, value: float, **labels: str) -> Metric:
    family = Metric(name, "", "counter")
    family.add_sample(f"{name}_total", labels, value)
    return family


def requests(count: float, route: str = "/mixes/{id}", status: str = "200", **more: str) -> Metric:
    labels = {"route": route, "method": "GET", "status": status, **more}
    return counter("tapedeck_http_requests", count, **labels)


def ring(generation: int = 1) -> Ring:
    return Ring(generation, [])


def out(node: str, age: float, why: str = "timeout") -> Reason:
    return Reason("nodes", f"lookup node {node} is out of the ring: {why}", age=age)


def look(
    at: float,
    *families: Metric,
    status: Status = "ready",
    reasons: Sequence[Reason] = (),
    ring: Ring | None = None,
    mysql: MySQL | None = None,
) -> Snapshot:
    if reasons and status == "ready":
        status = "degraded"
    return Snapshot(START + at, status, reasons, ring, mysql, families)


def learnt(*looks: Snapshot) -> History:
    history = History()
    for one in looks:
        history.add(one)
    return history


def test_a_fault_lasts_from_its_beginning_to_the_look_that_does_not_find_it() -> None:
    history = learnt(
        look(0),
        look(10, reasons=[out("b", 3)]),
        look(11, reasons=[out("b", 4, "refused")]),
    )
    (event,) = history.events
    assert (event.kind, event.level, event.at, event.until) == ("nodes", "warn", START + 7, None)
    assert "Lookup node b" in event.text
    history.add(look(15))
    (event,) = history.events
    assert event.until == START + 15


def test_events_stand_in_the_order_of_their_times_though_reasons_are_seen_late() -> None:
    history = learnt(
        look(0, ring=ring(1)),
        look(10, ring=ring(2)),
        look(12, ring=ring(2), reasons=[out("b", 5)]),
    )
    assert [(e.kind, e.at - START) for e in history.events] == [("nodes", 7), ("ring", 10)]


def test_every_cause_of_the_verdict_is_told_and_what_stops_requests_is_worse() -> None:
    said = [Reason(kind, f"{kind}: why", stops=kind == "disk") for kind in ORDER]
    history = learnt(look(0), look(STEP, status="unavailable", reasons=said))
    assert [event.kind for event in history.events] == list(ORDER)
    assert [event.kind for event in history.events if event.level == "bad"] == ["disk"]


def test_a_node_that_left_and_came_back_between_two_looks_is_told_all_the_same() -> None:
    def of(count: float) -> Metric:
        return counter("tapedeck_lookup_node_ejections", count, node="a")

    (event,) = learnt(look(0, of(0)), look(5, of(1))).events
    assert (event.kind, event.level) == ("nodes", "warn")
    assert event.until == event.at == START + 5


def test_an_ejection_that_was_seen_is_not_told_twice() -> None:
    def of(count: float) -> Metric:
        return counter("tapedeck_lookup_node_ejections", count, node="a")

    history = learnt(look(0, of(0)), look(6, of(1), reasons=[out("a", 0.5)]))
    assert len(history.events) == 1


def test_a_ring_that_a_reload_changed_and_a_new_primary_are_told_as_notes() -> None:
    other = a_pair("db2:3306")
    history = learnt(
        look(0, ring=ring(1), mysql=a_pair("db1:3306")),
        look(1, ring=ring(2), mysql=a_pair(None)),
        look(2, ring=ring(2), mysql=other),
        look(3, ring=None, mysql=other),
    )
    assert [(e.kind, e.level) for e in history.events] == [("ring", "note"), ("promoted", "note")]
    assert "db2:3306" in history.events[1].text


def test_a_gateway_that_has_just_begun_has_lost_nothing() -> None:
    never = [Reason("primary", "no MySQL primary: not contacted yet", stops=True)]
    assert not learnt(look(0, reasons=never), look(1)).events
    assert learnt(look(0, reasons=never), look(STEP, reasons=never)).events


def test_since_when_is_what_the_verdict_says_and_each_reason_names_its_page() -> None:
    history = learnt(
        look(0),
        look(5, reasons=[out("b", 3)]),
        look(9, reasons=[out("b", 7, "refused")]),
    )
    why = "lookup node b is out of the ring: refused"
    held = [Held(why, "nodes", START + 2, "TapedeckLookupNodeOut.md")]
    assert history.standing == Standing("degraded", START + 2, held)


def test_a_status_that_became_better_holds_from_then_on() -> None:
    lost = Reason("primary", "no MySQL primary: gone", stops=True, age=60)
    history = learnt(
        look(0),
        look(70, status="unavailable", reasons=[lost, out("b", 65)]),
        look(75, reasons=[out("b", 70)]),
    )
    assert (history.standing.since or 0) >= START + 70


def test_each_cause_has_a_page_that_is_there() -> None:
    for kind in ORDER:
        assert page(runbook(kind)).status == 200


@pytest.mark.parametrize(
    ("result", "words"), [("applied", "was reloaded"), ("refused", "nothing changed")]
)
def test_a_reload_is_told_with_what_became_of_it(result: str, words: str) -> None:
    def of(count: float) -> Metric:
        return counter("tapedeck_reloads", count, result=result)

    (event,) = learnt(look(0, of(0)), look(1, of(1)), look(2, of(1))).events
    assert event.kind == "reload"
    assert words in event.text


def test_an_hour_is_kept_and_no_more_and_it_is_small() -> None:
    history = History()
    routes = list(CLASSES)[:8]
    for second in range(0, 2 * KEEP, 5):
        # A node that flaps for all of it, and every kind of request fails.
        families = [requests(second, route, status) for route in routes for status in STATUSES]
        flaps = [out("a", 1)] if second % 10 else []
        history.add(look(second, *families, reasons=flaps))
    last, points = history.points_after(0)
    assert len(points) == KEEP / STEP
    assert last >= START + 2 * KEEP - 2 * STEP
    assert msgspec.json.decode(points[0])["at"] >= START + KEEP - 2 * STEP
    assert sum(len(bytes(point)) for point in points) < 1 << 20
    assert len(history.events) <= MOST_EVENTS
    assert all(e.until is None or e.until > START + KEEP - STEP for e in history.events)


def test_looking_every_second_does_not_make_more_points() -> None:
    history = History()
    for second in range(61):
        history.add(look(second, requests(second * 10)))
    _, points = history.points_after(0)
    assert len(points) == 12
    assert {msgspec.json.decode(p)["requests"]["player"] for p in points} == {10.0}
    last, newest = history.points_after(START + 55)
    assert (last, len(newest)) == (START + 60, 1)


def test_a_worker_that_began_anew_counts_from_nothing() -> None:
    old = read(0, [requests(1000, worker="1"), requests(500, worker="2")])
    new = read(10, [requests(1100, worker="1"), requests(50, worker="2")])
    assert point(Window(old, new)).requests == {"player": 15.0}
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
    assert point(Window(old, new)).errors == ({} if kind is None else {kind: 1.0})


def test_percentiles_come_from_what_happened_since_and_from_all_workers() -> None:
    def buckets(fast: float, slow: float) -> str:
        name = "tapedeck_http_request_seconds"
        lines = [f"# TYPE {name} histogram"]
        for bound, count in (("0.01", fast), ("1.0", fast + slow), ("+Inf", fast + slow)):
            lines.append(f'{name}_bucket{{route="/mixes/{{id}}",le="{bound}"}} {count}')
        return "\n".join(lines) + "\n"

    before = read(0, merge({"1": buckets(0, 1000), "2": buckets(0, 1000)}))
    after = read(5, merge({"1": buckets(100, 1000), "2": buckets(98, 1002)}))
    half, _, most = point(Window(before, after)).latency
    assert half == pytest.approx(5.05, abs=0.1)
    assert most == pytest.approx(10, abs=0.2)
