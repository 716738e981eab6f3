"""Gateways with one invariant broken on purpose: the proof that the drills can fail.

    python -m drills.sabotage NAME serve --config FILE

It is `tapedeck serve`, patched in this process alone. The product has no switch for any of this.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Mapping, Sequence
from datetime import date
from typing import Any, NamedTuple

import failover.mysql.primary
import sharding.partitions.days
import sharding.partitions.sql
import sharding.store.idempotency
import sharding.store.reader
import sharding.store.writer
from failover.mysql.errors import Fault, MySQLError
from failover.mysql.fencing import Adopt, NoneToAdopt
from sharding.batching import Waiter
from sharding.filters.filters import FilterSet, spread
from sharding.partitions.calendar import table, utc_day
from sharding.partitions.sql import NewRow, Row, insert, read
from sharding.state import Key
from sharding.store.plan import Loaded, Plan
from sharding.store.reader import Reader
from sharding.store.session_cache import SessionCache
from sharding.store.writer import Writer


class Sabotage(NamedTuple):
    """One broken invariant.

    Attributes:
        about: what is broken.
        apply: breaks it in this process.
        drill: the drill that shows it best.
    """

    about: str
    apply: Callable[[], None]
    drill: str


def patch(owner: object, name: str, value: object) -> None:
    """Put something else in the place of what is there; a name that is not there is a mistake."""
    getattr(owner, name)
    setattr(owner, name, value)


def _no_compare_and_set() -> None:
    def update(day: Any, row: NewRow) -> str:
        return (
            f"UPDATE {table(day)} SET {row.assignments} WHERE user_id={row.key.user_id}"
            f" AND playlist_id={row.key.playlist_id}"
        )

    def upsert(day: Any, rows: Sequence[NewRow]) -> str:
        sets = ",".join(
            f"{column}=VALUES({column})" for column in ("owner", "state", "operations", "version")
        )
        return f"{insert(day, rows)} ON DUPLICATE KEY UPDATE {sets}"

    patch(sharding.partitions.sql, "update", update)
    patch(sharding.partitions.sql, "upsert", upsert)


def _acknowledged_before_commit() -> None:
    save = Writer.save
    under_way: set[asyncio.Future[bool]] = set()

    def promise(self: Writer, plan: Plan, waiter: Waiter[bool]) -> None:
        loop = asyncio.get_running_loop()
        saving: asyncio.Future[bool] = loop.create_future()
        under_way.add(saving)
        saving.add_done_callback(under_way.discard)
        save(self, plan, saving)
        loop.call_soon(waiter.set_result, True)

    patch(Writer, "save", promise)


def _hints_trusted() -> None:
    async def load(self: Reader, key: Key) -> Loaded:
        await self._days.ready()
        hint = await self._lookups.ask(key)
        day = hint.day or self._days.today()
        try:
            found = await self._primary.fetch(read({day: [key]}))
        except MySQLError as error:
            if error.fault is not Fault.NO_TABLE:
                raise
            return Loaded(None)
        rows = [Row(day, *values) for number, _, _, *values in found if number]
        return Loaded(rows[0] if rows else None)

    patch(Reader, "load", load)
    # A session that this worker knows asks no lookup.
    patch(SessionCache, "get", lambda *_: None)


def _operation_ids_ignored() -> None:
    patch(sharding.store.idempotency, "find", lambda *_: None)
    patch(sharding.store.idempotency, "forgotten", lambda *_: False)


def _no_fencing() -> None:
    def believe(views: Sequence[Any], *_: object, **__: object) -> Adopt | NoneToAdopt:
        for view in views:
            if view.status is not None and not view.status.read_only:
                return Adopt(view.address, view.status, raise_generation=False)
        return NoneToAdopt("no host is writable")

    patch(failover.mysql.primary, "decide", believe)


def _mark_ignored() -> None:
    def by_clock(clock: float, *_: object) -> date:
        return utc_day(clock)

    patch(sharding.partitions.days, "mysql_day", by_clock)
    patch(sharding.store.reader, "mysql_day", by_clock)
    patch(sharding.partitions.sql, "_is_day", lambda day: f"UTC_DATE()='{day:%Y-%m-%d}'")


def _filter_loses_keys() -> None:
    maybe = FilterSet.maybe

    def lossy(self: FilterSet, key: Key, days: Sequence[date]) -> list[date]:
        found = maybe(self, key, days)
        if spread(*key) % 10_000:
            return found
        return [day for day in found if not self.complete(day)]

    patch(FilterSet, "maybe", lossy)


SABOTAGES: Mapping[str, Sabotage] = {
    "no-compare-and-set": Sabotage(
        "a save does not look at the version that it was made from",
        _no_compare_and_set,
        "lookup-emptied",
    ),
    "acknowledged-before-commit": Sabotage(
        "a change is acknowledged before it is committed",
        _acknowledged_before_commit,
        "gateway-killed",
    ),
    "hints-trusted": Sabotage(
        "a lookup is taken for the truth", _hints_trusted, "lookup-old-snapshot"
    ),
    "operation-ids-ignored": Sabotage(
        "a change whose answer was lost is made again without a look",
        _operation_ids_ignored,
        "mysql-connections-cut",
    ),
    "no-fencing": Sabotage(
        "the first writable host is adopted, whatever its generation",
        _no_fencing,
        "mysql-primary-thawed",
    ),
    "mark-ignored": Sabotage(
        "MySQL's day is its clock's, whatever was sealed", _mark_ignored, "sealed-clock-back"
    ),
    "filter-loses-keys": Sabotage(
        "a filter loses one key in ten thousand", _filter_loses_keys, "sealing-failover"
    ),
}


def main() -> None:
    """Entry point: the name of a sabotage, then the `tapedeck` command's own arguments."""
    if len(sys.argv) < 2 or sys.argv[1] not in SABOTAGES:
        print(f"usage: sabotage {'|'.join(SABOTAGES)} serve --config FILE", file=sys.stderr)
        sys.exit(2)
    SABOTAGES[sys.argv.pop(1)].apply()
    from cli.main import main as tapedeck

    tapedeck()


if __name__ == "__main__":
    main()
