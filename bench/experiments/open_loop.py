"""Open loop: latency at a load that does not wait for the answers.

Listeners press a button when they like. So requests are due at the times of a Poisson process, and
each one's latency counts from then: a stall is paid by all who would have met it.
"""

from __future__ import annotations

from statistics import median

from bench import workloads
from bench.lab import Lab
from bench.peers import processes as peers

SHARES = (0.2, 0.5, 0.8, 0.9)
"""Of the rate at which plain Go is saturated."""
CONNECTIONS = 256


def saturation(lab: Lab) -> float:
    """Plain Go's warm requests a second, as measured in this run."""
    rates = [
        r["rate"]
        for r in lab.records
        if r["experiment"] == "throughput" and r["peer"] == "go" and r["workload"] == "warm"
    ]
    if not rates:
        found = lab.run("throughput", peers.GO, workloads.WARM, 0)
        rates = [found["rate"]]
    return float(median(rates))


def latencies(lab: Lab) -> None:
    """Both at the same loads, which are shares of plain Go's saturation."""
    top = saturation(lab)
    wide = lab.scale.wide
    for share in SHARES if wide else (0.8,):
        for number in range(lab.scale.rounds):
            for kind in (peers.GO, peers.GATEWAY) if number % 2 else (peers.GATEWAY, peers.GO):
                lab.run(
                    "open_loop",
                    kind,
                    workloads.WARM,
                    number,
                    rate=round(top * share),
                    connections=CONNECTIONS,
                    seconds=lab.scale.seconds * 1.5,
                    share=share,
                )
