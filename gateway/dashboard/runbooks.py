"""The pages of the documentation that the admin port shows as they are: at night the repository is
far away. They need no token, as they say nothing of this gateway.

`guide/` has links to docs/; what is installed has the files.
"""

from __future__ import annotations

from collections.abc import Mapping

from gateway.http.static_files import Pages
from sharding.health_verdict import Kind

RUNBOOKS: Mapping[Kind, str] = {
    "clock": "TapedeckClockDoubted",
    "login": "TapedeckMySQLLogin",
    "primary": "TapedeckMySQLPrimaryLost",
    "failover": "TapedeckMySQLPrimaryLost",
    "disk": "TapedeckMySQLDiskFull",
    "standby": "TapedeckSavesStopped",
    "lock": "TapedeckSavesStopped",
    "commits": "TapedeckSavesStopped",
    "connections": "TapedeckMySQLConnections",
    "starved": "TapedeckStarved",
    "errors": "TapedeckErrors",
    "slow": "TapedeckSlow",
    "redundancy": "TapedeckMySQLNotRedundant",
    "nodes": "TapedeckLookupNodeOut",
    "hints": "TapedeckHintsLate",
    "capacity": "TapedeckEvictions",
    "skew": "TapedeckClockSkew",
    "drift": "TapedeckDrift",
    "job": "TapedeckJobStuck",
    "workers": "TapedeckCrashLoop",
    "peers": "TapedeckGatewaysDown",
}
"""By cause. What is not here stands in `operations.md` ("What you see")."""


def runbook(cause: Kind) -> str:
    """The file to read about a cause."""
    return f"{RUNBOOKS[cause]}.md" if cause in RUNBOOKS else "operations.md"


# Read before there is an event loop.
PAGES = Pages("gateway.dashboard", ("guide", "guide/runbooks"))
