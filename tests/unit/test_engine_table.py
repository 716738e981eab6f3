"""The table of `make test-engines`: its cells and the exit status."""

from __future__ import annotations

from pathlib import Path

import pytest

from drills.scenarios import DRILLS
from stack import engines
from tests import engine_table
from tests.engine_table import Cell, read

PASSED = '<testcase classname="tests.integration.test_store" name="test_one"/>'
FAILED = '<testcase classname="tests.integration.test_store" name="test_two"><failure/></testcase>'
SKIPPED = (
    '<testcase classname="tests.chaos.test_drills" name="test_drill">'
    '<skipped message="a group has no pair"/></testcase>'
)


def cell(tmp_path: Path, *cases: str, status: int = 0) -> Cell:
    report = tmp_path / "report.xml"
    report.write_text(f"<testsuites><testsuite>{''.join(cases)}</testsuite></testsuites>")
    return read(report, status, 1.0)


def test_a_cell_names_the_tests_that_failed(tmp_path: Path) -> None:
    found = cell(tmp_path, PASSED, FAILED, status=1)
    assert str(found) == "**1 of 2 failed**"
    assert found.failed == ["test_store::test_two"]


def test_a_cell_that_cannot_run_on_an_engine_says_why(tmp_path: Path) -> None:
    assert str(cell(tmp_path, SKIPPED)) == "not here: a group has no pair"


def test_a_run_that_ended_without_a_report_is_a_failure(tmp_path: Path) -> None:
    assert read(tmp_path / "none.xml", 2, 1.0).failed == ["pytest itself ended with status 2"]


@pytest.mark.parametrize(("failed", "status"), [([], 0), (["test_store::test_two"], 1)])
def test_the_command_writes_the_table_and_fails_if_a_cell_failed(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    failed: list[str],
    status: int,
) -> None:
    monkeypatch.setattr(engines, "FOLDER", tmp_path)
    monkeypatch.setattr(engines, "install", lambda _: None)
    monkeypatch.setattr(engine_table, "versions", lambda names: dict.fromkeys(names, "1.2"))
    monkeypatch.setattr(
        engine_table, "run", lambda row, *_: Cell(3, failed if row == "store" else [])
    )
    monkeypatch.setattr("sys.argv", ["engine_table", "--only", "group"])
    assert engine_table.main() == status
    written = (tmp_path / "table.md").read_text()
    assert written in capsys.readouterr().out
    assert "| | group (1.2) |" in written
    assert f"| store | {'**1 of 4 failed**' if failed else '3 passed'} |" in written
    assert "| partitions | 3 passed |" in written
    assert "| pair | not here: no pair |" in written


def test_every_file_and_test_that_the_table_names_exists() -> None:
    """Otherwise a renamed file or test would only be noticed after an hour."""
    rows = {row: what for _, rows in engine_table.TABLES.values() for row, what in rows.items()}
    assert {row for row, _ in (*engine_table.LEFT_OUT, *engine_table.IN_OTHER_COLUMNS)} <= set(rows)
    for words in (*rows.values(), *engine_table.LEFT_OUT.values()):
        for word in words:
            file, _, test = word.partition("::")
            if file.startswith("tests/"):
                name, _, drill = test.partition("[")
                assert name in (engines.FOLDER.parents[1] / file).read_text()
                assert drill.rstrip("]") in ("", *DRILLS)
