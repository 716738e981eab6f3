"""Runs the load generator (loadgen/loadgen.c) and reads what it measured."""

from __future__ import annotations

import json
import struct
import subprocess
from collections import Counter
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

from bench import stats
from stack.process import ServerFailed

SOURCE = Path(__file__).parent / "loadgen" / "loadgen.c"
_SAMPLE = struct.Struct("=IIHH")
GRACE = 30.0
"""Seconds that the generator may take longer than it should before it counts as hung."""


def build(into: Path) -> Path:
    """Compile the generator.

    Raises:
        ServerFailed: it does not compile; the text has the compiler's output.
    """
    binary = into / "loadgen"
    argv = ["gcc", "-O2", "-o", str(binary), str(SOURCE), "-lm"]
    try:
        done = subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    except FileNotFoundError:
        raise ServerFailed("gcc is not installed: `make bench` installs it") from None
    if done.returncode != 0:
        raise ServerFailed(f"the load generator does not build:\n{done.stderr}")
    return binary


class Sample(NamedTuple):
    """One request.

    Attributes:
        due: seconds from the start.
        latency: milliseconds from when it was due.
        status: of HTTP; 0 where the connection broke.
        number: its place in its session, from 0.
    """

    due: float
    latency: float
    status: int
    number: int


@dataclass(frozen=True)
class Measured:
    """A run of the generator.

    Attributes:
        began: its start on this machine's monotonic clock, seconds.
        until: how many seconds it was at full load: to its end, or until the prepared sessions ran
            out.
        samples: of all requests, in the order of their answers.
        warmup: seconds at the start that rates and latencies leave out.
    """

    began: float
    until: float
    samples: list[Sample]
    warmup: float

    @cached_property
    def kept(self) -> list[Sample]:
        """The samples at full load after the warm-up."""
        return [s for s in self.samples if self.warmup <= s.due < self.until]

    @property
    def rate(self) -> float:
        """Good answers a second."""
        good = sum(
            1
            for s in self.samples
            if s.status == 200 and self.warmup <= s.due + s.latency / 1000 < self.until
        )
        return good / (self.until - self.warmup)

    @cached_property
    def latencies(self) -> list[float]:
        """Milliseconds, ascending."""
        return sorted(s.latency for s in self.kept)

    def percentile(self, share: float) -> float:
        """A latency in milliseconds; 0 without a request."""
        return stats.percentile(self.latencies, share) if self.latencies else 0.0

    @property
    def errors(self) -> int:
        """Requests of the whole run that had no answer, or another one than 200."""
        return sum(1 for s in self.samples if s.status != 200)

    @property
    def statuses(self) -> dict[str, int]:
        """Requests by status."""
        counted = Counter(s.status for s in self.samples)
        return {str(status): counted[status] for status in sorted(counted)}

    def between(self, start: float, end: float) -> list[float]:
        """Ascending latencies of the requests that were due between two monotonic times."""
        low, high = start - self.began, end - self.began
        return sorted(s.latency for s in self.samples if low <= s.due < high)


class Load:
    """A run under way.

    Args:
        binary: what `build` made.
        port: of the peer, on 127.0.0.1.
        sessions: a file of paths; see loadgen.c.
        connections: at the same time.
        seconds: how long.
        warmup: of them, what is left out.
        rate: requests a second in the open loop; 0 for the closed one.
        seed: of the arrivals.
    """

    def __init__(
        self,
        binary: Path,
        port: int,
        sessions: Path,
        *,
        connections: int,
        seconds: float,
        warmup: float,
        rate: float = 0,
        seed: int = 1,
    ) -> None:
        self._seconds = seconds
        self._warmup = warmup
        self._file = sessions.with_suffix(".samples")
        argv = [str(binary), str(port), str(connections), str(seconds), str(rate), str(seed)]
        # It ends by itself, also if this process is killed.
        self.process = subprocess.Popen(
            [*argv, str(sessions), str(self._file)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def finish(self) -> Measured:
        """Wait for its end.

        Raises:
            ServerFailed: it failed, or did not end.
        """
        try:
            out, err = self.process.communicate(timeout=self._seconds + GRACE)
        except BaseException as error:
            self.process.kill()
            self.process.wait()
            if isinstance(error, subprocess.TimeoutExpired):
                raise ServerFailed("the load generator did not end") from None
            raise
        if self.process.returncode != 0:
            raise ServerFailed(f"the load generator failed: {err.strip()}")
        told = json.loads(out)
        samples = [
            Sample(due / 1e6, latency / 1e3, status, number)
            for due, latency, status, number in _SAMPLE.iter_unpack(self._file.read_bytes())
        ]
        self._file.unlink()
        until = self._seconds if told["dry_us"] is None else told["dry_us"] / 1e6
        if not samples:
            raise ServerFailed("the load generator made no request")
        return Measured(told["began"], until, samples, min(self._warmup, until / 2))
