"""The page of what a gateway needs names tests, drills and metrics that exist."""

from __future__ import annotations

import re
from pathlib import Path

from drills.scenarios import DRILLS

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "needs.md").read_text()


def test_the_page_of_needs_has_at_most_40_lines() -> None:
    assert len(PAGE.splitlines()) <= 40


def test_each_need_names_tests_and_drills_that_exist() -> None:
    lines = [line for line in PAGE.splitlines() if line.startswith("| ")][2:]
    assert lines
    for line in lines:
        named = re.findall(r"`(tests/\S+?)`", line.rpartition(" | ")[2])
        assert named, line
        assert not [path for path in named if not (ROOT / path).is_file()], line
    assert set(re.findall(r"`(dns-\w+)`", PAGE)) <= set(DRILLS)


def test_each_metric_on_the_page_of_needs_is_in_the_reference() -> None:
    reference = (ROOT / "docs" / "metrics.md").read_text()
    for metric in re.findall(r"`(tapedeck_\w+)`", PAGE):
        assert f"`{metric}`" in reference, metric
