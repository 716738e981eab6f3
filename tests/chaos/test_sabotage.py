"""The drills can fail: each catches gateways in which one invariant is broken on purpose."""

from __future__ import annotations

from pathlib import Path

import pytest

from drills.checker import Wrong
from drills.drill import Options
from drills.sabotage import SABOTAGES
from drills.scenarios import DRILLS
from tests.chaos.running import run_drill

pytestmark = [pytest.mark.stack, pytest.mark.long, pytest.mark.timeout(180)]

SHOWN_AS: dict[str, set[Wrong | str]] = {
    "no-compare-and-set": {Wrong.LOST, Wrong.UNDONE, Wrong.VERSION},
    "acknowledged-before-commit": {Wrong.LOST, Wrong.UNDONE, Wrong.WENT_BACK, Wrong.VERSION},
    "hints-trusted": {Wrong.WENT_BACK, Wrong.ROWS, Wrong.UNDONE, Wrong.LOST},
    "operation-ids-ignored": {Wrong.DOUBLED, Wrong.UNTRUE, Wrong.VERSION},
    "no-fencing": {Wrong.LOST, Wrong.UNDONE, Wrong.WENT_BACK},
    "mark-ignored": {Wrong.LOST, Wrong.WENT_BACK, Wrong.ROWS},
    "filter-loses-keys": {"every state of the sealed day is found"},
}
"""The breaches, or promises of the drill, of which at least one must be found, by sabotage."""


@pytest.mark.parametrize("name", SABOTAGES)
def test_a_gateway_with_one_invariant_broken_is_caught(name: str, tmp_path: Path) -> None:
    sabotage = SABOTAGES[name]
    options = Options(commands=[("-m", "drills.sabotage", name)])

    ran = run_drill(DRILLS[sabotage.drill], options, tmp_path)

    found = {breach.wrong for breach in ran.verdict.breaches} | {
        finding.promise for finding in ran.result.findings if not finding.held
    }
    assert not ran.held
    assert found & SHOWN_AS[name], f"{sabotage.about}: only {found} found\n{ran.broken}"
