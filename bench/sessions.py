"""Listeners' sessions against a running gateway, each checked answer by answer.

    python -m bench.sessions --listeners 10000 --clients 64

A listener gets a token, plays a mix, moves on by next and skip, reports tracks, comes back, and at
the end asks what was played: every acknowledged move must be in that list, once and in order.
Exit status 0 only if every listener's place was kept and no request failed.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import aiohttp
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn


@dataclass
class Tally:
    """The counts of a run."""

    requests: int = 0
    sessions: int = 0
    statuses: Counter[int] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)

    def percentile(self, share: float) -> float:
        """Latency in milliseconds that this share of the requests stayed under."""
        ordered = sorted(self.seconds)
        return ordered[min(len(ordered) - 1, int(len(ordered) * share))] * 1000 if ordered else 0.0


class Listener:
    """One listener's session in one mix."""

    def __init__(
        self, http: aiohttp.ClientSession, url: str, mix: int, chance: random.Random, tally: Tally
    ) -> None:
        self._http = http
        self._url = url
        self._mix = mix
        self._chance = chance
        self._tally = tally
        self._token = ""
        self._place: int | None = None
        self._played: list[int] = []

    async def run(self, moves: int) -> None:
        """Play, move, come back, and check that the place is the same."""
        self._token = (await self._get("/sets/new"))["play_token"]
        self._moved(await self._call("play"))
        for _ in range(moves):
            chosen = self._chance.random()
            if chosen < 0.7:
                self._moved(await self._call("next"))
            elif chosen < 0.85:
                answer = await self._call("skip", refusable=True)
                if "set" in answer:
                    self._moved(answer)
            elif chosen < 0.95 and self._place is not None:
                await self._call("report", track_id=self._place)
            else:
                back = (await self._call("play"))["set"]["track"].get("id")
                if self._place is not None and back != self._place:
                    self._wrong(f"came back to track {back}, was at {self._place}")
                elif self._place is None:
                    self._played = [back]  # after the end: from the first track again
                self._place = back
        kept = [track["id"] for track in (await self._call("tracks_played"))["tracks"]]
        if kept != self._played:
            self._wrong(f"played {self._played}, kept {kept}")
        self._tally.sessions += 1

    def _moved(self, answer: dict[str, Any]) -> None:
        track = answer.get("set", {}).get("track", {}).get("id")
        if track is not None and track != self._place:
            self._played.append(track)
        self._place = track

    def _wrong(self, what: str) -> None:
        self._tally.wrong.append(f"mix {self._mix}: {what}")

    async def _call(self, action: str, refusable: bool = False, **more: int) -> dict[str, Any]:
        params = {"mix_id": self._mix, **more}
        return await self._get(f"/sets/{self._token}/{action}", params, refusable)

    async def _get(
        self, path: str, params: dict[str, int] | None = None, refusable: bool = False
    ) -> dict[str, Any]:
        started = time.perf_counter()
        async with self._http.get(self._url + path, params=params) as response:
            answer: dict[str, Any] = await response.json()
        self._tally.seconds.append(time.perf_counter() - started)
        self._tally.requests += 1
        self._tally.statuses[response.status] += 1
        if response.status != 200 and not (refusable and response.status == 403):
            raise ConnectionError(f"{response.status}: {answer.get('errors')}")
        return answer


async def play(args: argparse.Namespace) -> tuple[Tally, float]:
    """Run all sessions; return the counts, and how many seconds it took."""
    tally = Tally()
    waiting = iter(range(args.listeners))
    connector = aiohttp.TCPConnector(limit=args.clients)
    progress = Progress(
        TextColumn("sessions"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        disable=not sys.stderr.isatty(),
    )
    async with aiohttp.ClientSession(connector=connector) as http:
        async with http.get(args.url + "/mix_sets/all", params={"per_page": 100}) as response:
            mixes = [mix["id"] for mix in (await response.json())["mix_set"]["mixes"]]
        bar = progress.add_task("", total=args.listeners)

        async def client() -> None:
            for number in waiting:
                chance = random.Random(args.seed * 1_000_003 + number)
                listener = Listener(http, args.url, chance.choice(mixes), chance, tally)
                try:
                    await listener.run(args.moves)
                except (aiohttp.ClientError, ConnectionError, TimeoutError) as error:
                    tally.wrong.append(f"listener {number}: {type(error).__name__}: {error}")
                progress.advance(bar)

        started = time.perf_counter()
        with progress:
            await asyncio.gather(*(client() for _ in range(args.clients)))
        return tally, time.perf_counter() - started


def main() -> int:
    """Parse the arguments, run, report."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--url", default="http://127.0.0.1:8080", help="the gateway")
    parser.add_argument("--listeners", type=int, default=10_000)
    parser.add_argument("--clients", type=int, default=64, help="sessions at the same time")
    parser.add_argument("--moves", type=int, default=12, help="requests after the first, a session")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", action="store_true", help="answer as JSON")
    args = parser.parse_args()
    tally, seconds = asyncio.run(play(args))
    report = {
        "sessions": tally.sessions,
        "requests": tally.requests,
        "seconds": round(seconds, 1),
        "requests_per_second": round(tally.requests / seconds),
        "p50_ms": round(tally.percentile(0.50), 1),
        "p99_ms": round(tally.percentile(0.99), 1),
        "statuses": {str(status): number for status, number in sorted(tally.statuses.items())},
        "places_lost_or_errors": len(tally.wrong),
    }
    if args.json:
        print(json.dumps(report, indent=2))
    else:
        for name, value in report.items():
            print(f"{name.replace('_', ' '):<24}{value}")
    for line in tally.wrong[:20]:
        print(line, file=sys.stderr)
    return 0 if not tally.wrong and tally.sessions == args.listeners else 1


if __name__ == "__main__":
    sys.exit(main())
