"""The checker can fail: gateways with one invariant broken on purpose are caught by a drill."""

from __future__ import annotations

from pathlib import Path

import pytest

from tapedeck.drills.checker import Wrong
from tapedeck.drills.drill import Options
from tapedeck.drills.sabotage import SABOTAGES
from tapedeck.drills.scenarios import DRILLS
from tests.chaos.running import run_drill

pytestmark = [pytest.mark.stack, pytest.mark.long, pytest.mark.timeout(180)]

SHOWN_AS = {
    "no-compare-and-set": {Wrong.LOST, Wrong.UNDONE, Wrong.VERSION},
    "acknowledged-before-commit": {Wrong.LOST, Wrong.UNDONE, Wrong.WENT_BACK, Wrong.VERSION},
    "hints-trusted": {Wrong.WENT_BACK, Wrong.ROWS, Wrong.UNDONE, Wrong.LOST},
    "operation-ids-ignored": {Wrong.DOUBLED, Wrong.UNTRUE, Wrong.VERSION},
    "no-fencing": {Wrong.LOST, Wrong.UNDONE, Wrong.WENT_BACK},
}
"""By sabotage, the kinds of breach of which the checker must find at least one."""


@pytest.mark.parametrize("name", SABOTAGES)
def test_a_gateway_with_one_invariant_broken_is_caught(name: str, tmp_path: Path) -> None:
    sabotage = SABOTAGES[name]
    options = Options(commands=[("-m", "tapedeck.drills.sabotage", name)])

    ran = run_drill(DRILLS[sabotage.drill], options, tmp_path)

    found = {breach.wrong for breach in ran.verdict.breaches}
    assert not ran.held
    assert found & SHOWN_AS[name], f"{sabotage.about}: only {found} found\n{ran.broken}"
