"""CPU time a request of one warm worker, beside aiohttp with a constant answer; takes a minute.

    python -m bench.hot_path              # both in turn, some rounds, as a table
    python -m bench.hot_path --profile 10 # py-spy's view of the gateway, if it is installed

Listeners go on in their mixes through 64 connections (wrk), on servers of its own: three lookup
nodes and one MariaDB. What is compared is CPU time a request, of each process; requests a second
depend on what else the machine does. See docs/performance.md.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pymysql
import yaml

from gateway.auth.tokens import TokenKeys
from gateway.catalog.model import Mix, MixUser, Track
from gateway.catalog.tables import TABLES
from stack import datadir
from stack.catalog import write_mixes
from stack.datadir import Passwords
from stack.mariadb import MariaDB
from stack.process import free_port
from stack.redis import RedisServer

TRACKS = 19
"""Tracks of a mix: twenty requests play it to its end, the next `play` starts it again."""
MIXES = 50
KEY = "k" * 64
TICK = os.sysconf("SC_CLK_TCK")

CONSTANT = """
import asyncio, sys, uvloop
from aiohttp import web
BODY = b"x" * 420
async def answer(request):
    return web.Response(body=BODY, content_type="application/json")
async def main():
    runner = web.ServerRunner(web.Server(answer, access_log=None))
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", int(sys.argv[1])).start()
    await asyncio.Event().wait()
uvloop.run(main())
"""

SESSIONS = """
local paths, at, step = {{}}, 0, 0
local thread = 0
function setup(t) t:set("id", thread); thread = thread + 1 end
function init()
  local n = 0
  for line in io.lines("{listeners}") do
    if n % {threads} == id then paths[#paths + 1] = line end
    n = n + 1
  end
end
function request()
  at = at + 1
  if at > #paths then at = 1; step = (step + 1) % {steps} end
  return wrk.format("GET", (paths[at]:gsub("ACTION", step == 0 and "play" or "next")))
end
local bad = 0
function response(status) if status ~= 200 then bad = bad + 1 end end
function done(summary) io.write("errors ", summary.errors.status, "\\n") end
"""


def mixes() -> list[Mix]:
    """The catalog; its texts are as long as those of the sample catalog."""
    return [
        Mix(
            id=n,
            name=f"Mix number {n}",
            slug=f"mix-{n}",
            path=f"/somebody/mix-{n}",
            description="What a mix says of itself.",
            tag_list_cache="jazz, 1920s, piano",
            duration=TRACKS * 200,
            user=MixUser(1, "somebody", "somebody"),
            tracks=tuple(
                Track(
                    id=n * 1000 + t,
                    name=f"Track number {t} of many",
                    performer="Somebody and the Others",
                    release_name="A record",
                    year=1927,
                    url=f"https://example.org/tracks/{n * 1000 + t}",
                    track_file_stream_url=f"https://cdn.example.org/audio/{n * 1000 + t}.mp3",
                    play_duration=200,
                )
                for t in range(TRACKS)
            ),
        )
        for n in range(1, MIXES + 1)
    ]


def cpu_seconds(pid: int) -> float:
    """User and system time of a process so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICK


class Stack:
    """The servers, one gateway process, and the peer that answers a constant."""

    def __init__(self, folder: Path, workers: int, overrides: dict[str, Any]) -> None:
        self.folder = folder
        passwords = Passwords()
        datadir.make(folder / "data", passwords)
        self.mysql = MariaDB("mysql1", folder / "data", passwords)
        self.redis = [RedisServer(f"lookup{n}", folder / f"lookup{n}") for n in (1, 2, 3)]
        self.servers: list[MariaDB | RedisServer] = [self.mysql, *self.redis]
        self.port, self.admin, self.constant_port = free_port(), free_port(), free_port()
        self.workers = workers
        self.overrides = overrides
        self.gateway: subprocess.Popen[bytes] | None = None
        self.constant: subprocess.Popen[bytes] | None = None

    @contextlib.contextmanager
    def running(self) -> Iterator[Stack]:
        """Start everything; stop it at the end."""
        try:
            for server in self.servers:
                server.start()
            self.mysql.create_database("tapedeck_bench")
            document = {
                "mode": "local",
                "gateway": {"port": self.port, "workers": self.workers},
                "admin": {"port": self.admin},
                "auth": {"token_keys": [KEY], "service_keys": [KEY]},
                "lookup": {"servers": [server.server for server in self.redis]},
                "mysql": {
                    "hosts": [self.mysql.address],
                    "user": "tapedeck",
                    "password": self.mysql.passwords.gateway,
                    "database": "tapedeck_bench",
                },
                "partitions": {"filter_folder": str(self.folder / "filters")},
                **self.overrides,
            }
            with (
                pymysql.connect(
                    host="127.0.0.1",
                    port=self.mysql.port,
                    user="tapedeck",
                    password=self.mysql.passwords.gateway,
                    database="tapedeck_bench",
                ) as connection,
                connection.cursor() as cursor,
            ):
                for statement in TABLES:
                    cursor.execute(statement)
                write_mixes(cursor, mixes())
                connection.commit()
            config = self.folder / "tapedeck.yml"
            config.write_text(yaml.safe_dump(document))
            with (self.folder / "gateway.log").open("wb") as log:
                self.gateway = subprocess.Popen(
                    [
                        *(sys.executable, "-c", "from cli.main import main; main()"),
                        *("serve", "--config", str(config)),
                    ],
                    stdout=log,
                    stderr=log,
                )
            self.constant = subprocess.Popen(
                [sys.executable, "-c", CONSTANT, str(self.constant_port)]
            )
            self._until_ready()
            yield self
        finally:
            for process in (self.gateway, self.constant):
                if process is not None:
                    process.kill()
                    process.wait()
            for server in self.servers:
                server.kill()

    def _until_ready(self) -> None:
        end = time.monotonic() + 30
        while True:
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{self.admin}/readyz", timeout=5).read()
                return
            except OSError:
                if time.monotonic() > end:
                    raise
                time.sleep(0.05)

    def pids(self) -> list[int]:
        """The gateway's processes."""
        assert self.gateway is not None
        own = self.gateway.pid
        children = Path(f"/proc/{own}/task/{own}/children").read_text().split()
        return [own, *(int(child) for child in children)]

    def redis_commands(self) -> int:
        """Commands that the lookup nodes have answered so far, those of this script included."""
        total = 0
        for server in self.redis:
            with server.client() as client:
                total += int(client.info("stats")["total_commands_processed"])
        return total


def wrk(
    url: str, seconds: float, connections: int, script: Path | None, threads: int
) -> dict[str, float]:
    """Run wrk; return requests, requests a second and latencies in milliseconds."""
    command = ["wrk", "--latency", f"-t{threads}", f"-c{connections}", f"-d{seconds:.0f}s"]
    if script is not None:
        command += ["-s", str(script)]
    text = subprocess.run([*command, url], check=True, capture_output=True, text=True).stdout
    found = re.search(r"(\d+) requests in ([\d.]+)s", text)
    assert found, text
    took = {"requests": float(found[1]), "rate": float(found[1]) / float(found[2])}
    units = {"us": 0.001, "ms": 1.0, "s": 1000.0}
    for name in ("50", "99"):
        latency = re.search(rf"{name}%\s+([\d.]+)(us|ms|s)", text)
        assert latency, text
        took[f"p{name}"] = float(latency[1]) * units[latency[2]]
    bad = re.search(r"Non-2xx or 3xx responses: (\d+)", text)
    took["bad"] = float(bad[1]) if bad else 0.0
    return took


def main() -> None:
    """Parse the arguments, run, report."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=6, help="each run")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--connections", type=int, default=64)
    parser.add_argument("--listeners", type=int, default=200)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--uncached", action="store_true", help="without the session cache")
    parser.add_argument("--profile", type=int, metavar="S", help="py-spy for so many seconds")
    parser.add_argument("--folder", help="for the servers' data; /dev/shm leaves the disk out")
    parser.add_argument("--json", action="store_true", help="answer as JSON")
    args = parser.parse_args()
    if shutil.which("wrk") is None:
        parser.error("wrk is not installed: apt-get install wrk")
    if args.profile and shutil.which("py-spy") is None:
        parser.error(
            "py-spy is not installed: .venv/bin/pip install py-spy, and add .venv/bin to PATH"
        )
    threads = 2
    overrides = {"sessions": {"enabled": not args.uncached}}
    with tempfile.TemporaryDirectory(prefix="tapedeck-bench-", dir=args.folder) as name:
        folder = Path(name)
        # Not /tmp: a mariadbd that starts removes the temporary tables of other servers there.
        os.environ["TMPDIR"] = name
        tokens = TokenKeys([KEY.encode()], 86400)
        listeners = folder / "listeners"
        listeners.write_text(
            "".join(
                f"/sets/{tokens.issue(2**62 + n, time.time())}/ACTION?mix_id={n % MIXES + 1}\n"
                for n in range(args.listeners)
            )
        )
        script = folder / "sessions.lua"
        script.write_text(SESSIONS.format(listeners=listeners, threads=threads, steps=TRACKS + 1))
        with Stack(folder, args.workers, overrides).running() as stack:
            url = f"http://127.0.0.1:{stack.port}"
            wrk(url, 4, args.connections, script, threads)  # every listener's first request
            if args.profile:
                out = Path("profile.txt")
                command = f"py-spy record -n -r 400 -d {args.profile} -f raw -o {out}"
                spy = subprocess.Popen([*command.split(), "-p", str(stack.pids()[-1])])
                wrk(url, args.profile + 1, args.connections, script, threads)
                spy.wait()
                print(f"stacks in {out}")
                return
            assert stack.constant is not None
            rounds = [measure(stack, args, script, threads) for _ in range(args.rounds)]
    report(rounds, as_json=args.json)


def measure(stack: Stack, args: argparse.Namespace, script: Path, threads: int) -> dict[str, float]:
    """Measure one round: the constant, then the gateway."""
    assert stack.constant is not None
    constant_pid = stack.constant.pid
    mysql_pid = stack.mysql.pid
    assert mysql_pid is not None
    before = cpu_seconds(constant_pid)
    constant = wrk(
        f"http://127.0.0.1:{stack.constant_port}/", args.seconds, args.connections, None, threads
    )
    constant_us = (cpu_seconds(constant_pid) - before) / constant["requests"] * 1e6
    gateway_before = sum(map(cpu_seconds, stack.pids()))
    mysql_before = cpu_seconds(mysql_pid)
    commands_before = stack.redis_commands()
    ours = wrk(f"http://127.0.0.1:{stack.port}", args.seconds, args.connections, script, threads)
    gateway_us = (sum(map(cpu_seconds, stack.pids())) - gateway_before) / ours["requests"] * 1e6
    return {
        "requests/s": ours["rate"],
        "constant requests/s": constant["rate"],
        "ratio of requests/s": ours["rate"] / constant["rate"],
        "gateway CPU us": gateway_us,
        "constant CPU us": constant_us,
        "ratio by CPU": constant_us / gateway_us,
        "MariaDB CPU us": (cpu_seconds(mysql_pid) - mysql_before) / ours["requests"] * 1e6,
        "Redis commands": (stack.redis_commands() - commands_before - 6) / ours["requests"],
        "p50 ms": ours["p50"],
        "p99 ms": ours["p99"],
        "not 2xx": ours["bad"],
    }


def report(rounds: list[dict[str, float]], *, as_json: bool) -> None:
    """Print the median of the rounds, the lowest and the highest."""
    if as_json:
        print(json.dumps(rounds, indent=2))
        return
    print(f"{'a request':<24}{'median':>10}{'least':>10}{'most':>10}")
    for name in rounds[0]:
        values = [each[name] for each in rounds]
        print(
            f"{name:<24}{statistics.median(values):>10.3f}{min(values):>10.3f}{max(values):>10.3f}"
        )


if __name__ == "__main__":
    main()
