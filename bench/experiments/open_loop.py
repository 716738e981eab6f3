"""Open loop: latency at a load that does not wait for the answers.

Listeners press a button when they like. So requests are due at the times of a Poisson process, and
the latency of each counts from then: a stall counts for every request that is due during it.
"""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median

from bench import workloads
from bench.lab import Lab
from bench.peers import processes as peers
from bench.peers.processes import Kind
from bench.targets import select
from bench.workloads import Workload

SHARES = (0.2, 0.5, 0.8)
"""The loads, as shares of the rate at which plain Go is saturated."""
CONNECTIONS = 256


def saturation(
    lab: Lab, workload: Workload = workloads.WARM, kinds: Sequence[Kind] = (peers.GO,)
) -> float:
    """Requests a second that the slowest of these peers reached in this run's closed loop."""
    lowest = []
    for kind in kinds:
        same = {"peer": kind.name, "workload": workload.name}
        if not select(lab.records, "throughput", **same):
            lab.run("throughput", kind, workload, 0)
        lowest.append(median(r["rate"] for r in select(lab.records, "throughput", **same)))
    return float(min(lowest))


def latencies(lab: Lab) -> None:
    """Measure plain Go and the gateway at the same loads, which are shares of plain Go's
    saturation."""
    top = saturation(lab)
    for number in range(lab.scale.open_rounds):
        for share in SHARES:
            for kind in (peers.GO, peers.GATEWAY) if number % 2 else (peers.GATEWAY, peers.GO):
                lab.run(
                    "open_loop",
                    kind,
                    workloads.WARM,
                    number,
                    rate=round(top * share),
                    connections=CONNECTIONS,
                    seconds=lab.scale.open_seconds,
                    share=share,
                )
