"""Each line of the threat model names tests that exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
LINES = [
    line
    for line in (ROOT / "docs" / "threat-model.md").read_text().splitlines()
    if line.startswith("| ") and not line.startswith(("| actor | may", "| ---"))
]
NAMED = re.compile(r"`(tests/[\w/]+\.py)::(test_\w+)`")


def test_the_threat_model_is_one_table() -> None:
    assert len(LINES) >= 15
    assert all(len(line.split("|")) == 6 for line in LINES)


@pytest.mark.parametrize("line", LINES, ids=lambda line: line.split("|")[1].strip()[:40] or "more")
def test_each_line_of_the_threat_model_names_tests_that_exist(line: str) -> None:
    named = NAMED.findall(line.rpartition(" | ")[2])
    assert named, "the line names no test"
    for file, name in named:
        text = (ROOT / file).read_text()
        assert re.search(rf"^(async )?def {name}\(", text, re.MULTILINE), f"{file}::{name}"
