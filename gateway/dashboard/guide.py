"""The pages of the documentation that the admin port shows as they are: at night the repository is
far away. They need no token, as they say nothing of this gateway.

`guide/` has links to docs/; what is installed has the files.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib import resources

from gateway.http.errors import Refusal
from gateway.http.messages import Response
from gateway.http.static_files import HEADERS
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


def _read() -> dict[str, bytes]:
    folder = resources.files("gateway.dashboard").joinpath("guide")
    return {
        page.name: page.read_bytes()
        for place in (folder, folder.joinpath("runbooks"))
        for page in place.iterdir()
        if page.name.endswith(".md")
    }


# Once, before there is an event loop: no request waits for a disk.
_PAGES = _read()


def page(name: str) -> Response:
    """One of the pages.

    Raises:
        Refusal: 404.
    """
    if name not in _PAGES:
        raise Refusal(404, "There is no such page.")
    return Response(200, _PAGES[name], HEADERS, "text/plain; charset=utf-8")
