"""The article's month: 45 million states in 30 day partitions, made once and kept for later runs.

What is kept is the data directory of the database server, with `month.json` beside it, which says
what it holds. It is used again if that is what is asked for; otherwise it is made anew.

The partitions are those of the 30 days before today. On another day they are renamed: the tables,
and with them the stored filters, whose content does not depend on the day. A table takes its seal
along, which is in its comment, so each filter is still that of its table and is believed. (The
server's clock could be set back instead, but the library that does it slows each statement down.)
"""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import date, timedelta
from pathlib import Path

from bench import sealed, seed, workloads
from bench.servers import GATEWAY, PLAIN, Servers
from bench.workloads import BACK, COLD, MISS, Prepared, Workload
from sharding.partitions import filter_table, seal_mark, sql
from sharding.partitions.calendar import day_of, table, yesterday
from stack.datadir import Passwords
from stack.process import ServerFailed

ROWS = 45_000_000
PARTITIONS = 30
MIX = 1
"""The mix that all states are for."""

_FIRST = 1 << 41
_STEP = 1024
"""Ids of users are interleaved: in each partition they reach from one end to the other, so that a
key of another day, or of none, would lie between its rows. The remainder of an id is the days
back."""
_NOWHERE = PARTITIONS + 1
"""The first remainder of users who have no state."""
BACK_DAYS = range(1, PARTITIONS + 1)


@dataclass
class Month:
    """A month on disk.

    Args:
        folder: where it lies.
        each: rows of a partition.
        passwords: of the server's users.
        newest: the day of the newest partition.
        filled: the days back of the partitions that are there.
        taken: by days back, how many users runs have asked for.
        absent: users without a state whom this run has asked for.
    """

    folder: Path
    each: int
    passwords: Passwords
    newest: date
    filled: set[int] = field(default_factory=set)
    taken: dict[int, int] = field(default_factory=dict)
    absent: int = 0

    @classmethod
    def open(cls, folder: Path, total: int) -> Month:
        """Read the month in the folder; remove it if another one is wanted.

        Raises:
            ServerFailed: something else lies in the folder.
        """
        each = total // PARTITIONS
        description = folder / "month.json"
        if folder.exists() and any(folder.iterdir()) and not description.exists():
            raise ServerFailed(f"{folder} is not empty, and holds no month: name another folder")
        try:
            found = json.loads(description.read_text())
            fits = found["schema"] == _schema() and found["each"] == each and found["filled"]
        except (OSError, ValueError, KeyError):
            fits = False
        if not fits:
            folder.mkdir(parents=True, exist_ok=True)
            made = cls(folder, each, Passwords(), yesterday(seed.today()))
            shutil.rmtree(made.data, ignore_errors=True)
            made.save()
            return made
        return cls(
            folder,
            each,
            Passwords(**found["passwords"]),
            date.fromisoformat(found["newest"]),
            set(found["filled"]),
            {int(back): count for back, count in found["taken"].items()},
        )

    @property
    def data(self) -> Path:
        """The server's data directory."""
        return self.folder / "mysql"

    def day(self, back: int) -> date:
        """The partition of so many days back, 1 for the newest."""
        return self.newest - timedelta(days=back - 1)

    def save(self) -> None:
        """Write the description."""
        partial = self.folder / "month.json.new"
        passwords = self.passwords
        described = {
            "schema": _schema(),
            "each": self.each,
            "newest": self.newest.isoformat(),
            "filled": sorted(self.filled),
            "taken": self.taken,
            "passwords": {
                "admin": passwords.admin,
                "replication": passwords.replication,
                "gateway": passwords.gateway,
            },
        }
        with os.fdopen(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
            json.dump(described, file, indent=1)
        partial.replace(self.folder / "month.json")

    # --- making it

    def ready(self, servers: Servers, say: Callable[[str], None]) -> int:
        """Make the month on disk the 30 days before today, whole and sealed; and today's partition,
        empty.

        Returns:
            The bytes of all partitions.
        """
        self._align(servers)
        self._fill(servers, say)
        self._seal(servers, say)
        with servers.connect(GATEWAY) as cursor:
            cursor.execute(
                "SELECT SUM(data_length) FROM information_schema.tables"
                " WHERE table_schema = DATABASE() AND table_name LIKE 'player_state_%'"
            )
            return int(cursor.fetchone()[0])

    def _align(self, servers: Servers) -> None:
        """Give the partitions the names of the days before today, and drop all other ones."""
        target = yesterday(seed.today())
        with servers.connect(GATEWAY) as cursor:
            cursor.execute("SHOW TABLES LIKE 'player_state_%'")
            there = {day for (name,) in cursor.fetchall() if (day := day_of(name)) is not None}
            if any(self.day(back) not in there for back in self.filled):
                self.newest = target  # an earlier run was interrupted after the renaming
            kept = [day for day in map(self.day, BACK_DAYS) if day in there]
            for day in there - set(kept):
                cursor.execute(f"DROP TABLE {table(day)}")
            moved = target - self.newest
            # Forward: the newest first; back: the oldest first. So each new name is free.
            kept.sort(reverse=moved > timedelta())
            pairs = [(table(day), table(day + moved)) for day in kept] if moved else []
            if pairs:
                names = ", ".join(f"{old} TO {new}" for old, new in pairs)
                cursor.execute(f"RENAME TABLE {names}")
                cursor.execute(filter_table.CREATE)
                names = ", ".join(f"'{old}'" for old, _ in pairs)
                cursor.execute(
                    f"DELETE FROM {filter_table.TABLE} WHERE partition_name NOT IN ({names})"
                )
            for old, new in pairs:
                cursor.execute(
                    f"UPDATE {filter_table.TABLE} SET partition_name=%s WHERE partition_name=%s",
                    (new, old),
                )
            self.newest = target
            cursor.execute(seal_mark.CREATE)
            cursor.execute(seal_mark.BEGIN)
            cursor.execute(f"UPDATE {seal_mark.TABLE} SET sealed='{target}'")
            for day in (seed.days_ago(-1), seed.today()):
                cursor.execute(sql.create_table(day))
        with servers.connect(PLAIN) as cursor:
            cursor.execute("SHOW TABLES LIKE 'player_state_%'")
            for (name,) in cursor.fetchall():
                cursor.execute(f"DROP TABLE {name}")
            for number in range(-1, PARTITIONS + 1):
                cursor.execute(seed.PLAIN_TABLE.format(name=table(seed.days_ago(number))))
        self.save()

    def _fill(self, servers: Servers, say: Callable[[str], None]) -> None:
        """Make the missing partitions, and make anew those of which more than half is used up."""
        for back in BACK_DAYS:
            if self.taken.get(back, 0) > self.each // 2:
                self.filled.discard(back)
        missing = [back for back in BACK_DAYS if back not in self.filled]
        began, values = time.monotonic(), seed.gateway_values(MIX)
        for number, back in enumerate(missing, 1):
            name = table(self.day(back))
            with servers.connect(GATEWAY) as cursor:
                cursor.execute(f"DROP TABLE IF EXISTS {name}")
                cursor.execute(sql.create_table(self.day(back)))
                cursor.execute(
                    f"INSERT INTO {name} ({seed.GATEWAY_COLUMNS})"
                    f" SELECT {_FIRST + back}+{_STEP}*seq,{values}"
                    f" FROM {servers.numbers(0, self.each)}"
                )
            self.filled.add(back)
            self.taken[back] = 0
            self.save()
            say(_progress(f"{name} filled", number, len(missing), self.each, began))

    def _seal(self, servers: Servers, say: Callable[[str], None]) -> None:
        """Seal the partitions that are not sealed: none, if all filters are valid."""
        began = time.monotonic()

        def told(day: date) -> None:
            number = (self.newest - day).days + 1
            say(_progress(f"{table(day)} sealed", number, PARTITIONS, self.each, began))

        sealed.seal(servers.gateway(), map(self.day, BACK_DAYS), again=False, say=told)

    # --- users for runs

    def take(self, back: int, count: int) -> range:
        """Users whose state lies so many days back, and whom no run has asked for yet.

        Raises:
            ServerFailed: there are not so many left.
        """
        start = self.taken.get(back, 0)
        if start + count > self.each:
            raise ServerFailed(
                f"the month's users of {back} days back are used up: run it again, and their "
                "partition is made anew"
            )
        self.taken[back] = start + count
        self.save()
        first = _FIRST + back + _STEP * start
        return range(first, first + _STEP * count, _STEP)

    def take_absent(self, count: int) -> list[int]:
        """Users who have no state, and whom this run has not asked for yet."""
        numbers = range(self.absent, self.absent + count)
        self.absent += count
        return [
            _FIRST + _STEP * (n % self.each) + _NOWHERE + n // self.each % (_STEP - _NOWHERE)
            for n in numbers
        ]

    def workloads(self) -> tuple[Workload, ...]:
        """First touches of these states, under the names that other runs give them."""

        def prepare(days_back: Sequence[int]) -> Callable[[Servers, str, int], Prepared]:
            def of(servers: Servers, store: str, requests: int) -> Prepared:
                count = -(-requests // len(days_back))
                groups = [(self.day(back), self.take(back, count)) for back in days_back]
                return Prepared(workloads.returning(servers, store, groups, MIX), range(0))

            return of

        def nowhere(servers: Servers, _: str, requests: int) -> Prepared:
            users = self.take_absent(requests)
            return Prepared(workloads.starting(servers, users), range(0))

        return (
            replace(MISS, prepare=nowhere),
            replace(COLD, prepare=prepare([1]), seeds=False),
            replace(BACK, prepare=prepare(range(2, PARTITIONS)), seeds=False),
        )


def _schema() -> str:
    """A text that changes with the tables' columns or the rows' values."""
    return f"{PARTITIONS} {sql.create_table(date.min)} {seed.gateway_values(MIX)}"


def _progress(what: str, done: int, of: int, each: int, began: float) -> str:
    took = time.monotonic() - began
    left = took / done * (of - done)
    return (
        f"{what}: {done} of {of}, {done * each / took:,.0f} rows/s, "
        f"{int(left) // 60}:{int(left) % 60:02} to go"
    )
