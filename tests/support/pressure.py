"""Sends as many requests as it can, on many connections, in a process of its own.

python -m tests.support.pressure PORT --connections 800 --seconds 10 --paths FILE

Each client asks for the paths of the file one after the other, each as soon as it has the answer to
the last one, also after a refusal. With `--churn N` a client makes a new connection after N
answers; one of three connections then ends with half a request, or with unread answers. Prints one
JSON object.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import resource
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import uvloop


class Tally:
    """Counts answers and broken connections; latencies are in seconds."""

    def __init__(self) -> None:
        self.statuses: Counter[str] = Counter()
        self.latencies: list[float] = []
        self.broken: Counter[str] = Counter()

    def as_json(self, seconds: float) -> dict[str, Any]:
        ordered = sorted(self.latencies) or [0.0]
        return {
            "statuses": dict(self.statuses),
            "broken": dict(self.broken),
            "rate": sum(self.statuses.values()) / seconds,
            "p50": ordered[len(ordered) // 2],
            "p99": ordered[int(len(ordered) * 0.99)],
            "worst": ordered[-1],
        }


async def client(
    port: int, requests: list[bytes], churn: int, warm: float, end: float, tally: Tally
) -> None:
    at = random.randrange(len(requests))
    while time.monotonic() < end:
        try:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
        except OSError as error:
            tally.broken[type(error).__name__] += 1
            await asyncio.sleep(0.05)
            continue
        answers = 0
        try:
            while time.monotonic() < end:
                if churn and answers >= churn:
                    rude = random.random()
                    if rude < 0.17:
                        writer.write(b"GET /mixes/1 HTT")
                    elif rude < 0.34:
                        writer.write(requests[at] * 3)
                    break
                at = (at + 1) % len(requests)
                asked = time.perf_counter()
                writer.write(requests[at])
                head = await reader.readuntil(b"\r\n\r\n")
                lower = head.lower()
                place = lower.find(b"content-length:")
                if place >= 0:
                    size = int(lower[place + 15 : lower.index(b"\r", place)])
                    await reader.readexactly(size)
                status = head[9:12].decode()
                tally.statuses[status] += 1
                answers += 1
                if status == "200" and time.monotonic() > warm:
                    tally.latencies.append(time.perf_counter() - asked)
                if b"connection: close" in lower:
                    break
        except (OSError, asyncio.IncompleteReadError) as error:
            tally.broken[type(error).__name__] += 1
        finally:
            writer.close()


async def press(args: argparse.Namespace) -> dict[str, Any]:
    paths = args.paths.read_text().split()
    requests = [f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode() for path in paths]
    tally, started = Tally(), time.monotonic()
    warm, end = started + args.warm, started + args.seconds
    await asyncio.gather(
        *(
            client(args.port, requests, args.churn, warm, end, tally)
            for _ in range(args.connections)
        )
    )
    return tally.as_json(time.monotonic() - started)


def start(
    port: int, paths: Path, *, connections: int, seconds: float, warm: float = 0, churn: int = 0
) -> subprocess.Popen[bytes]:
    """Start the process; its stdout is the JSON object."""
    argv = [sys.executable, "-m", "tests.support.pressure", str(port), "--paths", str(paths)]
    argv += ["--connections", str(connections), "--seconds", str(seconds), "--churn", str(churn)]
    argv += ["--warm", str(warm)]
    return subprocess.Popen(argv, stdout=subprocess.PIPE, cwd=Path(__file__).parents[2])


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("port", type=int)
    parser.add_argument("--paths", type=Path, required=True)
    parser.add_argument("--connections", type=int, default=64)
    parser.add_argument("--seconds", type=float, default=10)
    parser.add_argument("--warm", type=float, default=0, help="seconds before latencies count")
    parser.add_argument("--churn", type=int, default=0)
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    print(json.dumps(uvloop.run(press(parser.parse_args()))))


if __name__ == "__main__":
    main()
