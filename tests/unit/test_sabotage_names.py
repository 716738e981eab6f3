"""A sabotage replaces parts of the product by their names, so a renamed part must not disarm it."""

from __future__ import annotations

import subprocess
import sys

import pytest

from drills.sabotage import SABOTAGES


@pytest.mark.parametrize("name", SABOTAGES)
def test_every_part_that_a_sabotage_replaces_is_there(name: str) -> None:
    script = f"from drills.sabotage import SABOTAGES; SABOTAGES[{name!r}].apply()"
    applied = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert applied.returncode == 0, applied.stderr
