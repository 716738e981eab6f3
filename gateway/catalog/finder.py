"""Lists of mixes: searched, sorted, in pages, by author and by path; read from MySQL.

These need no token, so the cost of a query is limited: in rows, in seconds, and in queries under
way. Requests for the same query at one time share it, and its result is cached. While MySQL does
not answer, an older cached result is used.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Hashable, Sequence
from functools import partial
from typing import Any

from config.model import Catalog as Limits
from failover.mysql.connection import Row
from failover.mysql.errors import Fault, MySQLError
from failover.mysql.primary import Primary
from gateway.catalog.cache import RETRY_AFTER, UNKNOWN_AGE, Cache, Entry, Reads
from gateway.catalog.model import Card, MixUser
from gateway.catalog.plays import Plays
from gateway.catalog.search import FOUND, Wanted, statement
from gateway.catalog.tables import COUNT_MIXES, ID_AFTER, PAGE, card_of, read_cards
from sharding.state import Unavailable

SEARCHES = 2
"""Most searches of one worker that MySQL runs at once."""
QUEUE = 32
"""Most searches that wait."""
SEARCH_SECONDS = 2.0
"""Seconds for a search, with its wait; then 503."""
ANSWERS = 1000
"""Most cached results, each of at most FOUND ids or FOUND tags."""

_AUTHOR = (
    "SELECT user_id, user_login, user_slug FROM mixes"
    " WHERE id = (SELECT MAX(mix_id) FROM mix_index WHERE user_id = %s)"
)
_OF_PATH = "SELECT MIN(mix_id) FROM mix_index WHERE path = %s"
_TAGS = (
    "SELECT tag, COUNT(*) AS mixes FROM mix_tags"
    f" GROUP BY tag ORDER BY mixes DESC, tag LIMIT {FOUND}"
)


class Finder:
    """Finds mixes, without their tracks. The clock never jumps; `plays` counts plays.

    Every method may raise PrimaryUnavailable or Unavailable: MySQL does not answer in time.
    """

    def __init__(
        self, primary: Primary, limits: Limits, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.plays = Plays(primary)
        self._primary = primary
        self._max_age = limits.max_age
        self._clock = clock
        self._cards: Cache[int, Card | None] = Cache(limits.max_mixes)
        self._rows: Cache[Hashable, list[Row]] = Cache(ANSWERS)
        self._reads = Reads()
        self._turns = asyncio.Semaphore(SEARCHES)
        self._queued = 0

    async def cards(self, ids: Sequence[int]) -> list[Card]:
        """The cards of those of these mixes that exist, in this order."""
        now = self._clock()
        entries = {mix_id: self._cards.get(mix_id) for mix_id in ids}
        asked = tuple(i for i, e in entries.items() if e is None or now >= e.good_until)
        found = {i: e.value for i, e in entries.items() if e is not None}
        if asked:

            async def read() -> dict[int, Card | None]:
                rows = await self._fetch(read_cards(len(asked)), asked)
                return dict.fromkeys(asked) | {row[0]: card_of(row) for row in rows}

            old = Entry({i: found[i] for i in asked}, 0) if all(i in found for i in asked) else None
            answer, problem = await self._reads.share(("cards", asked), read, old)
            for mix_id, card in answer.items():
                age = RETRY_AFTER if problem else self._age(card is None)
                self._cards.put(mix_id, card, now + age)
            found |= answer
        return [card for i in ids if (card := found[i]) is not None]

    async def page(self, page: int, per_page: int) -> tuple[list[Card], int]:
        """The mixes of a page (from 1), by id, and how many there are on all pages."""
        counted, before = await self._cached(COUNT_MIXES, empty=True), (page - 1) * per_page
        total = int(counted[0][0]) if counted else 0
        if before >= total:
            return [], total
        rows = await self._fetch(PAGE, (per_page, before), empty=True)
        return await self.cards([row[0] for row in rows]), total

    async def after(self, mix_id: int) -> Card | None:
        """The mix with the next id, the first one after the last; None in an empty catalog."""
        rows = await self._fetch(ID_AFTER, (mix_id,), empty=True)
        if not rows or rows[0][0] is None:
            return None
        return next(iter(await self.cards([int(rows[0][0])])), None)

    async def find(self, wanted: Wanted) -> Sequence[int]:
        """The ids of the first FOUND wanted mixes, in order."""
        return [row[0] for row in await self._cached(*statement(wanted), search=True)]

    async def tags(self) -> Sequence[tuple[str, int]]:
        """The FOUND most frequent tags, each with the number of its mixes."""
        return [(row[0], int(row[1])) for row in await self._cached(_TAGS, search=True)]

    async def author(self, user_id: int) -> MixUser | None:
        """The author with this id; None if no mix is theirs."""
        rows = await self._cached(_AUTHOR, (user_id,))
        return MixUser(*rows[0]) if rows else None

    async def of_path(self, path: str) -> Card | None:
        ids = [row[0] for row in await self._cached(_OF_PATH, (path,)) if row[0] is not None]
        return next(iter(await self.cards(ids)), None)

    async def _cached(
        self, sql: str, args: tuple[Any, ...] = (), *, search: bool = False, empty: bool = False
    ) -> list[Row]:
        """The rows of a statement. A search waits for its turn; `empty` is as for `_fetch`."""
        now, key = self._clock(), (sql, args)
        entry = self._rows.get(key)
        if entry is not None and now < entry.good_until:
            return entry.value
        # While MySQL does not answer, an old "it does not exist" is no answer.
        old = entry if entry is not None and (search or _any(entry.value)) else None
        read = self._search if search else partial(self._fetch, empty=empty)
        rows, problem = await self._reads.share(key, partial(read, sql, args), old)
        age = RETRY_AFTER if problem else self._age(not _any(rows))
        self._rows.put(key, rows, now + age)
        return rows

    async def _search(self, sql: str, args: Sequence[Any]) -> list[Row]:
        if self._queued >= SEARCHES + QUEUE:
            raise Unavailable("too many searches wait for their turn")
        self._queued += 1
        try:
            async with asyncio.timeout(SEARCH_SECONDS), self._turns:
                return await self._fetch(sql, args)
        except TimeoutError:
            raise Unavailable(f"a search took longer than {SEARCH_SECONDS:g} s") from None
        finally:
            self._queued -= 1

    async def _fetch(self, sql: str, args: Sequence[Any], *, empty: bool = False) -> list[Row]:
        """The rows; none if the table is missing and `empty` is set."""
        try:
            return await self._primary.fetch(sql, args)
        except MySQLError as error:
            if empty and error.fault is Fault.NO_TABLE:
                return []
            raise Unavailable(f"the catalog cannot be read: {error}") from error

    def _age(self, unknown: bool) -> float:
        """Seconds that a result is cached; less for "there is none", which an import may change."""
        return min(self._max_age, UNKNOWN_AGE) if unknown else self._max_age


def _any(rows: Sequence[Row]) -> bool:
    """Whether something was found: a count of 0, or a MIN() of nothing, is one row too."""
    return bool(rows and rows[0][0])
