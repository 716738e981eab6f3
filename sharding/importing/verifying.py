"""Compares the source's states with Tapedeck's, which are read as a request reads them."""

from __future__ import annotations

import asyncio
from typing import Any

from sharding.backend import Backend
from sharding.importing.mapping import Record
from sharding.importing.run import Run
from sharding.importing.target import MOVED, NEW, REPLACED, Step, decide
from sharding.partitions.calendar import oldest_kept, tomorrow
from sharding.partitions.sql import Row

WHAT = {
    NEW: "Tapedeck has no such state",
    REPLACED: "Tapedeck has another state than the source",
    MOVED: "the source has a newer one than Tapedeck",
}


async def differences(work: Run, backend: Backend, sample: int) -> list[dict[str, Any]]:
    """Compare states, count the outcomes in `work.counts`, and return the differences.

    Args:
        sample: one row of every `sample` rows is compared.

    Raises:
        BadSource, PrimaryUnavailable, MySQLError: the states could not all be read.
    """
    await backend.days.ready()
    today, retention = backend.days.today(), backend.days.retention
    parts = await asyncio.to_thread(
        work.source.parts, oldest_kept(today, retention), tomorrow(today)
    )
    found: list[dict[str, Any]] = []
    number = 0

    async def look(record: Record) -> Step:
        return decide(record, (await backend.reader.find(record.key)).row, today, retention)

    for part in parts:
        async for records in work.records(part):
            chosen = [one for n, one in enumerate(records, number) if n % sample == 0]
            number += len(records)
            for step in await asyncio.gather(*map(look, chosen)):
                work.counts[step.outcome] += 1
                if step.outcome in WHAT:
                    found.append(_difference(step))
    return found


def _difference(step: Step) -> dict[str, Any]:
    record, row = step.record, step.row
    return {
        "user": record.key.user_id,
        "playlist": record.key.playlist_id,
        "what": WHAT[step.outcome],
        "source": _said(record.day, record.body),
        "tapedeck": _said_by(row),
    }


def _said_by(row: Row | None) -> dict[str, str] | None:
    return None if row is None else _said(row.day, row.body)


def _said(day: Any, body: bytes) -> dict[str, str]:
    return {"day": f"{day:%Y%m%d}", "body": body.decode(errors="replace")}
