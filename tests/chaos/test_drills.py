"""Every drill, short: faults under load, and what they promise.

One that breaks its promise leaves its report in the test's folder, its findings in the message.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from drills.drill import Options
from drills.scenarios import DRILLS
from stack import engines
from tests.chaos.running import run_drill

pytestmark = [pytest.mark.stack, pytest.mark.timeout(300)]


WITHOUT_RIGHTS = ("unshare", "--user", "--map-user=1000")
"""Somebody who is not root, and whose group, not being mapped, may make no user namespace."""


@pytest.mark.parametrize(
    "permitted", [False, pytest.param(True, marks=pytest.mark.long)], ids=["no", "yes"]
)
def test_a_drill_of_names_runs_without_root_where_user_namespaces_are_permitted(
    permitted: bool, tmp_path: Path
) -> None:
    command = [*WITHOUT_RIGHTS, *(["--map-group=1000"] if permitted else [])]
    command += [sys.executable, "-m", "cli", "drill", "dns-gone", "--short"]
    ran = subprocess.run(
        [*command, "--out", str(tmp_path)], capture_output=True, text=True, check=False
    )

    if permitted:
        assert "errors seen by clients: 0: 0" in ran.stdout, ran.stdout + ran.stderr
    else:
        assert ran.returncode == 1
        assert "not permitted here: run it as root" in ran.stderr


CLUSTER = [name for name in DRILLS if name.startswith("cluster-")]
"""Of a Redis Cluster, which tests/integration/test_redis_cluster.py breaks in `make test`."""
SEALING = ["sealing-killed", "sealing-failover"]
"""Which tests/integration/test_sealing.py and its neighbour do step by step in `make test`."""
LONG = [*CLUSTER, *SEALING]


NOT_IN_A_GROUP = {
    "mysql-past-deadline": "a group is gone only with its majority, and is then founded by hand",
    "mysql-primary-killed-alone": "a group is redundant, or takes no change",
}


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=[pytest.mark.long] if n in LONG else []) for n in DRILLS]
)
def test_the_drill_holds_what_it_promises(name: str, tmp_path: Path) -> None:
    if os.environ.get(engines.CHOICE) == "group" and name in NOT_IN_A_GROUP:
        pytest.skip(NOT_IN_A_GROUP[name])
    for again in (True, True, False):
        ran = run_drill(DRILLS[name], Options(), tmp_path)
        # A machine with too much else to do is late, and loses nothing: only that is tried again.
        if not (again and ran.only_late):
            break
    assert ran.held, ran.broken
    assert ran.verdict.acknowledged > 100, "the load did next to nothing"
