"""A benchmark's report: verdicts, tables, pages, and the comparison of runs."""

from __future__ import annotations

import random
from datetime import date
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from bench import catalog, report, runs, targets, workloads
from bench.tables import tables
from bench.targets import Target
from config.model import Player as Rules
from gateway.player import rules
from sharding.state import Owner, Stored, Write


def _run(peer: str, number: int, rate: float, **fields: Any) -> dict[str, Any]:
    costs = {f"cpu_{part}_us": 10.0 for part in ("gateway", "mysql", "redis", "twemproxy")}
    made = {
        "experiment": "throughput",
        "workload": "warm",
        "peer": peer,
        "round": number,
        "rate": rate,
        "p50": 1.0,
        "p99": 2.0,
        "errors": 0,
        "lost": 0,
        "redis_commands": 0.0,
    }
    return made | costs | fields


def _target(**fields: Any) -> Target:
    wanted: dict[str, Any] = {
        "title": "t",
        "least": 3,
        "aim": 4,
        "less_is_better": False,
        "unit": "x",
    } | fields
    return Target(
        **wanted, find=targets.ratio("throughput", "rate", "gateway", "go", workload="warm")
    )


@pytest.mark.parametrize(
    ("rate", "words"),
    [(400, "aim reached"), (399, "reached"), (300, "reached"), (270, "missed: 10 % below")],
)
def test_a_verdict_says_how_far_a_figure_is_from_its_target(rate: float, words: str) -> None:
    records = [_run("go", 0, 100), _run("gateway", 0, rate)]
    assert targets.compare(_target(), records).words.startswith(words)


def test_where_less_is_better_a_higher_figure_misses_the_target() -> None:
    records = [_run("go", 0, 100), _run("gateway", 0, 45)]
    found = targets.compare(_target(least=0.3, aim=0.15, less_is_better=True), records)
    assert found.words == "missed: 50 % above the least"


def test_a_target_without_figures_is_reported_as_not_measured() -> None:
    assert targets.compare(_target(), [_run("gateway", 0, 400)]).words == "not measured"
    assert all(v.words == "not measured" for v in targets.verdicts([]))


def test_one_lost_update_of_a_gateway_misses_the_target_and_those_of_a_peer_do_not() -> None:
    records = [_run("gateway", 0, 1), _run("gateway2", 1, 1, lost=1), _run("go", 0, 1, lost=99)]
    *_, lost = targets.verdicts(records)
    assert lost.target.title.startswith("lost updates")
    assert lost.words == "missed: 1 instead of 0"


def test_a_run_is_read_back_as_it_was_written(tmp_path: Path) -> None:
    meta = {
        "date": "d",
        "commit": "c",
        "scale": "tiny",
        "rounds": 1,
        "seconds": 0.5,
        "took_minutes": 1,
        "load_before": 0,
        "machine": {"CPU": "some"},
        "broken_off": "without purge",
    }
    records = [_run("go", 0, 100), _run("gateway", 0, 410)]
    report.write(meta, records, tmp_path)
    assert report.read(tmp_path / report.RESULTS) == (meta, records)
    page = (tmp_path / report.PAGE).read_text()
    assert "4.1x" in page
    assert "**Not a whole run:** without purge" in page
    (tmp_path / "other.json").write_text("[]")
    with pytest.raises(ValueError, match="no results"):
        report.read(tmp_path / "other.json")


def test_the_report_says_that_the_machine_was_busy() -> None:
    quiet = [_run("go", n, 1, foreign_cores=0.02) for n in range(3)]
    assert report.busy(quiet) == ""
    assert report.busy([]) == ""
    busy = [_run("go", n, 1, foreign_cores=0.9) for n in range(4)]
    assert report.busy([*quiet, *busy]).startswith("The machine was busy: others had 0.9")


def test_every_peer_of_a_workload_has_a_row() -> None:
    first = tables([_run("go", 0, 100), _run("gateway", 0, 410), _run("constant", 0, 900)])[0]
    assert [row[0] for row in first.rows] == [
        "plain Go",
        "Tapedeck, 1 worker",
        "aiohttp's server, a constant",
    ]
    assert [row[2] for row in first.rows] == ["1", "4.1", "9"]


@pytest.mark.parametrize("seed", range(50))
def test_every_request_of_a_session_changes_the_state(seed: int) -> None:
    mix = next(m for m in catalog.mixes() if m.id == 1 + seed % len(catalog.MIXES))
    paths = workloads.session("token", mix.id, random.Random(seed))
    assert len(paths) == workloads.SESSION
    stored, allowed = None, Rules()
    for version, path in enumerate(paths, 1):
        action = urlsplit(path).path.rpartition("/")[2]
        query = parse_qs(urlsplit(path).query)
        assert query["mix_id"] == [str(mix.id)]
        decision: Any
        if action == "report":
            decision = rules.report(mix, stored, int(query["track_id"][0]))
        else:
            rule = {"play": rules.play, "next": rules.next_track, "skip": rules.skip}[action]
            decision = rule(mix, stored, 1000.0, allowed)
        assert isinstance(decision, Write), f"{path} changes nothing"
        stored = Stored(decision.body, version, date(2026, 1, 1), Owner.PLAYER)


def test_two_runs_have_no_listener_in_common() -> None:
    one, two = workloads.new_listeners(10), workloads.new_listeners(4_000_000)
    assert not set(one) & set(two)
    with pytest.raises(ValueError, match="listeners in one run"):
        workloads.new_listeners(4_000_001)


def test_the_report_names_figures_that_differ_by_more_than_a_fifth_between_runs() -> None:
    assert "to compare with" in runs.agreement([{"a": 1.0}])
    alike = [{"a": 1.0, "b": 5.0}, {"a": 1.2, "b": 5.0}, {"a": 1.1}]
    assert runs.agreement(alike) == "The medians of 3 whole runs of this commit agree within 20%."
    apart = runs.agreement([*alike, {"a": 1.3, "b": 5.0}])
    assert apart.endswith("agree within 20%, but for: a (1 to 1.3).")


def test_only_runs_of_the_same_commit_and_scale_are_compared(tmp_path: Path) -> None:
    meta = {"commit": "c", "scale": "full", "rounds": 5, "seconds": 5.0, "date": "d"}
    records = [_run("go", 0, 100), _run("gateway", 0, 410)]
    assert runs.earlier(tmp_path, meta) == []
    runs.remember(tmp_path, meta, records)
    runs.remember(tmp_path, {**meta, "commit": "d"}, records)
    (medians,) = runs.earlier(tmp_path, {**meta, "date": "e"})
    assert medians["warm sessions, first request and all, requests/s, against plain Go"] == 4.1


def test_the_page_shows_both_kinds_of_run_and_each_is_published_by_itself(tmp_path: Path) -> None:
    meta = {
        "date": "d",
        "commit": "c",
        "scale": "full",
        "rounds": 1,
        "seconds": 5.0,
        "took_minutes": 1,
        "stages": {"touches": 60},
        "load_before": 0,
        "machine": {"CPU": "some"},
        "broken_off": "",
    }
    size = {"rows": 45_000_000, "partitions": 30, "bytes": 4 << 30, "pool": 400 << 20}
    described = {"experiment": "month", **size}
    report.write(meta, [_run("go", 0, 100), _run("gateway", 0, 410)], tmp_path)
    report.write(
        meta, [described, _run("go", 0, 100), _run("gateway", 0, 790)], tmp_path, month=True
    )
    page = (tmp_path / report.PAGE).read_text()
    assert "45,000,000 states lie in 30 partitions" in page
    assert "buffer pool is a tenth of that, 400 MB" in page
    assert "seconds: touches 60" in page
    assert "4.1x" in page
    assert "7.9x" in page
    published = tmp_path / "published"
    report.publish(tmp_path, published, month=True)
    assert "4.1x" not in (published / report.PAGE).read_text()
    report.publish(tmp_path, published)
    assert (published / report.PAGE).read_text() == page


def test_with_dead_lookup_nodes_the_worst_kind_of_first_request_counts() -> None:
    rates = {("cold", "alive"): 100, ("cold", "dead"): 80}
    rates |= {("miss", "alive"): 100, ("miss", "dead"): 120}
    records = [
        _run("gateway", 0, rate, experiment="lookups_dead", workload=name, lookups=state)
        for (name, state), rate in rates.items()
    ]
    (verdict,) = [v for v in targets.verdicts(records) if "lookup nodes dead" in v.target.title]
    assert verdict.reached is not None
    assert verdict.reached.median == 0.8
