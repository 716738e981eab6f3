"""Write states in the format of the system that they came from: SQL, CSV or JSON lines."""

from __future__ import annotations

import csv
import json
from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, date, datetime
from typing import Any, TextIO

import msgspec

from sharding.importing.mapping import PLACE, Map
from sharding.partitions.calendar import table
from sharding.partitions.sql import TOMBSTONE

KINDS = (".sql", ".csv", ".jsonl")
PAGE = 2000
"""States read at once."""

Fetch = Callable[[str], Awaitable[Sequence[Sequence[Any]]]]


async def write(
    file: TextIO,
    fetch: Fetch,
    kind: str,
    mapped: Map,
    tables: str,
    days: Sequence[date],
    users: tuple[int, ...],
) -> int:
    """Write the states of these days; return how many there were.

    The oldest day comes first, so that a state that moves meanwhile is written twice, not missed.

    Args:
        kind: one of `KINDS`.
        tables: for SQL, the tables' names: a pattern of strftime, or one name.
        users: write only these users' states; all if empty.

    Raises:
        PrimaryUnavailable, MySQLError: as `fetch` does.
    """
    names = [mapped.name_of(meaning) for meaning in mapped.columns if meaning != "updated"]
    names += [one for one in ("user", "playlist") if one not in mapped.columns]
    names = list(dict.fromkeys(names))
    plain = csv.writer(file)
    if kind == ".csv":
        plain.writerow(names)
    count = 0
    for day in sorted(days):
        after = (0, 0)
        while True:
            where = f"(user_id>{after[0]} OR (user_id={after[0]} AND playlist_id>{after[1]}))"
            if users:
                where += f" AND user_id IN ({', '.join(map(str, users))})"
            page = await fetch(
                f"SELECT user_id,playlist_id,owner,state FROM {table(day)} WHERE {where}"
                f" ORDER BY user_id,playlist_id LIMIT {PAGE}"
            )
            if not page:
                break
            after = (int(page[-1][0]), int(page[-1][1]))
            for user, playlist, owner, body in page:
                if owner == TOMBSTONE:
                    continue
                row = _row(mapped, int(user), int(playlist), day, bytes(body))
                values = [row.get(name) for name in names]
                count += 1
                if kind == ".csv":
                    plain.writerow(values)
                elif kind == ".jsonl":
                    file.write(json.dumps(dict(zip(names, values, strict=True))) + "\n")
                else:
                    columns = ", ".join(f"`{name}`" for name in names)
                    said = ", ".join(map(_literal, values))
                    name = day.strftime(tables)
                    file.write(f"REPLACE INTO `{name}` ({columns}) VALUES ({said});\n")
    return count


def _row(mapped: Map, user: int, playlist: int, day: date, body: bytes) -> dict[str, Any]:
    state = msgspec.json.decode(body)
    meant: dict[str, Any] = {"user": user, "playlist": playlist, "day": day.isoformat()}
    if "body" in mapped.columns:
        meant["body"] = body.decode()
    for name in PLACE:
        if name in ("at_end", "listened"):
            meant[name] = int(state.get(name, False))
        elif name == "skips":
            times = [datetime.fromtimestamp(one, UTC) for one in state.get(name, ())]
            meant[name] = json.dumps([one.isoformat(timespec="milliseconds") for one in times])
        else:
            meant[name] = json.dumps(state.get(name, []))
    said = {mapped.name_of(meaning): meant.get(meaning) for meaning in mapped.columns}
    return {"user": user, "playlist": playlist, **said}


def _literal(value: Any) -> str:
    if value is None:
        return "NULL"
    return str(value) if isinstance(value, int) else f"CAST(0x{str(value).encode().hex()} AS CHAR)"
