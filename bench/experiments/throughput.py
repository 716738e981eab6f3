"""Closed loop: how many requests a second, by workload, by connections, by workers."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from bench import measure, workloads
from bench.lab import Lab
from bench.peers import processes as peers
from bench.peers.processes import Kind
from bench.workloads import Workload

PAIR = (peers.GO, peers.GATEWAY)
ALL_PEERS = (
    peers.GO,
    peers.GATEWAY,
    peers.ASYNCIO,
    peers.THREADS,
    peers.GO_TABLE,
    peers.GO_REDIS,
    peers.CONSTANT,
    peers.CONSTANT_APP,
)
CONNECTIONS = (1, 4, 16, 64, 256, 512)


def in_turn(kinds: Sequence[Kind], number: int) -> Sequence[Kind]:
    """The order of peers in a round: each round begins with another peer, so that each of them
    follows another one."""
    at = number % len(kinds)
    return [*kinds[at:], *kinds[:at]]


def by_workload(lab: Lab) -> None:
    """Measure peers and gateway in turn, round by round, under each workload."""
    wide = lab.scale.wide
    plan: list[tuple[Workload, Sequence[Kind]]] = [(workloads.WARM, ALL_PEERS)]
    plan += [(workloads.OPEN, PAIR)]
    for workload in (workloads.COLD, workloads.BACK, workloads.MISS):
        plan.append((workload, (*PAIR, peers.ASYNCIO, peers.GO_TABLE) if wide else PAIR))
    plan.append((workloads.HOT, PAIR))
    for workload, kinds in plan:
        for number in range(lab.scale.rounds):
            for kind in in_turn(kinds, number):
                lab.run("throughput", kind, workload, number)


def by_connections(lab: Lab) -> None:
    """Measure warm sessions over 1 to 512 connections."""
    wide = lab.scale.wide
    kinds = (*PAIR, peers.ASYNCIO) if wide else PAIR
    rounds = min(lab.scale.rounds, 3) if wide else 1
    for connections in CONNECTIONS if wide else CONNECTIONS[::2]:
        for number in range(rounds):
            for kind in in_turn(kinds, number):
                lab.run("connections", kind, workloads.WARM, number, connections=connections)


# --- one worker and two

PLACES = ("free", "pinned")
"""Which cores processes may use. `free`: all use both cores. `pinned`: servers and load generator
use the second core, the first worker the first core, and a second worker the second core."""


def by_workers(lab: Lab) -> None:
    """Measure one worker against two, with a store and without one; and two workers on one hot
    key."""
    kinds = (peers.GATEWAY, peers.GATEWAY2)
    for number in range(lab.scale.rounds if lab.scale.wide else 1):
        for place in PLACES:
            for workload in (workloads.WARM, workloads.CATALOG):
                for kind in in_turn(kinds, number):
                    lab.peer(kind)
                    with _placed(lab, kind, place):
                        lab.run("workers", kind, workload, number, place=place)
    lab.run("hot_workers", peers.GATEWAY2, workloads.HOT, 0)


@contextmanager
def _placed(lab: Lab, kind: Kind, place: str) -> Iterator[None]:
    """Pin servers, workers and load generator (which inherits it) meanwhile."""
    both = os.sched_getaffinity(0)
    if place == "free" or len(both) < 2:
        yield
        return
    first, second, *_ = sorted(both)
    servers = lab.servers
    behind = [node.pid for node in servers.lookups] + [servers.mysql.pid]
    pid = lab.peer(kind).pid
    assert pid is not None
    workers = measure.tree(pid)[1:] or [pid]
    try:
        for one in behind:
            if one is not None:
                _pin(one, {second})
        for at, worker in enumerate(workers):
            _pin(worker, {(first, second)[at % 2]})
        os.sched_setaffinity(0, {second})
        yield
    finally:
        os.sched_setaffinity(0, both)
        for one in (*behind, *workers):
            if one is not None:
                _pin(one, both)


def _pin(pid: int, cores: set[int]) -> None:
    for task in Path(f"/proc/{pid}/task").glob("*"):
        os.sched_setaffinity(int(task.name), cores)
