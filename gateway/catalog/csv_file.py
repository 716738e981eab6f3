"""A catalog as CSV: rows in, mixes out."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from itertools import groupby
from typing import NamedTuple

from gateway.catalog.validation import (
    Bad,
    BadLine,
    Entry,
    MixFields,
    Seen,
    TrackFields,
    UserFields,
    check_track,
    checked_mix,
    convert,
)
from sharding.importing.csv_records import csv_records


class UnreadableFile(Exception):
    """The whole file cannot be read: a CSV without its header, or not sorted by mix."""


_MIX_COLUMNS = (
    *(name for name in MixFields.__struct_fields__ if name not in ("user", "tracks")),
    *(f"user.{name}" for name in UserFields.__struct_fields__),
)
_TRACK_COLUMNS = tuple(f"track.{name}" for name in TrackFields.__struct_fields__)
_OPTIONAL_COLUMNS = frozenset(("path", "description", "tag_list_cache", "cover_url")).union(
    ("track.release_name", "track.year", "track.url")
)
_NUMBER_COLUMNS = frozenset(("id", "user.id", "track.id", "track.year", "track.play_duration"))


class _Row(NamedTuple):
    """A row of a CSV: its cells that are not empty, by column, and what is wrong with it.

    `mix_id` is None if the row is too damaged to tell its mix.
    """

    number: int
    mix_id: int | None
    cells: dict[str, object]
    bad: str | None = None


def read_csv(lines: Iterable[tuple[int, bytes]]) -> Iterator[Entry | BadLine]:
    """The mixes of numbered lines, and the bad lines. Raises UnreadableFile if the header is
    missing or wrong, or the rows of a mix are apart.
    """
    seen = Seen()
    begun: dict[int, int] = {}
    # A mix must not lose a track: one bad row makes its mix bad, and a row that may belong to
    # either neighbour makes both bad.
    waiting: list[_Row] = []
    broken: int | None = None
    last: int | None = None
    for mix_id, group in groupby(_csv_rows(lines), key=lambda row: row.mix_id):
        rows = list(group)
        if mix_id is None:
            yield from _csv_mix(waiting, rows[0].number, seen)
            waiting, broken = [], rows[-1].number
            yield from (BadLine(row.number, row.bad or "") for row in rows)
            continue
        if begun.setdefault(mix_id, rows[0].number) != rows[0].number and mix_id != last:
            raise UnreadableFile(
                f"line {rows[0].number}: mix {mix_id} is on line {begun[mix_id]} already, and the "
                "rows of a mix stand together: sort the file"
            )
        yield from _csv_mix(waiting, broken, seen)
        if waiting:
            broken = None
        waiting, last = rows, mix_id
    yield from _csv_mix(waiting, broken, seen)


def _csv_mix(rows: list[_Row], broken: int | None, seen: Seen) -> Iterator[Entry | BadLine]:
    """The mix of these rows; `broken` is a row beside them that may be theirs."""
    if not rows:
        return
    first = rows[0]
    of_mix = {name: first.cells.get(name) for name in _MIX_COLUMNS}
    bad = [BadLine(row.number, row.bad) for row in rows if row.bad is not None] or [
        BadLine(row.number, f"{name} is not that of line {first.number}, the same mix")
        for row in rows
        for name in _MIX_COLUMNS
        if row.cells.get(name) != of_mix[name]
    ]
    if broken is not None:
        bad.append(BadLine(first.number, f"line {broken} may belong to this mix"))
    if bad:
        yield from sorted(bad)
        return
    try:
        fields = _part(first.cells, "")
        fields["user"] = _part(first.cells, "user.")
        fields["tracks"] = [_part(row.cells, "track.") for row in rows]
        yield Entry(first.number, seen.admit(first.number, checked_mix(convert(fields, MixFields))))
    except Bad as problem:
        yield BadLine(first.number, str(problem))


def _csv_rows(lines: Iterable[tuple[int, bytes]]) -> Iterator[_Row]:
    # Bytes that are not UTF-8 become surrogates here; the check of their cell finds them.
    records = csv_records(line.decode("utf-8", "surrogateescape") for _, line in lines)
    header: list[str] | None = None
    for record in records:
        if header is None:
            if record.bad:
                raise UnreadableFile(f"line {record.first}: {record.bad}")
            header = _header(record.cells) if record.cells else None
        elif record.bad:
            yield _Row(record.first, None, {}, record.bad)
        elif record.cells:
            yield _row(record.first, header, record.cells)
    if header is None:
        raise UnreadableFile("line 1: the header is missing")


def _header(cells: list[str]) -> list[str]:
    names = [cell.strip() for cell in cells]
    known = {*_MIX_COLUMNS, *_TRACK_COLUMNS}
    problems = [f"there is no column {name!r}" for name in names if name not in known]
    problems += [f"column {name} is there twice" for name in known if names.count(name) > 1]
    problems += [f"column {name} is missing" for name in known - _OPTIONAL_COLUMNS - {*names}]
    if problems:
        raise UnreadableFile(f"line 1: {'; '.join(sorted(problems))}")
    return names


def _row(number: int, header: list[str], texts: list[str]) -> _Row:
    cells: dict[str, object] = {}
    bad: str | None = None
    for name, text in zip(header, texts, strict=True):
        if any("\ud800" <= character <= "\udfff" for character in text):
            bad = f"{name}: is no UTF-8"
        # Only digits: a spreadsheet changes long ids (to 9.2E+18).
        if name in _NUMBER_COLUMNS and re.fullmatch(r"[0-9]{1,19}", text):
            cells[name] = int(text)
        elif text:
            cells[name] = text
    mix_id = cells.get("id")
    if not isinstance(mix_id, int):
        return _Row(number, None, {}, "id: is no whole number from 1 to 2^63-1")
    if bad is None:
        try:
            check_track(convert(_part(cells, "track."), TrackFields, "track"), "track")
        except Bad as problem:
            bad = str(problem)
    return _Row(number, mix_id, cells, bad)


def _part(cells: dict[str, object], prefix: str) -> dict[str, object]:
    """The cells of the columns with a prefix, without it; "" means the mix's own columns."""
    return {
        name.removeprefix(prefix): value
        for name, value in cells.items()
        if (name.startswith(prefix) if prefix else "." not in name)
    }
