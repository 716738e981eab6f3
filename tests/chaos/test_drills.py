"""Every drill, short: faults under load, and what they promise.

One that breaks its promise leaves its report in the test's folder, its findings in the message.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tapedeck.drills.drill import Options
from tapedeck.drills.scenarios import DRILLS
from tests.chaos.running import run_drill

pytestmark = [pytest.mark.stack, pytest.mark.timeout(180)]


@pytest.mark.parametrize("name", DRILLS)
def test_the_drill_holds_what_it_promises(name: str, tmp_path: Path) -> None:
    result = run_drill(DRILLS[name], Options(), tmp_path)

    assert result.verdict.acknowledged > 100, "the load did next to nothing"
    assert result.held, result.broken
