"""List day partitions, and drop those past retention.

Only tables of ours (see `ownership`) are dropped; foreign ones are only named.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import date
from functools import partial

import structlog

from config.model import Partitions
from failover.mysql.connection import Session
from failover.mysql.errors import Fault, MySQLError, PrimaryUnavailable
from failover.mysql.locks import lock_name, try_lock
from failover.mysql.primary import Primary
from failover.mysql.retries import until_unlocked
from failover.tasks import Rounds
from sharding import metrics
from sharding.partitions import filter_table
from sharding.partitions.calendar import Drops, drops_on, plan_drops, table
from sharding.partitions.days import Days
from sharding.partitions.ownership import BEING_SEALED, Found, list_tables
from sharding.partitions.shown import Partition

log = structlog.get_logger("tapedeck.pruner")

TROUBLE_AFTER = 1800.0
"""Seconds for which pruning may fail before the gateway says so."""
EXACT_BELOW = 20_000
"""Partitions with fewer rows are counted; for larger ones InnoDB's estimate is shown."""
DROP_SECONDS = 2.0
"""For so long a partition that is being read is tried again. (Where a try waits for the readers,
new readers wait behind it.)"""
DROP_PAUSE = 0.1
"""Seconds between two tries."""


@dataclass(frozen=True, slots=True)
class Pruned:
    """What a prune did.

    Attributes:
        plan: the days past retention, and why they may not be dropped.
        dropped: the days that were dropped.
        busy: the days that were still read, or that MySQL refused to drop; tried again later.
        elsewhere: another gateway was pruning; nothing was done.
        foreign: the names of foreign tables, which stay.
    """

    plan: Drops
    dropped: tuple[date, ...] = ()
    busy: tuple[date, ...] = ()
    elsewhere: bool = False
    foreign: tuple[str, ...] = ()


class Pruner:
    """Lists and prunes. What asks MySQL raises PrimaryUnavailable or MySQLError.

    Args:
        wall: this machine's clock, seconds since 1970.
    """

    def __init__(
        self,
        primary: Primary,
        days: Days,
        config: Partitions,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self.primary = primary
        self.days = days
        self._config = config
        self._wall = wall
        self.rounds = Rounds("prune", TROUBLE_AFTER, PrimaryUnavailable, MySQLError)

    def configure(self, config: Partitions) -> None:
        self._config = config

    async def partitions(self, in_vain: Mapping[date, int] | None = None) -> list[Partition]:
        """List all partitions, oldest first, with how often each was read in vain."""
        listed = await list_tables(self.primary.fetch)
        filters = await filter_table.usable(self.primary.fetch, listed.seals)
        found = []
        for day, kept in sorted(listed.ours.items()):
            count = kept.rows
            if count < EXACT_BELOW:
                with contextlib.suppress(MySQLError):  # dropped meanwhile
                    counted = await self.primary.fetch(f"SELECT COUNT(*) FROM {table(day)}")
                    count = int(counted[0][0])
            size = filters.get(day)
            found.append(
                Partition(
                    day=f"{day:%Y%m%d}",
                    rows=count,
                    bytes=kept.bytes,
                    drops_on=f"{drops_on(day, self._config.retention_days):%Y%m%d}",
                    sealed=size is not None,
                    sealing=kept.comment.startswith(BEING_SEALED),
                    filter_bytes=size.slots // 8 if size is not None else 0,
                    foreign=list(listed.foreign),
                    in_vain=(in_vain or {}).get(day, 0),
                )
            )
        return found

    async def prune(self, *, dry_run: bool = False, force: bool = False) -> Pruned:
        """Drop partitions past retention; one gateway at a time, by a MySQL lock.

        Args:
            dry_run: only say what would be dropped.
            force: drop more than `drop_at_most` at once.
        """
        async with self.primary.session(self.primary.deadline(), change=True) as session:
            if dry_run:
                found = await list_tables(session.fetch)
                return Pruned(self._plan(found, force), foreign=tuple(found.foreign))
            async with try_lock(session, lock_name("prune", self.primary.database)) as ours:
                if not ours:
                    return Pruned(Drops(), elsewhere=True)
                found = await list_tables(session.fetch)
                plan = self._plan(found, force)
                if plan.refused:
                    metrics.PRUNE_REFUSED.inc()
                    log.error("prune refused", reason=plan.refused, partitions=len(plan.days))
                    return Pruned(plan, foreign=tuple(found.foreign))
                return await self._drop(session, plan)

    async def run(self) -> None:
        """Prune every `prune_every` seconds, until cancelled. Errors are logged."""

        async def once() -> None:
            await self.days.refresh()
            await self.prune()

        while True:
            await self.rounds.run(once)
            await asyncio.sleep(self._config.prune_every)

    def _plan(self, found: Found, force: bool) -> Drops:
        return plan_drops(
            found.ours,
            mysql_now=found.clock_ms / 1000,
            local_now=self._wall(),
            retention=self._config.retention_days,
            drop_after=self._config.drop_after,
            at_most=self._config.drop_at_most,
            force=force,
        )

    async def _drop(self, session: Session, plan: Drops) -> Pruned:
        dropped, busy = [], []
        tries = round(DROP_SECONDS / (session.engine.shortest_wait + DROP_PAUSE))
        for day in plan.days:
            name = table(day)
            try:
                if await until_unlocked(partial(_drop_one, session, day), tries, DROP_PAUSE):
                    dropped.append(day)
            except MySQLError as error:
                if session.broken:
                    raise
                busy.append(day)
                if error.fault is Fault.OVERTAKEN:
                    log.warning(
                        "partition drop postponed", partition=name, reason="it is being read"
                    )
                else:
                    log.error("partition not dropped", partition=name, reason=str(error))
        if dropped:
            await self.days.refresh()
        foreign = tuple((await list_tables(session.fetch)).foreign)
        return Pruned(plan, tuple(dropped), tuple(busy), foreign=foreign)


async def _drop_one(session: Session, day: date) -> bool:
    # A foreign table may have replaced it since it was listed.
    if day not in (await list_tables(session.fetch)).ours:
        return False
    await session.engine.run_ddl(session, f"DROP TABLE IF EXISTS {table(day)}")
    await filter_table.remove(session, day)
    metrics.PARTITION_DROPS.inc()
    log.info("partition dropped", partition=table(day))
    return True
