"""Write states in the format of the system that they came from: SQL, CSV or JSON lines."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from datetime import UTC, date, datetime
from typing import Any, TextIO

import msgspec
from msgspec import Struct

from failover.mysql.errors import Fault, MySQLError
from sharding.importing.mapping import PLACE, Map
from sharding.partitions.calendar import table
from sharding.partitions.sql import TOMBSTONE
from sharding.state import Owner

KINDS = (".sql", ".csv", ".jsonl")
SWITCHES = ("at_end", "listened")
"""The parts of a place that are written as 0 or 1."""
PAGE = 2000
"""States read at once."""

_QUOTABLE = re.compile(r"[ -&(-\[\]-~]*")
"""Printable ASCII without single quotes and backslashes: the same in quotes in every SQL mode."""

Fetch = Callable[[str], Awaitable[Sequence[Sequence[Any]]]]
Days = Callable[[], Awaitable[Iterable[date]]]


class Written(Struct):
    """What became of the states.

    Attributes:
        states: how many were written.
        left_out: how many belong to the other API than the map's.
    """

    states: int = 0
    left_out: int = 0


async def write(
    file: TextIO,
    fetch: Fetch,
    kind: str,
    mapped: Map,
    tables: str,
    days: Days,
    users: tuple[int, ...],
) -> Written:
    """Write the states of these days; return how many there were.

    A map with `player` has the Player's states, one with `body` the states API's: written as the
    other kind, a state would be empty. The oldest day comes first, and days that midnights bring
    meanwhile are read too, so that a state that moves is written twice, not missed. A day that a
    midnight puts past retention may be dropped meanwhile: the rest of it is left out.

    Args:
        kind: one of `KINDS`.
        days: is asked again after each day.
        tables: for SQL, the tables' names: a pattern of strftime, or one name.
        users: write only these users' states; all if empty.

    Raises:
        PrimaryUnavailable, MySQLError: as `fetch` does.
    """
    wanted = Owner.STATES_API if "body" in mapped.columns else Owner.PLAYER
    names = _names(mapped, kind)
    plain = csv.writer(file)
    if kind == ".csv":
        plain.writerow(names)
    count = Written()
    switches = [name for name, meaning in names.items() if meaning in SWITCHES]
    checked = set[str]()
    done = set[date]()
    while left := set(await days()) - done:
        day, after = min(left), (0, 0)
        done.add(day)
        while True:
            where = f"(user_id>{after[0]} OR (user_id={after[0]} AND playlist_id>{after[1]}))"
            if users:
                where += f" AND user_id IN ({', '.join(map(str, users))})"
            try:
                page = await fetch(
                    f"SELECT user_id,playlist_id,owner,state FROM {table(day)} WHERE {where}"
                    f" ORDER BY user_id,playlist_id LIMIT {PAGE}"
                )
            except MySQLError as error:
                if error.fault is Fault.NO_TABLE and day not in await days():
                    break
                raise
            if not page:
                break
            after = (int(page[-1][0]), int(page[-1][1]))
            for user, playlist, owner, body in page:
                if owner == TOMBSTONE:
                    continue
                if owner != wanted:
                    count.left_out += 1
                    continue
                meant = _meant(wanted, int(user), int(playlist), day, bytes(body))
                row = {name: meant.get(meaning) for name, meaning in names.items()}
                count.states += 1
                if kind == ".csv":
                    plain.writerow(map(_text, row.values()))
                elif kind == ".jsonl":
                    file.write(msgspec.json.encode(row).decode() + "\n")
                else:
                    into = day.strftime(tables)
                    if switches and into not in checked:
                        file.write(_refuse_enum(into, switches))
                        checked.add(into)
                    file.write(_upsert(into, row) + "\n")
    return count


def _names(mapped: Map, kind: str) -> dict[str, str]:
    """The columns to write, and what each means.

    User and playlist are always among them, and in a file, whose name says no day, the day. An
    update time that the source calculates is not. Where a column is both day and update time, it
    is written as a time.
    """
    names = {
        mapped.name_of(meaning): meaning
        for meaning in mapped.columns
        if meaning != "updated" or mapped.name_of(meaning) == mapped.columns[meaning]
    }
    if mapped.columns.get("updated") in names:
        names[mapped.columns["updated"]] = "updated"
    more = ("user", "playlist") if kind == ".sql" else ("user", "playlist", "day")
    return names | {one: one for one in more if one not in mapped.columns}


def _meant(owner: Owner, user: int, playlist: int, day: date, body: bytes) -> dict[str, Any]:
    meant: dict[str, Any] = {
        "user": user,
        "playlist": playlist,
        "day": day.isoformat(),
        "updated": f"{day}T00:00:00",
    }
    if owner is Owner.STATES_API:
        # In JSON, line breaks are only between values: without them it fits into a line.
        return {**meant, "body": msgspec.Raw(body.replace(b"\r", b" ").replace(b"\n", b" "))}
    state = msgspec.json.decode(body)
    for name in PLACE:
        if name in SWITCHES:
            meant[name] = int(state.get(name, False))
        elif name == "skips":
            times = [datetime.fromtimestamp(one, UTC) for one in state.get(name, ())]
            meant[name] = [one.isoformat(timespec="milliseconds") for one in times]
        else:
            meant[name] = state.get(name, [])
    return meant


def _refuse_enum(table: str, switches: Sequence[str]) -> str:
    """Statements that end with an error if one of these columns is an ENUM.

    MySQL stores the number 1 there as the first word, whatever that is ("The ENUM Type" of its
    manual). The error is that of a text which is no SQL: MySQL repeats the text.
    """
    named = ", ".join(map(_literal, switches))
    return (
        "SET @enums=(SELECT GROUP_CONCAT(column_name) FROM information_schema.columns WHERE"
        f" table_schema=DATABASE() AND table_name={_literal(table)} AND data_type='enum'"
        f" AND column_name IN ({named}));\n"
        "SET @check=IF(@enums IS NULL, 'DO 0', CONCAT(@enums,"
        " ' is an ENUM, which takes 1 for its first word: see docs/migration.md'));\n"
        "PREPARE tapedeck FROM @check;\n"
    )


def _upsert(table: str, row: Mapping[str, Any]) -> str:
    """The statement that inserts or changes a row.

    It leaves the row's other columns as they are. (REPLACE would delete the row first, and with it
    the rows of other tables that a foreign key binds to it.)
    """
    columns = ", ".join(f"`{name}`" for name in row)
    said = ", ".join(map(_literal, row.values()))
    changed = ", ".join(f"`{name}`=VALUES(`{name}`)" for name in row)
    return f"INSERT INTO `{table}` ({columns}) VALUES ({said}) ON DUPLICATE KEY UPDATE {changed};"


def _text(value: Any) -> Any:
    """A value as a cell or column has it: lists as JSON."""
    if isinstance(value, msgspec.Raw):
        return bytes(value).decode()
    return json.dumps(value) if isinstance(value, list) else value


def _literal(value: Any) -> str:
    value = _text(value)
    if value is None:
        return "NULL"
    if isinstance(value, int):
        return str(value)
    return f"'{value}'" if _QUOTABLE.fullmatch(value) else f"_utf8mb4 0x{value.encode().hex()}"
