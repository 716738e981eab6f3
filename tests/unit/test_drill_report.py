"""A drill's verdict and its report."""

from __future__ import annotations

import json
import re
import signal
from dataclasses import replace
from datetime import UTC, datetime
from html import unescape
from html.parser import HTMLParser
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console
from typer.testing import CliRunner

from cli.main import app
from drills import archive, verdicts
from drills.attached import unsuited
from drills.checker import Breach, Verdict, Wrong
from drills.client import OVERLOADED, Readyz
from drills.measure import Met, Try
from drills.noise import Beat
from drills.report import render, write
from drills.result import INTERRUPTED, NOT_STEADY, Result
from drills.scenarios import DRILLS
from drills.scene import Finding, Promise
from drills.steady import parts, served
from drills.story import Mark
from drills.terminal import Progress, show
from gateway.http import application


def result(
    name: str = "lookup-killed", breaches: list[Breach] | None = None, during: float = 0.02
) -> Result:
    """A drill of ten seconds; the fault from 4 to 7, the node out at 4.5."""
    tries = []
    for n in range(1000):
        at = n / 100
        took = during if 4 <= at < 7 else 0.01
        tries.append(Try(at, at, at + took, n % 2, "next", Met.OK, last=True))
    readyz = [Readyz(n / 10, 0.002, n % 2, 200, ()) for n in range(100)]
    made = Result(
        scenario=DRILLS[name],
        command=f"tapedeck drill {name} --short --rate 100 --seed 1",
        began=datetime(2026, 1, 1, tzinfo=UTC),
        seed=1,
        rate=100,
        begin=0.0,
        calm=1.0,
        end=10.0,
        injections=[4.0],
        healed=7.0,
        over=7.0,
        ejected=4.5,
        tries=tries,
        readyz=readyz,
        marks=[Mark(4.0, "<b>lookup1</b> is killed & gone")],
        verdict=Verdict(states=5, acknowledged=500, breaches=breaches or []),
        circumstances={"Python": "3.11.2", "machine": "2 cores, 8.0 GiB of memory"},
    )
    made.windows = verdicts.windows(made)
    verdicts.recover(made)
    made.findings = verdicts.all_findings(made, [])
    return made


def broken(made: Result) -> list[str]:
    return [finding.promise for finding in made.findings if not finding.held]


def test_a_drill_without_a_breach_or_error_holds() -> None:
    assert result().held


def test_a_drill_with_one_breach_does_not_hold() -> None:
    assert not result(breaches=[Breach(Wrong.LOST, "k", "gone")]).held


@pytest.mark.parametrize(("during", "held"), [(0.025, True), (0.050, False), (0.200, False)])
def test_a_drill_does_not_hold_if_requests_are_slower_after_the_ejection(
    during: float, held: bool
) -> None:
    assert result(during=during).held is held


def test_until_the_ejection_requests_may_take_the_hint_s_deadline_and_not_longer() -> None:
    assert not any(promise.startswith("until") for promise in broken(result(during=0.055)))
    assert any(promise.startswith("until") for promise in broken(result(during=0.065)))


def test_during_an_outage_requests_may_take_as_long_as_it_lasts_and_a_second_more() -> None:
    assert result("mysql-primary-killed", during=3.9).held
    assert not result("mysql-primary-killed", during=4.1).held


def test_a_drill_with_an_error_that_it_does_not_promise_does_not_hold() -> None:
    made = result()
    made.tries.append(Try(5, 5, 5.1, 0, "next", Met.BUSY, last=False))
    assert next(f.held for f in verdicts.all_findings(made, [])) is False
    allowed = replace(made.scenario, promise=Promise(errors=frozenset({Met.BUSY})))
    made.scenario = allowed
    assert next(f.held for f in verdicts.all_findings(made, [])) is True


@pytest.mark.parametrize(("stall", "late"), [(0.5, False), (3.0, True)])
def test_errors_while_the_machine_stalled_count_as_late_and_lost_changes_do_not(
    stall: float, late: bool
) -> None:
    for breaches, only_late in (([], late), ([Breach(Wrong.LOST, "k", "gone")], False)):
        made = result(breaches=breaches)
        made.tries.append(Try(5, 5, 5.1, 0, "next", Met.TIMEOUT, last=False))
        made.findings = verdicts.all_findings(made, [Finding("it returns", False, "it does not")])
        made.beats = [Beat(n * 0.051 + stall * (n > 50), 0.001) for n in range(100)]
        verdicts.excuse(made)
        assert not made.held
        assert made.only_late == only_late


def test_a_drill_whose_load_an_overloaded_gateway_refuses_counts_as_late() -> None:
    made = result()
    made.tries += [
        Try(at, at, at + 0.1, 0, "next", Met.SHED, last=False) for at in (5, 7.9, 8.8, 9.5)
    ]
    verdicts.recover(made)
    made.findings = verdicts.all_findings(made, [])
    assert "clients are served as before at the end" in broken(made)
    assert made.only_late
    made.tries.append(Try(5, 5, 5.1, 0, "next", Met.BUSY, last=False))
    made.findings = verdicts.all_findings(made, [])
    assert not made.only_late
    source = Path(application.__file__).read_bytes()
    assert OVERLOADED in source, "the gateway's answer to overload has other words now"


def test_steps_that_the_drill_itself_left_out_are_reported_and_break_no_promise() -> None:
    made = result()
    assert "left out" not in render(made)
    made.dropped = 12
    made.findings = verdicts.all_findings(made, [])
    assert made.held
    assert "the drill itself left out 12 steps, since 3000 were under way at once" in render(made)
    assert made.as_json()["steps_left_out"] == 12


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


def test_the_page_needs_no_other_file_and_escapes_what_it_shows(tmp_path: Path) -> None:
    page = write(result(breaches=[Breach(Wrong.LOST, "k", "a < b")]), tmp_path).read_text()
    parser = _Strict()
    parser.feed(page)
    assert parser.open == []
    assert re.findall(r"(?:src|href)=(\S+?)>", page) == ["'../index.html'"]
    assert not re.search(r"@import|url\(", page)
    assert "<b>lookup1</b>" not in page
    assert "a &lt; b" in page
    assert "<svg" in page


def text_of(page: str) -> str:
    """The visible text of a page, in one line."""
    return " ".join(unescape(re.sub(r"<style>.*?</style>|<[^>]*>", " ", page, flags=re.S)).split())


def test_the_report_in_json_says_the_same_as_the_page(tmp_path: Path) -> None:
    page = write(result(), tmp_path)
    read = json.loads((page.parent / "report.json").read_text())
    assert read["held"] is True
    assert read["outcome"] == "held"
    assert read["met"] == {"ok": 1000}
    assert read["wrong"]["lost"] == 0
    assert read["fault"]["ejected"] == 4.5
    assert read["recovery_seconds"] == 0
    assert read["command"] in text_of(page.read_text())
    assert all(text in text_of(page.read_text()) for text in read["circumstances"].values())


def test_a_report_says_how_long_clients_felt_the_fault_and_when_that_was_over() -> None:
    made = result("mysql-primary-killed")
    made.tries += [Try(at, at, at + 1, 0, "next", Met.OK, last=True) for at in (4.2, 5.1, 5.5)]
    verdicts.recover(made)
    page = text_of(render(made))
    assert "The fault was felt for 1.50 s" in page
    assert "5.50 s from here on clients are served as before" in page


def test_the_report_shows_all_counts_of_zero_in_one_row() -> None:
    page = text_of(render(result()))
    assert len(re.findall(r"changes lost|changes doubled|requests that failed", page)) == 3
    assert "errors in the gateways' logs 0" in page
    assert page.split(" count ")[1].count(" 0 ") == 1, page
    broken = text_of(render(result(breaches=[Breach(Wrong.LOST, "k", "gone")])))
    assert "changes lost 1" in broken


@pytest.mark.parametrize("width", [60, 100])
def test_a_terminal_breaks_lines_only_between_words(width: int, tmp_path: Path) -> None:
    made = result("mysql-primary-killed-alone", breaches=[Breach(Wrong.LOST, "k" * 20, "gone")])
    made.marks = [Mark(12.5, "mysql2, the standby, is started: " + "it lacks acknowledged " * 5)]
    screen = StringIO()
    console = Console(file=screen, width=width, highlight=False)
    Progress(console).tell(made.marks[0])
    show(console, made, tmp_path)

    lines = screen.getvalue().splitlines()
    copied = ("  again  ", "  report  ")
    assert all(len(line) <= width for line in lines if not line.startswith(copied))
    told = [*made.marks[0].text.split(), *" ".join(f.promise for f in made.findings).split()]
    assert set(told) <= set(screen.getvalue().split())
    assert any(made.command in line for line in lines), "the command is on one line, to be copied"


def test_a_drill_that_ended_early_says_why_and_does_not_hold(tmp_path: Path) -> None:
    for ended in (INTERRUPTED, NOT_STEADY):
        made = result()
        made.ended, made.findings = ended, []
        assert not made.held
        assert made.outcome == ended
        assert ended in text_of(render(made))
        screen = StringIO()
        show(Console(file=screen, width=100), made, tmp_path)
        assert ended in screen.getvalue()


def answer(number: int, status: int = 200, *reasons: str) -> Readyz:
    return Readyz(1.0, 0.002, number, status, reasons)


@pytest.mark.parametrize(
    ("readyz", "wrong"),
    [
        ([answer(0), answer(1)], ""),
        ([answer(0, 503), answer(0), answer(1)], ""),
        ([answer(0)], "gateway 2 does not answer /readyz"),
        ([answer(0), answer(1, 0)], "gateway 2 does not answer /readyz"),
        ([answer(0, 503), answer(1)], "gateway 1: /readyz answers 503"),
        ([answer(0), answer(1, 200, "lookup2 is out")], "gateway 2: lookup2 is out"),
    ],
)
def test_a_stack_is_steady_while_every_gateway_is_ready_without_a_reason(
    readyz: list[Readyz], wrong: str
) -> None:
    finding = parts(readyz, 2)
    assert (finding.held, finding.measured) == (not wrong, wrong)


def served_with(*met: Met, took: float = 0.01) -> Finding:
    tries = [Try(n / 10, n / 10, n / 10 + took, 0, "next", Met.OK, True) for n in range(100)]
    tries += [Try(5, 5, 5.1, 0, "next", one, False) for one in met]
    return served(tries, 1.0, 9.0, within=0.25)


def test_a_load_with_errors_before_the_fault_is_not_steady() -> None:
    assert served_with().held
    assert served_with(Met.CONFLICT).held
    finding = served_with(Met.BUSY)
    assert not finding.held
    assert finding.measured == "1 of 81 requests failed in 8.0 s: 1 x 503 with Retry-After"
    assert not finding.timing
    assert served_with(Met.SHED).timing
    assert served([], 1.0, 9.0, within=0.25).measured == "no request was answered in 8.0 s"


def test_a_load_slower_than_the_objective_before_the_fault_is_not_steady() -> None:
    finding = served_with(took=0.3)
    assert not finding.held
    assert finding.timing
    assert "80 of 80 requests took longer than 250 ms" in finding.measured


def test_the_index_lists_all_runs_the_newest_first(tmp_path: Path) -> None:
    for day, name in ((1, "lookup-killed"), (3, "gateway-killed"), (2, "lookup-slow")):
        made = result(name)
        made.began = datetime(2026, 1, day, tzinfo=UTC)
        write(made, tmp_path)
    index = (tmp_path / "index.html").read_text()
    assert re.findall(r'href="([^"]*)"', index) == [
        "gateway-killed-20260103-000000/report.html",
        "lookup-slow-20260102-000000/report.html",
        "lookup-killed-20260101-000000/report.html",
    ]
    assert "2026-01-03 00:00:00 gateway-killed held" in text_of(index)


def test_only_the_oldest_reports_are_deleted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(archive, "MOST_RUNS", 2)
    mine = tmp_path / "lookup-killed-20250101-000000" / "notes.txt"
    mine.parent.mkdir()
    mine.write_text("mine")
    (tmp_path / "somebody-elses").mkdir()
    for day in (1, 2, 3, 4):
        made = result()
        made.began = datetime(2026, 1, day, tzinfo=UTC)
        page = write(made, tmp_path)
        if day == 1:
            (page.parent / "notes.txt").write_text("mine")

    assert {path.name for path in tmp_path.iterdir()} == {
        *("index.html", "somebody-elses", mine.parent.name),
        *(f"lookup-killed-2026010{day}-000000" for day in (1, 3, 4)),
    }
    first = tmp_path / "lookup-killed-20260101-000000"
    assert [path.name for path in first.iterdir()] == ["notes.txt"]


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("lookup-slow", "fault injector"),
        ("midnight-outage", "clocks"),
        ("mysql-past-deadline", "settings of its own (mysql)"),
        ("gateway-killed", "needs two of them"),
        ("lookup-killed", None),
    ],
)
def test_a_drill_that_a_running_stack_does_not_suit_is_refused_with_the_reason(
    name: str, reason: str | None
) -> None:
    said = unsuited(DRILLS[name].plan, local=True)
    assert (said is None) if reason is None else (reason in str(said))
    assert unsuited(DRILLS[name].plan, local=False) is not None


def test_the_drill_by_hand_without_a_configuration_is_a_usage_error() -> None:
    answer = CliRunner().invoke(app, ["drill", "by-hand"], env={"COLUMNS": "200"})
    assert answer.exit_code == 2
    assert "by-hand needs --config FILE" in answer.output


def test_a_misspelt_drill_is_answered_with_a_suggestion() -> None:
    answer = CliRunner().invoke(app, ["drill", "lookup-kiled"], env={"COLUMNS": "200"})
    assert answer.exit_code == 2
    assert "there is no drill 'lookup-kiled': did you mean 'lookup-killed'?" in answer.output
    answer = CliRunner().invoke(app, ["drill", "xyz"], env={"COLUMNS": "200"})
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert "there is no drill 'xyz': see --list" in answer.output


def test_every_drill_has_a_name_and_a_description_in_the_same_style() -> None:
    for name, scenario in DRILLS.items():
        assert name == scenario.name
        assert re.fullmatch(r"[a-z]+(-[a-z]+)*", name)
        assert scenario.about[0].islower() or scenario.about.startswith(("MySQL", "DNS"))
