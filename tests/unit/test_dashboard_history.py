"""The dashboard's history: events with their begin and end, rates, within limits of size."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import pytest
from prometheus_client.core import Metric

from failover.mysql.shown import MySQL
from gateway.admin_answers import Snapshot
from gateway.api.endpoints import CLASSES
from gateway.dashboard.history import KEEP, MOST_EVENTS, STEP, Held, History, Standing
from gateway.dashboard.numbers import Window, point, read, worker_numbers
from gateway.dashboard.runbooks import PAGES, runbook
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


def snapshot(
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


def learnt(*snapshots: Snapshot) -> History:
    history = History()
    for one in snapshots:
        history.add(one)
    return history


def test_an_event_lasts_until_the_first_snapshot_without_its_reason() -> None:
    history = learnt(
        snapshot(0),
        snapshot(10, reasons=[out("b", 3)]),
        snapshot(11, reasons=[out("b", 4, "refused")]),
    )
    (event,) = history.events
    assert (event.kind, event.level, event.at, event.until) == ("nodes", "warn", START + 7, None)
    assert "Lookup node b" in event.text
    history.add(snapshot(15))
    (event,) = history.events
    assert event.until == START + 15


def test_events_are_in_the_order_of_their_times_even_if_a_reason_is_seen_late() -> None:
    history = learnt(
        snapshot(0, ring=ring(1)),
        snapshot(10, ring=ring(2)),
        snapshot(12, ring=ring(2), reasons=[out("b", 5)]),
    )
    assert [(e.kind, e.at - START) for e in history.events] == [("nodes", 7), ("ring", 10)]


def test_every_cause_of_a_verdict_is_an_event_and_one_that_stops_requests_is_bad() -> None:
    said = [Reason(kind, f"{kind}: why", stops=kind == "disk") for kind in ORDER]
    history = learnt(snapshot(0), snapshot(STEP, status="unavailable", reasons=said))
    assert [event.kind for event in history.events] == list(ORDER)
    assert [event.kind for event in history.events if event.level == "bad"] == ["disk"]


def test_a_node_that_was_ejected_and_returned_between_two_snapshots_is_an_event() -> None:
    def of(count: float) -> Metric:
        return counter("tapedeck_lookup_node_ejections", count, node="a")

    (event,) = learnt(snapshot(0, of(0)), snapshot(5, of(1))).events
    assert (event.kind, event.level) == ("nodes", "warn")
    assert event.until == event.at == START + 5


def test_an_ejection_that_was_seen_is_one_event() -> None:
    def of(count: float) -> Metric:
        return counter("tapedeck_lookup_node_ejections", count, node="a")

    history = learnt(snapshot(0, of(0)), snapshot(6, of(1), reasons=[out("a", 0.5)]))
    assert len(history.events) == 1


def test_a_changed_ring_and_a_new_primary_are_notes() -> None:
    other = a_pair("db2:3306")
    history = learnt(
        snapshot(0, ring=ring(1), mysql=a_pair("db1:3306")),
        snapshot(1, ring=ring(2), mysql=a_pair(None)),
        snapshot(2, ring=ring(2), mysql=other),
        snapshot(3, ring=None, mysql=other),
    )
    assert [(e.kind, e.level) for e in history.events] == [("ring", "note"), ("promoted", "note")]
    assert "db2:3306" in history.events[1].text


def test_a_gateway_that_has_just_started_reports_no_lost_primary() -> None:
    never = [Reason("primary", "no MySQL primary: not contacted yet", stops=True)]
    assert not learnt(snapshot(0, reasons=never), snapshot(1)).events
    assert learnt(snapshot(0, reasons=never), snapshot(STEP, reasons=never)).events


def test_a_status_has_the_time_of_its_verdict_and_each_reason_names_its_runbook() -> None:
    history = learnt(
        snapshot(0),
        snapshot(5, reasons=[out("b", 3)]),
        snapshot(9, reasons=[out("b", 7, "refused")]),
    )
    why = "lookup node b is out of the ring: refused"
    held = [Held(why, "nodes", START + 2, "TapedeckLookupNodeOut.md")]
    assert history.standing == Standing("degraded", START + 2, held)


def test_a_better_status_counts_from_when_it_became_better() -> None:
    lost = Reason("primary", "no MySQL primary: gone", stops=True, age=60)
    history = learnt(
        snapshot(0),
        snapshot(70, status="unavailable", reasons=[lost, out("b", 65)]),
        snapshot(75, reasons=[out("b", 70)]),
    )
    assert (history.standing.since or 0) >= START + 70


def test_each_cause_has_a_runbook_that_is_served() -> None:
    for kind in ORDER:
        assert PAGES.part(runbook(kind)).status == 200


@pytest.mark.parametrize(
    ("result", "words"), [("applied", "was reloaded"), ("refused", "nothing changed")]
)
def test_a_reload_is_an_event_with_its_result(result: str, words: str) -> None:
    def of(count: float) -> Metric:
        return counter("tapedeck_reloads", count, result=result)

    (event,) = learnt(snapshot(0, of(0)), snapshot(1, of(1)), snapshot(2, of(1))).events
    assert event.kind == "reload"
    assert words in event.text


def test_an_hour_is_kept_and_not_more_in_less_than_a_mebibyte() -> None:
    history = History()
    routes = list(CLASSES)[:8]
    for second in range(0, 2 * KEEP, 5):
        # A node flaps for all of the time, and every kind of request fails.
        families = [requests(second, route, status) for route in routes for status in STATUSES]
        flaps = [out("a", 1)] if second % 10 else []
        history.add(snapshot(second, *families, reasons=flaps))
    last, points = history.points_after(0)
    assert len(points) == KEEP / STEP
    assert last >= START + 2 * KEEP - 2 * STEP
    assert msgspec.json.decode(points[0])["at"] >= START + KEEP - 2 * STEP
    assert sum(len(bytes(point)) for point in points) < 1 << 20
    assert len(history.events) <= MOST_EVENTS
    assert all(e.until is None or e.until > START + KEEP - STEP for e in history.events)


def test_a_snapshot_every_second_does_not_make_more_points() -> None:
    history = History()
    for second in range(61):
        history.add(snapshot(second, requests(second * 10)))
    _, points = history.points_after(0)
    assert len(points) == 12
    assert {msgspec.json.decode(p)["requests"]["player"] for p in points} == {10.0}
    last, newest = history.points_after(START + 55)
    assert (last, len(newest)) == (START + 60, 1)


def test_a_restarted_worker_counts_from_zero() -> None:
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
        # A refused skip and a failed condition are no errors.
        ("/sets/{play_token}/skip", "403", None),
        ("/states/{user_id}/{playlist_id}", "412", None),
        # Answers of the admin port are not counted.
        ("/readyz", "503", None),
    ],
)
def test_errors_are_counted_by_kind(route: str, status: str, kind: str | None) -> None:
    old, new = (read(at, [requests(at, route, status)]) for at in (0, 10))
    assert point(Window(old, new)).errors == ({} if kind is None else {kind: 1.0})


def test_percentiles_count_all_workers_requests_since_the_snapshot_before() -> None:
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
