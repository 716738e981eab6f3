"""Every drill, short: each holds what it promises.

A drill that breaks a promise leaves its report in the test's folder, and its findings in the
failure's message.
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
"""Runs a command as a user who is not root, and who may make no user namespace, because no group
is mapped."""


@pytest.mark.parametrize(
    "permitted", [False, pytest.param(True, marks=pytest.mark.long)], ids=["no", "yes"]
)
def test_a_drill_of_host_names_needs_root_only_where_user_namespaces_are_forbidden(
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
"""Drills of a Redis Cluster: in `make test`, tests/integration/test_redis_cluster.py breaks one."""
SEALING = ["sealing-killed", "sealing-failover"]
"""Drills of sealing: in `make test`, test_sealing.py and test_sealing_failover.py of
tests/integration take their steps one by one."""
LONG = [*CLUSTER, *SEALING]


NOT_IN_A_GROUP = {
    "mysql-past-deadline": "a group that lost its majority has to be founded again by hand",
    "mysql-primary-killed-alone": "a group that is not redundant takes no change",
}
"""Drills that cannot be run on a MySQL group, with the reason."""


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=[pytest.mark.long] if n in LONG else []) for n in DRILLS]
)
def test_the_drill_holds_what_it_promises(name: str, tmp_path: Path) -> None:
    if os.environ.get(engines.CHOICE) == "group" and name in NOT_IN_A_GROUP:
        pytest.skip(NOT_IN_A_GROUP[name])
    for again in (True, True, False):
        ran = run_drill(DRILLS[name], Options(), tmp_path)
        # On a busy machine a drill may be late and lose nothing: then it is tried again.
        if not (again and ran.only_late):
            break
    assert ran.held, ran.broken
    assert ran.verdict.acknowledged > 100, "the load made hardly any change"
