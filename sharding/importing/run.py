"""A run of the import: one part after the other, at a rate, with progress.

If the source is lost, or MySQL fails over, the part begins anew, and finds the rows that it had
already imported. A run over everything records the days that are done in a file, for the next run
of the same command; not today and yesterday, which may still change in the source.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from datetime import UTC, date, datetime
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from failover.blocking_calls import in_thread
from failover.mysql.errors import MySQLError, PrimaryUnavailable
from failover.mysql.primary import Primary
from sharding.importing.mapping import BadRow, Encode, Record, record
from sharding.importing.sources import Part, Rows, Source, SourceLost
from sharding.importing.target import AHEAD, BUSY, OTHER, Step, Target, count
from sharding.partitions.calendar import oldest_kept, tomorrow, yesterday
from sharding.state import Owner

LONG = 10_000
"""Rows after which a run is a long one."""
CATCH_UP_SECONDS = 0.1
"""By so much a run that was slower than its rate is faster afterwards."""
AGAIN = 5
"""How many times a part is begun anew."""
AGAIN_SECONDS = 2.0
TELL_SECONDS = 5.0
"""Seconds between lines of progress, and of a run before its rate is worth saying."""
LONGEST_VALUE = 400
"""Characters of a bad row's value that are reported."""
REJECTED = "bad rows"
THREAD = "source"
"""The name of the threads that read the source."""
T = TypeVar("T")
Bad = tuple[str, str, dict[str, Any]]
"""A row that is no state: what it is called, what is wrong with it, its values."""


class Run:
    """One run of the command.

    Args:
        rate: most rows a second; 0 for no bound.
        reject: gets each bad row, a JSON object on a line.
        tell: gets lines of progress.
        when_long: is called once, after `LONG` rows.

    Attributes:
        counts: how many rows had each outcome.
        rejected: how many lines `reject` got.
        first_rejected: what the first of them says.
        mixes: the mixes of the Player's states that were read.
    """

    def __init__(
        self,
        source: Source,
        encode: Encode,
        rate: float,
        reject: Callable[[str], object],
        tell: Callable[[str], None],
        max_bytes: int = 1 << 16,
        when_long: Callable[[], None] = lambda: None,
    ) -> None:
        self.source = source
        self.counts: Counter[str] = Counter()
        self.rejected, self.first_rejected = 0, ""
        self.mixes: set[int] = set()
        self.sample: list[Step] = []
        self._encode = encode
        self._max_bytes = max_bytes
        self._when_long = when_long
        self._rate = rate
        self._report = reject
        self._tell = tell
        self._rows, self._where = 0, ""
        self._due = 0.0
        self._expected = 0
        self._began = self._told = time.monotonic()
        self._at = datetime.now(UTC).isoformat(timespec="seconds")

    async def into(
        self, primary: Primary, retention: int, done: Done | None, *, dry: bool, close: bool
    ) -> None:
        """Import all parts that are not done.

        Args:
            retention: days a state is kept.
            done: the parts that are done; None to read all parts.
            dry: only count what would be done, and collect a sample.
            close: close the days at the end, so that they are sealed again.

        Raises:
            BadSource, Refused, PrimaryUnavailable, MySQLError: the same command continues there.
        """
        parts: list[Part] | None = None
        left = AGAIN
        while True:
            try:
                if parts is None:
                    parts = await self._parts(primary, retention, done)
                many = self.source.since is None and not self.source.users
                a_day = max([part.rows for part in parts], default=0)
                async with Target.opened(
                    primary, retention, a_day, self._tell, many=many, dry=dry
                ) as target:
                    while parts:
                        await self._part(parts[0], target)
                        part, left = parts.pop(0), AGAIN
                        over = yesterday(await target.today())
                        if done and part.day is not None and part.day < over:
                            done.add(part.name)
                    if close and not dry:
                        await target.close()
                return
            except (SourceLost, PrimaryUnavailable, MySQLError) as error:
                final = isinstance(error, MySQLError) and not error.passing
                never = isinstance(error, SourceLost) and parts is None
                if final or never or not left:
                    raise
                left -= 1
                self._tell(f"begun anew in {AGAIN_SECONDS:.0f} s: {error}")
                await asyncio.sleep(AGAIN_SECONDS)

    async def _parts(self, primary: Primary, retention: int, done: Done | None) -> list[Part]:
        async with Target.opened(primary, retention) as target:
            today = await target.today()
        kept = oldest_kept(today, retention), tomorrow(today)
        parts = await self.parts(*kept)
        self._expected = sum(part.rows for part in parts)
        return [part for part in parts if done is None or part.name not in done]

    async def _part(self, part: Part, target: Target) -> None:
        before = self.counts.copy()
        try:
            await self._take(part, target)
        except (SourceLost, PrimaryUnavailable, MySQLError):
            self.counts = before
            raise

    async def _take(self, part: Part, target: Target) -> None:
        before = self._rows
        async for records in self.records(part):
            steps = await target.take(records, self.passed)
            self._rows += len(records) - len(steps)  # keys that came twice
            self.mixes.update([r.key.playlist_id for r in records if r.owner is Owner.PLAYER])
            self.counts.update(count(steps))
            for step in steps:
                if step.outcome in (AHEAD, BUSY, OTHER):
                    self._reject(
                        f"user {step.record.key.user_id}", step.outcome, _values(step.record)
                    )
            self.sample += steps[: max(0, 10 - len(self.sample))]
        if self._rows > before:
            self._say()

    async def parts(self, oldest: date, newest: date) -> list[Part]:
        """The source's parts of these days."""
        return await self._answer(self._ask(partial(self.source.parts, oldest, newest)))

    async def records(self, part: Part) -> AsyncIterator[list[Record]]:
        """The records of a part, in batches; the next batch is made meanwhile. Bad rows are
        rejected."""
        self._where = part.name
        rows = self.source.rows(part)
        read = partial(self._next, rows, part)
        reading = self._ask(read)
        try:
            while (batch := await self._answer(reading)) is not None:
                reading = self._ask(read)
                records, bad = batch
                yield records
                for one in bad:
                    self._reject(*one)
                self.counts.update({REJECTED: len(bad)} if bad else {})
                self._rows += len(bad)
        finally:
            if reading.done() and not reading.cancelled():
                reading.exception()
                close: Any = getattr(rows, "close", None)
                await in_thread(THREAD, close)
            else:  # it is left to its thread, which does not keep the process alive
                reading.cancel()

    @staticmethod
    def _ask(call: Callable[[], T]) -> asyncio.Task[T]:
        """Let the source do something, in a thread."""
        return asyncio.create_task(in_thread(THREAD, call))

    async def _answer(self, asked: asyncio.Task[T]) -> T:
        """What the source answers; say so as long as it does not."""
        since = time.monotonic()
        while not (await asyncio.wait([asked], timeout=TELL_SECONDS))[0]:
            seconds = time.monotonic() - since
            self._tell(f"{self._where or 'the source'}: nothing was read for {seconds:.0f} s")
        return await asked

    async def passed(self, rows: int) -> None:
        """So many rows are done: tell so at times, and wait as long as the rate says."""
        self._rows += rows
        if self._rows - rows < LONG <= self._rows:
            self._when_long()
        now = time.monotonic()
        if now - self._told > TELL_SECONDS:
            self._say()
        if self._rate:
            self._due = max(self._due, now - CATCH_UP_SECONDS) + rows / self._rate
            await asyncio.sleep(max(0.0, self._due - now))

    def _next(self, rows: Iterator[Rows], part: Part) -> tuple[list[Record], list[Bad]] | None:
        """The next batch, in a thread: while MySQL works, this process reads."""
        batch = next(rows, None)
        if batch is None:
            return None
        records, bad = [], []
        for name, values in batch:
            try:
                records.append(record(values, part.day, self._encode, self._max_bytes))
            except BadRow as error:
                bad.append((name, str(error), values))
        return records, bad

    def _reject(self, name: str, reason: str, values: dict[str, Any]) -> None:
        shown = {name: _shown(value) for name, value in values.items() if name != "broken"}
        line = {"run": self._at, "row": name, "reason": reason, "values": shown}
        self.rejected += 1
        self.first_rejected = self.first_rejected or f"{name}: {reason}"
        self._report(json.dumps(line) + "\n")

    def _say(self) -> None:
        now = time.monotonic()
        self._told = now
        line = f"{self._where}: {self._rows:,} {'row' if self._rows == 1 else 'rows'}"
        if now - self._began > TELL_SECONDS:
            rate = self._rows / (now - self._began)
            left = self._expected - self._rows
            ahead = f", about {left / rate:.0f} s left" if left > 0 and rate else ""
            line += f", {rate:,.0f} a second{ahead}"
        self._tell(line)


def _shown(value: Any) -> Any:
    """A row's value for the report of bad rows: as it is if it is short JSON, else as text."""
    if isinstance(value, bytes | bytearray):
        value = value.decode(errors="backslashreplace")
    if isinstance(value, str):
        return value[:LONGEST_VALUE]
    try:
        whole = len(json.dumps(value, allow_nan=False)) <= LONGEST_VALUE
    except (TypeError, ValueError, RecursionError):
        whole = False
    return value if whole else str(value)[:LONGEST_VALUE]


def _values(record: Record) -> dict[str, Any]:
    user, playlist = record.key
    return {"user": user, "playlist": playlist, "day": record.day, "body": record.body}


class Done:
    """The parts that are done, in a file beside the map, which is removed once all are.

    Args:
        path: the file.
        what: names the import; the file of another import is ignored.
    """

    def __init__(self, path: Path, what: str) -> None:
        self._path = path
        self._what = hashlib.blake2b(what.encode(), digest_size=16).hexdigest()
        self._parts: list[str] = []
        try:
            said = json.loads(path.read_text())
            if said["import"] == self._what:
                self._parts = list(said["done"])
        except (OSError, ValueError, KeyError, TypeError):
            pass

    def __contains__(self, part: str) -> bool:
        return part in self._parts

    def add(self, part: str) -> None:
        """Record that a part is done."""
        self._parts.append(part)
        new = self._path.with_name(self._path.name + ".new")
        new.write_text(json.dumps({"import": self._what, "done": self._parts}))
        os.replace(new, self._path)

    def over(self) -> None:
        """Remove the file: all parts are done."""
        self._path.unlink(missing_ok=True)
