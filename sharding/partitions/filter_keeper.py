"""Keeps a worker's filters up to date, in the background.

Each time the partitions were listed (`Days`), the filter of a day whose table no longer has the
filter's seal is discarded at once. Then the stored filters are listed, and if they have changed,
the worker maps their file (`sharding.filters.mapped_file`), or makes it. No request waits for this:
a day without a filter is read.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Mapping
from datetime import date

import structlog

from config.model import Sections
from failover.mysql.errors import MySQLError, PrimaryUnavailable
from failover.mysql.primary import Primary
from sharding import metrics
from sharding.filters.encoding import FORMAT, BadFilter, Plan, plan
from sharding.filters.filters import Filters, FilterSet, word_bytes
from sharding.filters.mapped_file import folder_of, map_words
from sharding.filters.unhurried import unhurried, with_numpy
from sharding.partitions import filter_table
from sharding.partitions.days import Days

log = structlog.get_logger("tapedeck.filters")

AGAIN_SECONDS = 5.0
"""Seconds before filters that could not be fetched are asked for again."""


class FilterKeeper:
    """Updates `filters` as long as `run` runs.

    Args:
        config: of MySQL and of the partitions.
    """

    def __init__(self, primary: Primary, days: Days, filters: Filters, config: Sections) -> None:
        self._primary = primary
        self._days = days
        self._filters = filters
        self._config = config
        self._wake = asyncio.Event()
        self._list_first = False
        self._signature = ""
        # The seals of the days whose filters are used now.
        self._seals: dict[date, str] = {}
        # Day and seal of damaged filters, which are not fetched again.
        self._damaged: set[tuple[date, str]] = set()
        days.on_list = self._listed

    def configure(self, config: Sections) -> None:
        self._config = config
        self._wake.set()

    def clear(self) -> None:
        """Discard all filters until the partitions are listed again, after a failover.

        A forced promotion may have lost changes, among them those of a sealing.
        """
        self._list_first = True
        self._install(Plan((), (), 0), {}, FilterSet(), "")
        self._wake.set()

    async def run(self) -> None:
        """Fetch filters whenever they may have changed, until cancelled; repeat after an error."""
        while True:
            await self._wake.wait()
            self._wake.clear()
            try:
                if self._list_first:
                    self._list_first = False
                    await self._days.refresh()
                await self._fetch()
                continue
            except (PrimaryUnavailable, MySQLError, BadFilter) as error:
                log.warning("filters not fetched", reason=str(error))
            except Exception:
                log.exception("filters not fetched")
            await asyncio.sleep(AGAIN_SECONDS)
            self._wake.set()

    def _listed(self) -> None:
        there = self._days.seals
        gone = {day for day, seal in self._seals.items() if there.get(day) != seal}
        if gone:
            log.info("filters discarded", days=[str(day) for day in sorted(gone)])
            self._filters.now = self._filters.now.without(gone)
            self._seals = {day: seal for day, seal in self._seals.items() if day not in gone}
            self._signature = ""
            metrics.FILTER_DAYS.set(len(self._seals))
        self._wake.set()

    async def _fetch(self) -> None:
        generation, seals = self._primary.generation, dict(self._days.seals)
        sizes = {
            day: size
            for day, size in (await filter_table.usable(self._primary.fetch, seals)).items()
            if day >= self._days.oldest() and (day, seals[day]) not in self._damaged
        }
        chosen = plan(sizes, self._config.partitions.filter_bytes)
        used = {day: seals[day] for day in chosen.days}
        signature = _signature(chosen, used)
        if signature == self._signature:
            return
        filters = await self._make(chosen, used, signature)
        if generation == self._primary.generation:
            self._install(chosen, used, filters, signature)
            self._listed()  # it may have been listed meanwhile

    async def _make(self, chosen: Plan, seals: Mapping[date, str], signature: str) -> FilterSet:
        if not chosen.days:
            return FilterSet()
        filter_build = await with_numpy()

        async def fill(words: memoryview) -> None:
            rows = filter_build.rows(words, word_bytes(len(chosen.days)))
            for number, day in enumerate(chosen.days):
                try:
                    made = await filter_table.load(self._primary.fetch, day, seals[day])
                except BadFilter as error:
                    self._damaged.add((day, seals[day]))
                    raise BadFilter(
                        f"the stored filter of {day} is not used, {error}: its day is read by"
                        f" each load until `tapedeck partitions seal --again {day:%Y%m%d}`"
                    ) from None
                await unhurried(filter_build.put(rows, number, made))

        mysql, partitions = self._config.mysql, self._config.partitions
        folder = folder_of(partitions.filter_folder)
        owner = f"{[str(host) for host in mysql.hosts]} {mysql.database} {partitions.prefix}"
        words = await map_words(folder, owner, signature, chosen.bytes, fill)
        return FilterSet(chosen.days, words)

    def _install(
        self, chosen: Plan, seals: Mapping[date, str], filters: FilterSet, signature: str
    ) -> None:
        self._seals = dict(seals)
        self._signature = signature
        self._filters.now = filters
        if seals:
            for day in [day for day in self._filters.in_vain if day < min(seals)]:
                del self._filters.in_vain[day]
        metrics.FILTER_DAYS.set(len(chosen.days))
        metrics.FILTER_DAYS_WITHOUT.set(len(chosen.without))
        metrics.FILTER_BYTES.set(filters.bytes)
        if chosen.days or chosen.without:
            log.info(
                "filters loaded",
                days=len(chosen.days),
                bytes=filters.bytes,
                days_without_room=len(chosen.without),
            )


def _signature(chosen: Plan, seals: Mapping[date, str]) -> str:
    """A name for a set of filters, from its days, seals, size and format."""
    parts = [str(FORMAT), str(chosen.slots), *(f"{day} {seals[day]}" for day in chosen.days)]
    return hashlib.blake2b("\n".join(parts).encode(), digest_size=16).hexdigest()
