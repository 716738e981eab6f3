"""Metrics as text and as JSON, of one worker and of several."""

from __future__ import annotations

import math

from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from gateway import telemetry


def a_worker(requests: int, seconds: list[float]) -> str:
    registry = CollectorRegistry()
    counter = Counter("things", "Things done", ["kind"], registry=registry)
    counter.labels('a "quoted"\nkind').inc(requests)
    Gauge("level", "How high", registry=registry).set(requests)
    Gauge("process_start_time_seconds", "When", registry=registry).set(1000 + requests)
    Gauge("tapedeck_http_connections", "Open", registry=registry).set(requests)
    Gauge("tapedeck_mysql_generation", "Of the primary", registry=registry).set(5)
    histogram = Histogram("took_seconds", "How long", registry=registry, buckets=(1, 2, 4))
    for value in seconds:
        histogram.observe(value)
    return generate_latest(registry).decode()


def test_the_metrics_of_several_workers_are_one_text_with_each_family_once() -> None:
    merged = telemetry.merge({"1": a_worker(3, [0.5]), "2": a_worker(4, [3])})
    text = telemetry.exposition(merged).decode()
    for family in ("things_total", "level", "took_seconds"):
        assert text.count(f"# TYPE {family} ") == 1
        assert text.count(f"# HELP {family} ") == 1
    assert 'things_total{kind="a \\"quoted\\"\\nkind",worker="1"} 3.0' in text
    assert 'level{worker="2"} 4.0' in text
    again = list(text_string_to_metric_families(text))
    assert {f.name: len(f.samples) for f in again} == {f.name: len(f.samples) for f in merged}


def test_what_several_workers_count_or_have_for_themselves_is_added_in_json() -> None:
    merged = telemetry.merge({"1": a_worker(3, [0.5] * 3), "2": a_worker(4, [3])})
    shown = telemetry.stats(merged)
    assert shown["things"] == [{"labels": {"kind": 'a "quoted"\nkind'}, "value": 7}]
    assert shown["tapedeck_http_connections"] == 7
    assert shown["took_seconds"]["count"] == 4
    assert shown["took_seconds"]["sum"] == 4.5
    assert 0 < shown["took_seconds"]["p50"] <= 1
    assert 2 < shown["took_seconds"]["p99"] <= 4


def test_of_a_gauge_that_all_workers_read_of_one_thing_the_highest_counts_in_json() -> None:
    shown = telemetry.stats(telemetry.merge({"1": a_worker(3, []), "2": a_worker(4, [])}))
    assert shown["tapedeck_mysql_generation"] == 5
    assert shown["level"] == 4
    assert shown["process_start_time_seconds"] == 1004


def test_a_clock_that_is_behind_is_not_hidden_by_the_zero_of_a_supervisor_in_json() -> None:
    behind, supervisor = "# TYPE ahead gauge\nahead -5.0\n", "# TYPE ahead gauge\nahead 0.0\n"
    merged = telemetry.merge({"1": behind, "2": behind, "supervisor": supervisor})
    assert telemetry.stats(merged)["ahead"] == -5


def test_requests_are_counted_by_known_methods_only() -> None:
    telemetry.observe("/mixes/{id}", "GET", 200, 0.004)
    telemetry.observe("/mixes/{id}", "BREW", 405, 0.001)
    shown = telemetry.stats(telemetry.families())
    methods = {entry["labels"]["method"] for entry in shown["tapedeck_http_requests"]}
    assert {"GET", "other"} <= methods
    assert "BREW" not in methods
    text = telemetry.exposition(telemetry.families()).decode()
    assert "tapedeck_http_requests_total{" in text
    assert "_created" not in text


@given(st.lists(st.floats(0, 20), min_size=1, max_size=50), st.sampled_from([0.5, 0.95, 0.99]))
def test_an_estimated_quantile_is_in_the_bucket_of_the_real_one(
    values: list[float], q: float
) -> None:
    bounds = [1.0, 2.0, 5.0, 10.0, math.inf]
    buckets = {bound: float(sum(v <= bound for v in values)) for bound in bounds}
    real = sorted(values)[math.ceil(q * len(values)) - 1]
    estimate = telemetry.quantile(buckets, q)
    assert estimate is not None
    if real > 10:
        assert estimate == 10
    else:
        high = next(bound for bound in bounds if real <= bound)
        low = max([0.0, *(b for b in bounds if b < high)])
        assert low <= estimate <= high


def test_without_samples_there_is_no_quantile() -> None:
    assert telemetry.quantile({}, 0.5) is None
    assert telemetry.quantile({1.0: 0, math.inf: 0}, 0.5) is None
