"""What a run cost: CPU time by process, Redis commands, MySQL's counters."""

from __future__ import annotations

import os
import resource
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from bench.servers import Servers
from stack.redis import RedisServer

_TICK = os.sysconf("SC_CLK_TCK")
# No client's request causes these: the benchmark itself sends INFO, the gateway's probes PING.
_NOT_COUNTED = ("info", "ping", "client|setinfo", "client|setname", "hello", "config|resetstat")


def tree(pid: int) -> list[int]:
    """A process and all its descendants."""
    found = [pid]
    for at in found:
        for task in Path(f"/proc/{at}/task").glob("*/children"):
            found.extend(int(child) for child in task.read_text().split())
    return found


def cpu_seconds(pid: int) -> float:
    """CPU time that a process and its living descendants have used so far; proc(5), stat."""
    total = 0
    for one in tree(pid):
        try:
            words = Path(f"/proc/{one}/stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        total += int(words[11]) + int(words[12])
    return total / _TICK


def redis_commands(nodes: list[RedisServer]) -> int:
    """Commands that the nodes have carried out for clients."""
    total = 0
    for node in nodes:
        if not node.running:
            continue
        with node.client() as client:
            for name, counted in client.info("commandstats").items():
                if name.removeprefix("cmdstat_") not in _NOT_COUNTED:
                    total += int(counted["calls"])
    return total


def busy_seconds() -> float:
    """CPU time that the cores in use have spent on anything; proc(5), /proc/stat."""
    total = 0
    for line in Path("/proc/stat").read_text().splitlines():
        name, *ticks = line.split()
        if name[3:].isdigit() and name[:3] == "cpu" and int(name[3:]) in os.sched_getaffinity(0):
            user, nice, system, _, _, irq, softirq, steal, *_ = (int(t) for t in ticks)
            total += user + nice + system + irq + softirq + steal
    return total / _TICK


@dataclass(frozen=True)
class Usage:
    """What the counters said at one moment.

    Attributes:
        cpu: seconds, by the part that used them.
        busy: seconds that the cores worked, for any process.
        at: seconds on the monotonic clock.
        redis: commands that the nodes have carried out.
        mysql: counters of SHOW GLOBAL STATUS.
    """

    cpu: Mapping[str, float]
    busy: float
    at: float
    redis: int
    mysql: Mapping[str, int]

    def since(self, before: Usage, requests: int) -> dict[str, float]:
        """What was used meanwhile, for each of so many requests: microseconds, commands."""
        each = max(1, requests)
        found = {
            f"cpu_{name}_us": (used - before.cpu.get(name, 0.0)) / each * 1e6
            for name, used in self.cpu.items()
        }
        # Cores that processes outside this run used. (Ticks are coarse: small values mean nothing.)
        ours = sum(self.cpu.values()) - sum(before.cpu.values())
        found["foreign_cores"] = max(0.0, self.busy - before.busy - ours) / (self.at - before.at)
        found["redis_commands"] = (self.redis - before.redis) / each
        for name, value in self.mysql.items():
            found[name] = (value - before.mysql[name]) / each
        return found


def usage(servers: Servers, peer_pid: int | None) -> Usage:
    """Read all counters now."""
    lookups = [node for node in (*servers.lookups, servers.alone) if node.pid is not None]
    pids: dict[str, list[int | None]] = {
        "gateway": [peer_pid],
        "mysql": [servers.mysql.pid],
        "redis": [node.pid for node in lookups],
        "twemproxy": [servers.nutcracker.pid if servers.nutcracker else None],
    }
    cpu = {
        name: sum(cpu_seconds(pid) for pid in group if pid is not None)
        for name, group in pids.items()
    }
    # Of children that have ended: between two calls only the load generator ends.
    ended = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu["generator"] = ended.ru_utime + ended.ru_stime
    own = resource.getrusage(resource.RUSAGE_SELF)
    cpu["bench"] = own.ru_utime + own.ru_stime
    names = {"Com_commit": "commits", "Questions": "statements", "Innodb_data_fsyncs": "fsyncs"}
    wanted = ",".join(f"'{name}'" for name in names)
    told = servers.mysql.query(f"SHOW GLOBAL STATUS WHERE Variable_name IN ({wanted})")
    mysql = {names[str(name)]: int(value) for name, value in told if str(name) in names}
    return Usage(cpu, busy_seconds(), time.monotonic(), redis_commands(lookups), mysql)
