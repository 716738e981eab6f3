"""What is measured on the article's month (`bench.month`), with a buffer pool of a tenth of it."""

from __future__ import annotations

import re
import shutil
import time
from pathlib import Path

from bench import measure
from bench.experiments import filters, lookups_dead
from bench.experiments.throughput import PAIR, in_turn
from bench.lab import Lab
from bench.month import PARTITIONS, Month
from bench.peers import processes as peers
from sharding.state import Key

ASKED_BACK = 15
"""The days back of the keys that the filters are asked for."""


def starts(lab: Lab) -> None:
    """Measure a gateway's start until it has all filters, and its memory then: without the file of
    filters, and with the file of the start before."""
    for number in range(lab.scale.rounds):
        for file in ("made", "there"):
            lab.stop(peers.GATEWAY)
            if file == "made":
                shutil.rmtree(lab.servers.filters, ignore_errors=True)
            began = time.monotonic()
            pid = lab.peer(peers.GATEWAY).pid
            ready = time.monotonic() - began
            lab.take_filters(peers.GATEWAY)
            took = time.monotonic() - began
            assert pid is not None
            memory = [_memory(one) for one in measure.tree(pid)]
            record = lab.record(
                "starts",
                round=number,
                file=file,
                ready=round(ready, 3),
                filters=round(took, 3),
                rss=sum(rss for rss, _ in memory),
                mapped=sum(mapped for _, mapped in memory),
            )
            lab.say(
                f"a start, the file of filters {file}: ready after {ready:.1f} s, all filters "
                f"after {took:.1f} s; {record['rss'] >> 20} MB, of which "
                f"{record['mapped'] >> 20} MB are the mapped file"
            )


def _memory(pid: int) -> tuple[int, int]:
    """Bytes of memory that a process uses, and how many of them are the mapped file; proc(5),
    smaps."""
    rss = mapped = 0
    name = ""
    for line in Path(f"/proc/{pid}/smaps").read_text().splitlines():
        if re.match(r"[0-9a-f]+-[0-9a-f]+ ", line):
            name = line
        elif line.startswith("Rss:"):
            size = int(line.split()[1]) << 10
            rss += size
            if name.endswith(".filters"):
                mapped += size
    return rss, mapped


def touches(lab: Lab, month: Month) -> None:
    """Measure first touches of plain Go and the gateway, and with all lookup nodes dead."""
    workloads = month.workloads()
    lab.take_filters(peers.GATEWAY)
    for number in range(lab.scale.rounds):
        for workload in workloads:
            for kind in in_turn(PAIR, number):
                lab.run("throughput", kind, workload, number)
    lookups_dead.all_dead(lab, workloads)


def asked(lab: Lab, month: Month) -> None:
    """Measure the filters of the whole month, in the file that the gateway has made."""
    lab.take_filters(peers.GATEWAY)
    there = [Key(user, 1) for user in month.take(ASKED_BACK, min(filters.ASKED, month.each // 8))]
    nowhere = [Key(user, 1) for user in month.take_absent(filters.ASKED)]
    filters.of_a_file(lab, there, nowhere, month.each * PARTITIONS)
