"""`make bench`: the whole benchmark, step by step.

    make bench                        # everything, under an hour
    make bench ARGS=--quick           # a look, under five minutes
    make bench ARGS="--only throughput,purge"
    make bench ARGS=--month           # the article's month: 45 million states, kept for later runs
    make bench ARGS=--publish         # and put page, plots and results into docs/bench/

Results are written after each step, so an interrupted run keeps its steps.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import logging
import os
import platform
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import structlog
from rich.console import Console

from bench import load, report, runs
from bench.experiments import (
    engines,
    filters,
    first_request,
    importing,
    lookups_dead,
    memory,
    months,
    node_loss,
    open_loop,
    partitions,
    purge,
    sealing,
    throughput,
)
from bench.lab import Lab, Record, Scale
from bench.month import PARTITIONS, ROWS, Month
from bench.peers import processes
from bench.servers import CHUNK, Servers
from bench.servers import GATEWAY as GATEWAY_DATABASE
from bench.tables import tables
from stack.process import ServerFailed

ROOT = Path(__file__).resolve().parent.parent
HOME = ROOT / ".tapedeck" / "bench"
"""On the disk, as a real server's data is: in memory a flush would cost nothing."""
PUBLISHED = ROOT / "docs" / "bench"

SCALES = {
    "quick": Scale(
        "quick",
        rounds=2,
        seconds=1.6,
        warmup=0.4,
        bulk=3_000,
        sealed=150_000,
        imported=300_000,
        open_rounds=3,
        open_seconds=2.4,
    ),
    "full": Scale("full", rounds=5, seconds=5.0, warmup=1.0, bulk=20_000),
    "long": Scale("long", rounds=7, seconds=8.0, warmup=1.0, bulk=50_000),
    # For the test that the benchmark runs.
    "tiny": Scale(
        "tiny",
        rounds=1,
        seconds=0.5,
        warmup=0.1,
        bulk=50,
        purged=5_000,
        sealed=5_000,
        imported=5_000,
        open_rounds=1,
        open_seconds=0.7,
    ),
}
Steps = Mapping[str, tuple[str, Callable[[Lab], None]]]
STEPS: Steps = {
    "filters": ("what filters cost, and how long the program is", filters.made_here),
    "memory": ("what Redis's memory holds", memory.everything),
    "throughput": ("peers and gateway, by workload", throughput.by_workload),
    "open_loop": ("latency at a load that does not wait", open_loop.latencies),
    "connections": ("1 to 512 connections", throughput.by_connections),
    "workers": ("one worker and two", throughput.by_workers),
    "purge": ("the nightly purge under load", purge.purges),
    "node_loss": ("a lookup node lost in mid-run", node_loss.losses),
    "partitions": ("loads by the number of partitions", partitions.by_count),
    "rows": ("loads by the number of rows", partitions.by_rows),
    "first_request": ("the first request alone, on the pair", first_request.on_the_pair),
    "lookups_dead": ("all lookup nodes dead", lookups_dead.all_dead),
    "sealing": ("a day is sealed under load", sealing.seals),
    "importing": ("states are imported under load", importing.beside),
    "engines": ("MySQL 9 beside MariaDB", engines.beside_each_other),
}
NOT_QUICK = ("partitions", "rows", "importing", "engines")
"""Steps that a quick run leaves out, unless it is asked for them."""


MONTH_STEPS = ("starts", "touches", "filters", "sealing", "purge")


def month_steps(month: Month) -> Steps:
    """What is measured on the article's month."""
    return {
        "starts": ("a gateway's start and its memory", months.starts),
        "touches": ("first touches", lambda lab: months.touches(lab, month)),
        "filters": ("what the filters cost", lambda lab: months.asked(lab, month)),
        "sealing": ("yesterday is sealed under load", sealing.seals_again),
        "purge": ("the nightly drop under load", purge.drops),
    }


def main() -> int:
    """Parse the arguments, run, report; return the exit status."""
    args = _arguments()
    # Parts of the gateway run in this process too; what they log is not shown.
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING))
    # A file or a pipe has no width: lines are not wrapped there.
    console = Console(width=None if sys.stdout.isatty() else 180)
    if args.report is not None:
        try:
            meta, records = report.read(args.report)
        except (OSError, ValueError) as error:
            print(f"bench: {error}", file=sys.stderr)
            return 1
        report.write(meta, records, args.out, month=args.month)
        for table in tables(records):
            table.show(console)
        return _published(args)
    try:
        with _alone(), _interruptible():
            return _measure_month(args, console) if args.month else _measure_all(args, console)
    except ServerFailed as error:
        print(f"bench: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("bench: interrupted; nothing was left running", file=sys.stderr)
        return 130


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m bench",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    scale = parser.add_mutually_exclusive_group()
    for name, text in (
        ("quick", "a look, under five minutes"),
        ("long", "longer runs and more rounds"),
        ("tiny", "only whether it runs"),
    ):
        scale.add_argument(f"--{name}", dest="scale", action="store_const", const=name, help=text)
    parser.set_defaults(scale="full")
    parser.add_argument("--month", action="store_true", help="measure the article's month")
    parser.add_argument(
        "--month-rows",
        type=int,
        default=ROWS,
        metavar="N",
        help="of all its partitions (%(default)s); another number makes it anew",
    )
    parser.add_argument(
        "--data", type=Path, default=HOME / "month", help="where it is kept (%(default)s)"
    )
    parser.add_argument("--build", action="store_true", help="only make it, measure nothing")
    parser.add_argument("--only", metavar="STEP,STEP", help=f"of {', '.join(STEPS)}")
    parser.add_argument("--rounds", type=int, help="of each comparison")
    parser.add_argument(
        "--out", type=Path, default=HOME / "last", help="folder for JSON, page and plots"
    )
    parser.add_argument("--publish", action="store_true", help="copy them to docs/bench/")
    parser.add_argument("--report", type=Path, metavar="FILE", help="only redraw a results.json")
    args = parser.parse_args()
    there = list(MONTH_STEPS if args.month else STEPS)
    usual = [name for name in there if args.scale != "quick" or name not in NOT_QUICK]
    args.steps = args.only.split(",") if args.only else usual
    args.whole = args.steps == usual
    unknown = [name for name in args.steps if name not in there]
    if args.rounds is not None and args.rounds < 1:
        parser.error("--rounds is 1 or more")
    if unknown:
        parser.error(f"no such step: {', '.join(unknown)}; there are {', '.join(there)}")
    if args.build and not args.month:
        parser.error("--build goes with --month")
    if args.month_rows < PARTITIONS:
        parser.error(f"--month-rows is {PARTITIONS} or more")
    return args


def _measure_all(args: argparse.Namespace, console: Console) -> int:
    scale = SCALES[args.scale]
    if args.rounds:
        scale = replace(scale, rounds=args.rounds, open_rounds=args.rounds)
    run = _Run(args, console, scale)
    with Servers(run.folder) as servers:
        lab = run.lab(servers)
        run.say(f"seeding {scale.bulk} rows a partition")
        lab.seed_bulk()
        return run.measure(lab, STEPS)


def _measure_month(args: argparse.Namespace, console: Console) -> int:
    each = args.month_rows // PARTITIONS
    scale = replace(SCALES[args.scale], bulk=0, purged=each, sealed=each)
    if args.scale == "full":
        scale = replace(scale, name="month", rounds=3)
    if args.rounds:
        scale = replace(scale, rounds=args.rounds)
    run = _Run(args, console, scale)
    month = Month.open(args.data, each * PARTITIONS)
    with Servers(run.folder, data=month.data, passwords=month.passwords) as servers:
        servers.past = GATEWAY_DATABASE
        size = month.ready(servers, run.say)
        pool = max(1, size // 10 // CHUNK) * CHUNK
        run.say(f"{each * PARTITIONS} states in {PARTITIONS} partitions, {size >> 20} MB")
        if args.build:
            return 0
        servers.set_buffer_pool(pool)
        lab = run.lab(servers)
        lab.record("month", rows=each * PARTITIONS, partitions=PARTITIONS, bytes=size, pool=pool)
        return run.measure(lab, month_steps(month))


class _Run:
    """A run of the benchmark: its clock, its folder, and where its results go."""

    def __init__(self, args: argparse.Namespace, console: Console, scale: Scale) -> None:
        self._args = args
        self._console = console
        self._scale = scale
        cores = sorted(os.sched_getaffinity(0))
        # Child processes inherit it.
        os.sched_setaffinity(0, cores[: report.CORES])
        if len(cores) < report.CORES:
            console.print(
                f"bench: {len(cores)} core; the figures are meant for {report.CORES}", style="bold"
            )
        self._started, self._begun = time.monotonic(), datetime.now(UTC)
        self._load_before = os.getloadavg()[0]
        self._stages: dict[str, float] = {}
        self._machine: dict[str, str] = {}
        self.folder = HOME / f"run-{os.getpid()}"
        self.say("building the plain Go peer and the load generator")
        HOME.mkdir(parents=True, exist_ok=True)
        self._go, self._generator = processes.build_go(HOME), load.build(HOME)

    def say(self, sentence: str) -> None:
        """A line of progress, with the time since the start."""
        minutes, seconds = divmod(int(time.monotonic() - self._started), 60)
        line = f"{minutes:>3}:{seconds:02} {sentence}"
        self._console.print(line, highlight=False, markup=False, soft_wrap=True)

    def lab(self, servers: Servers) -> Lab:
        """The lab in which the steps measure."""
        self._machine = _machine(servers)
        return Lab(servers, self._scale, self._go, self._generator, self.say)

    def measure(self, lab: Lab, steps: Steps) -> int:
        """Run the steps that were asked for, and report; return the exit status."""
        asked = self._args.steps
        self._stages["preparing"] = time.monotonic() - self._started
        broken_off = "it was interrupted"
        try:
            for number, name in enumerate(asked, 1):
                title, step = steps[name]
                self.say(f"--- {number} of {len(asked)}: {title}")
                began = time.monotonic()
                step(lab)
                self._stages[name] = time.monotonic() - began
                left = asked[number:]
                self._write(lab.records, f"{', '.join(left)} missing" if left else "")
            missing = [name for name in steps if name not in asked]
            broken_off = "" if self._args.whole else f"without {', '.join(missing)}"
        except ServerFailed as error:
            broken_off = f"{name}: {error}".splitlines()[0] if lab.records else str(error)
            raise
        finally:
            lab.stop_all()
            if lab.records:
                drawn = self._write(lab.records, broken_off)
        for table in tables(lab.records):
            table.show(self._console)
        if warning := report.busy(lab.records):
            self._console.print(warning, style="bold")
        if not drawn and not self._args.month:
            self.say("no plots: matplotlib is not installed (pip install -e '.[bench]')")
        if not broken_off:
            runs.remember(HOME, self._meta(""), lab.records)
        out = self._args.out
        results = report.MONTH if self._args.month else report.RESULTS
        self.say(f"written to {out}: {results}, {report.PAGE} and {len(drawn)} plots")
        return _published(self._args)

    def _write(self, records: Sequence[Record], broken_off: str) -> list[Path]:
        meta = self._meta(broken_off)
        return report.write(meta, records, self._args.out, month=self._args.month)

    def _meta(self, broken_off: str) -> dict[str, Any]:
        scale = self._scale
        meta = {
            "date": f"{self._begun:%Y-%m-%d %H:%M} UTC",
            "commit": _commit(),
            "scale": scale.name,
            "rounds": scale.rounds,
            "seconds": scale.seconds,
            "took_minutes": round((time.monotonic() - self._started) / 60, 1),
            "stages": {name: round(took) for name, took in self._stages.items()},
            "load_before": round(self._load_before, 2),
            "machine": self._machine,
            "broken_off": broken_off,
        }
        return {**meta, "earlier": runs.earlier(HOME, meta)}


def _published(args: argparse.Namespace) -> int:
    if args.publish:
        report.publish(args.out, PUBLISHED, month=args.month)
        print(f"copied to {PUBLISHED}")
    return 0


@contextlib.contextmanager
def _alone() -> Iterator[None]:
    """Allow one benchmark at a time in this folder, and remove what a killed one has left.

    Raises:
        ServerFailed: another benchmark runs.
    """
    HOME.mkdir(parents=True, exist_ok=True)
    with (HOME / "lock").open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ServerFailed(
                "another benchmark runs here, and two would disturb each other: wait for its end"
            ) from None
        for old in HOME.glob("run-*"):
            shutil.rmtree(old, ignore_errors=True)
        yield


@contextlib.contextmanager
def _interruptible() -> Iterator[None]:
    """SIGTERM ends the benchmark in order, as Ctrl-C does; so does SIGINT, also if it runs in the
    background of a shell, which makes it ignore SIGINT."""

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    before = {
        number: signal.signal(number, interrupt) for number in (signal.SIGTERM, signal.SIGINT)
    }
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _commit() -> str:
    argv = ["git", "-C", str(ROOT), "describe", "--always", "--dirty"]
    try:
        done = subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    except OSError:
        return "unknown"
    return done.stdout.strip() or "unknown"


def _machine(servers: Servers) -> dict[str, str]:
    cpu = "unknown CPU"
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                cpu = line.partition(":")[2].strip()
                break
    with servers.lookups[0].client() as client:
        redis = str(client.info("server")["redis_version"])
    go = subprocess.run(["go", "version"], capture_output=True, text=True).stdout.split()
    return {
        "CPU": f"{cpu} ({len(os.sched_getaffinity(0))} cores used)",
        "Linux": platform.release(),
        "Python": platform.python_version(),
        "Go": go[2].removeprefix("go") if len(go) > 2 else "unknown",
        "MariaDB": servers.engine.partition(" ")[2],
        "Redis": redis,
    }


if __name__ == "__main__":
    sys.exit(main())
