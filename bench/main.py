"""`make bench`: the whole benchmark, step by step.

    make bench                        # everything, under an hour
    make bench ARGS=--quick           # a look, under five minutes
    make bench ARGS="--only throughput,purge"
    make bench ARGS=--publish         # and put page, plots and results into docs/bench/

Results are kept after each step, so a run that is broken off is not lost.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import os
import platform
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rich.console import Console

from bench import load, report
from bench.experiments import memory, node_loss, open_loop, partitions, purge, throughput
from bench.lab import Lab, Scale
from bench.peers import processes
from bench.servers import Servers
from bench.tables import tables
from stack.process import ServerFailed

ROOT = Path(__file__).resolve().parent.parent
HOME = ROOT / ".tapedeck" / "bench"
"""On the disk, like the data of a real server: in memory a flush would cost nothing."""
PUBLISHED = ROOT / "docs" / "bench"

SCALES = {
    "quick": Scale("quick", rounds=2, seconds=1.6, warmup=0.4, bulk=3_000),
    "full": Scale("full", rounds=5, seconds=5.0, warmup=1.0, bulk=20_000),
    "long": Scale("long", rounds=7, seconds=8.0, warmup=1.0, bulk=50_000),
    # For the test that it runs at all.
    "tiny": Scale("tiny", rounds=1, seconds=0.5, warmup=0.1, bulk=50, purged=5_000),
}
STEPS: dict[str, tuple[str, Callable[[Lab], None]]] = {
    "memory": ("what Redis's memory holds", memory.everything),
    "throughput": ("peers and gateway, by workload", throughput.by_workload),
    "open_loop": ("latency at a load that does not wait", open_loop.latencies),
    "connections": ("1 to 512 connections", throughput.by_connections),
    "workers": ("one worker and two", throughput.by_workers),
    "purge": ("the nightly purge under load", purge.purges),
    "node_loss": ("a lookup node lost in mid-run", node_loss.losses),
    "partitions": ("loads by the number of partitions", partitions.by_count),
    "rows": ("loads by the number of rows", partitions.by_rows),
}


def main() -> int:
    """Parse the arguments, run, report; the exit status."""
    args = _arguments()
    # A file or a pipe has no width: lines are left whole there.
    console = Console(width=None if sys.stdout.isatty() else 180)
    if args.report is not None:
        try:
            meta, records = report.read(args.report)
        except (OSError, ValueError) as error:
            print(f"bench: {error}", file=sys.stderr)
            return 1
        report.write(meta, records, args.out)
        for table in tables(records):
            table.show(console)
        return _published(args)
    try:
        with _alone(), _interruptible():
            return _measure(args, console)
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
    parser.add_argument("--only", metavar="STEP,STEP", help=f"of {', '.join(STEPS)}")
    parser.add_argument("--rounds", type=int, help="of each comparison")
    parser.add_argument(
        "--out", type=Path, default=HOME / "last", help="folder for JSON, page and plots"
    )
    parser.add_argument("--publish", action="store_true", help="copy them to docs/bench/")
    parser.add_argument("--report", type=Path, metavar="FILE", help="only redraw a results.json")
    args = parser.parse_args()
    args.steps = args.only.split(",") if args.only else list(STEPS)
    unknown = [name for name in args.steps if name not in STEPS]
    if args.rounds is not None and args.rounds < 1:
        parser.error("--rounds is 1 or more")
    if unknown:
        parser.error(f"no such step: {', '.join(unknown)}; there are {', '.join(STEPS)}")
    return args


def _measure(args: argparse.Namespace, console: Console) -> int:
    scale = SCALES[args.scale]
    if args.rounds:
        scale = Scale(scale.name, args.rounds, scale.seconds, scale.warmup, scale.bulk)
    cores = sorted(os.sched_getaffinity(0))
    # Children inherit it.
    os.sched_setaffinity(0, cores[: report.CORES])
    if len(cores) < report.CORES:
        console.print(
            f"bench: {len(cores)} core; the figures are meant for {report.CORES}", style="bold"
        )
    started, begun = time.monotonic(), datetime.now(UTC)
    load_before = os.getloadavg()[0]
    folder = HOME / f"run-{os.getpid()}"

    def say(sentence: str) -> None:
        minutes, seconds = divmod(int(time.monotonic() - started), 60)
        console.print(f"{minutes:>3}:{seconds:02} {sentence}", highlight=False, soft_wrap=True)

    def meta(broken_off: str) -> dict[str, Any]:
        return {
            "date": f"{begun:%Y-%m-%d %H:%M} UTC",
            "commit": _commit(),
            "scale": scale.name,
            "rounds": scale.rounds,
            "seconds": scale.seconds,
            "took_minutes": round((time.monotonic() - started) / 60, 1),
            "load_before": round(load_before, 2),
            "machine": machine,
            "broken_off": broken_off,
        }

    say("building the plain Go peer and the load generator")
    HOME.mkdir(parents=True, exist_ok=True)
    go, generator = processes.build_go(HOME), load.build(HOME)
    with Servers(folder) as servers:
        machine = _machine(servers)
        lab = Lab(servers, scale, go, generator, say)
        broken_off = "it was interrupted"
        try:
            say(f"seeding {scale.bulk} rows a partition")
            lab.seed_bulk()
            for number, name in enumerate(args.steps, 1):
                title, step = STEPS[name]
                say(f"--- {number} of {len(args.steps)}: {title}")
                step(lab)
                left = args.steps[number:]
                report.write(
                    meta(f"{', '.join(left)} missing" if left else ""), lab.records, args.out
                )
            missing = [name for name in STEPS if name not in args.steps]
            broken_off = f"without {', '.join(missing)}" if missing else ""
        except ServerFailed as error:
            broken_off = f"{name}: {error}".splitlines()[0] if lab.records else str(error)
            raise
        finally:
            lab.stop_all()
            if lab.records:
                drawn = report.write(meta(broken_off), lab.records, args.out)
    for table in tables(lab.records):
        table.show(console)
    if warning := report.busy(lab.records):
        console.print(warning, style="bold")
    if not drawn:
        say("no plots: matplotlib is not installed (pip install -e '.[bench]')")
    say(f"written to {args.out}: {report.RESULTS}, {report.PAGE} and {len(drawn)} plots")
    return _published(args)


def _published(args: argparse.Namespace) -> int:
    if args.publish:
        report.publish(args.out, PUBLISHED)
        print(f"copied to {PUBLISHED}")
    return 0


@contextlib.contextmanager
def _alone() -> Iterator[None]:
    """One benchmark at a time in this folder; what a killed one has left behind goes.

    Raises:
        ServerFailed: another one runs.
    """
    HOME.mkdir(parents=True, exist_ok=True)
    with (HOME / "lock").open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ServerFailed(
                "another benchmark runs here; two would measure each other"
            ) from None
        for old in HOME.glob("run-*"):
            shutil.rmtree(old, ignore_errors=True)
        yield


@contextlib.contextmanager
def _interruptible() -> Iterator[None]:
    """SIGTERM ends it as Ctrl-C does: in order; and so does SIGINT where a shell that put it into
    the background had it ignored."""

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
        "MariaDB": str(servers.mysql.query("SELECT VERSION()")[0][0]),
        "Redis": redis,
    }


if __name__ == "__main__":
    sys.exit(main())
