"""A drill's verdict and its report."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from datetime import UTC, datetime
from html.parser import HTMLParser
from pathlib import Path

import pytest

from drills import verdicts
from drills.checker import Breach, Verdict, Wrong
from drills.client import Look
from drills.measure import Met, Try
from drills.report import write
from drills.result import Result
from drills.scenarios import DRILLS
from drills.scene import Mark, Promise


def result(
    name: str = "lookup-killed", breaches: list[Breach] | None = None, during: float = 0.02
) -> Result:
    """A drill of ten seconds; the fault from 4 to 7, the node out at 4.5."""
    tries = []
    for n in range(1000):
        at = n / 100
        took = during if 4 <= at < 7 else 0.01
        tries.append(Try(at, at, at + took, n % 2, "next", Met.OK, last=True))
    looks = [Look(n / 10, 0.002, n % 2, 200, ()) for n in range(100)]
    made = Result(
        scenario=DRILLS[name],
        began=datetime(2026, 1, 1, tzinfo=UTC),
        seed=1,
        rate=100,
        calm=1.0,
        end=10.0,
        injected=4.0,
        healed=7.0,
        over=7.0,
        ejected=4.5,
        tries=tries,
        looks=looks,
        marks=[Mark(4.0, "<b>lookup1</b> is killed & gone")],
        verdict=Verdict(states=5, acknowledged=500, breaches=breaches or []),
        surprises=[],
        log_errors={},
    )
    made.windows = verdicts.windows(made)
    made.recovery = 0.1
    made.findings = verdicts.judge(made, [])
    return made


def broken(made: Result) -> list[str]:
    return [finding.promise for finding in made.findings if not finding.held]


def test_a_drill_without_faults_of_the_system_holds() -> None:
    assert result().held


def test_one_breach_breaks_it() -> None:
    assert not result(breaches=[Breach(Wrong.LOST, "k", "gone")]).held


@pytest.mark.parametrize(("during", "held"), [(0.025, True), (0.050, False), (0.200, False)])
def test_after_ejection_latency_must_be_as_before(during: float, held: bool) -> None:
    assert result(during=during).held is held


def test_until_ejection_the_hints_deadline_is_allowed_and_no_more() -> None:
    assert not any(promise.startswith("until") for promise in broken(result(during=0.055)))
    assert any(promise.startswith("until") for promise in broken(result(during=0.065)))


def test_an_outage_may_cost_as_long_as_it_lasts_and_a_second() -> None:
    assert result("mysql-primary-killed", during=3.9).held
    assert not result("mysql-primary-killed", during=4.1).held


def test_an_error_that_is_not_promised_breaks_it() -> None:
    made = result()
    made.tries.append(Try(5, 5, 5.1, 0, "next", Met.BUSY, last=False))
    assert next(f.held for f in verdicts.judge(made, [])) is False
    allowed = replace(made.scenario, promise=Promise(errors=frozenset({Met.BUSY})))
    made.scenario = allowed
    assert next(f.held for f in verdicts.judge(made, [])) is True


class _Strict(HTMLParser):
    """Every tag that is opened is closed, in order."""

    VOID = frozenset({"meta", "rect", "line", "polyline", "br"})

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: object) -> None:
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in self.VOID:
            assert self.open.pop() == tag


def test_the_page_stands_alone_and_escapes_what_it_shows(tmp_path: Path) -> None:
    page = write(result(breaches=[Breach(Wrong.LOST, "k", "a < b")]), tmp_path / "r").read_text()
    parser = _Strict()
    parser.feed(page)
    assert parser.open == []
    assert not re.search(r"(src|href)=|@import|url\(", page)
    assert "<b>lookup1</b>" not in page
    assert "a &lt; b" in page
    assert "<svg" in page


def test_json_beside_it_says_the_same(tmp_path: Path) -> None:
    made = result()
    write(made, tmp_path)
    read = json.loads((tmp_path / "report.json").read_text())
    assert read["held"] is True
    assert read["met"] == {"ok": 1000}
    assert read["wrong"]["lost"] == 0
    assert read["fault"]["ejected"] == 4.5


def test_the_table_of_drills_has_what_each_needs() -> None:
    for name, scenario in DRILLS.items():
        assert name == scenario.name
        assert re.fullmatch(r"[a-z]+(-[a-z]+)*", name)
        assert scenario.about[0].islower() or scenario.about.startswith(("MySQL", "DNS"))
