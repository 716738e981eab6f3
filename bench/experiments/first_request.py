"""How long a listener waits at the first request, on one connection, with no other load.

It runs on a semi-synchronous pair, where a commit waits for the standby.
"""

from __future__ import annotations

from dataclasses import replace

from bench import workloads
from bench.lab import Lab
from bench.peers import processes as peers
from stack.pair import Pair


def on_the_pair(lab: Lab) -> None:
    """Listeners who start a mix for the first time, one after the other."""
    servers = lab.servers
    pair = Pair(servers.folder / "pair", servers.passwords)
    pair.start()
    try:
        few = replace(lab.scale, bulk=min(lab.scale.bulk, 500))
        beside = lab.beside(servers.on(pair.primary, "on-pair"), few)
        beside.seed_bulk()
        try:
            for number in range(lab.scale.rounds):
                for kind in (peers.GO, peers.GATEWAY):
                    beside.run("first_request", kind, workloads.MISS, number, connections=1)
        finally:
            beside.stop_all()
    finally:
        pair.stop()
