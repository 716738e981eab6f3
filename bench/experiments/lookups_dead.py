"""First touches while every lookup node is dead, beside the same while all are alive."""

from __future__ import annotations

from collections.abc import Sequence

from bench import workloads
from bench.lab import Lab
from bench.peers import processes as peers
from bench.workloads import Workload

TOUCHES = (workloads.MISS, workloads.COLD, workloads.BACK)


def all_dead(lab: Lab, touches: Sequence[Workload] = TOUCHES) -> None:
    """In each round measure each kind of first touch, kill all nodes, and measure again."""
    kind = peers.GATEWAY
    for number in range(min(lab.scale.rounds, 3)):
        # Hints are written beforehand for both, because only their reading is compared.
        prepared = {
            (workload.name, lookups): lab.prepare(kind, workload, lab.scale.seconds, seal=False)
            for workload in touches
            for lookups in ("alive", "dead")
        }
        if any(workload.seeds for workload in touches):
            lab.seal(kind)
        for lookups in ("alive", "dead"):
            if lookups == "dead":
                for node in lab.servers.lookups:
                    node.kill()
            for workload in touches:
                lab.run(
                    "lookups_dead",
                    kind,
                    workload,
                    number,
                    prepared=prepared[workload.name, lookups],
                    lookups=lookups,
                )
        lab.lookups_again()
