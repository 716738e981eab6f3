"""Reads catalog files (JSON lines), checks their mixes, and writes them to MySQL.

One mix a line, with its tracks in the order of play. A `?` marks fields that may be missing or
null:

    {"id": 7, "name": "Rags", "slug": "rags", "path"?: "/ann/rags", "description"?: "...",
     "tag_list_cache"?: "ragtime, piano", "cover_url"?: "https://.../{size}.jpg",
     "user": {"id": 3, "login": "ann", "slug": "ann"},
     "tracks": [{"id": 70, "name": "Maple Leaf Rag", "performer": "Joshua Rifkin",
                 "release_name"?: "Piano Rags", "year"?: 1970, "url"?: "https://...",
                 "track_file_stream_url": "https://...", "play_duration": 193}, ...]}

Ids are 1 to 2^63-1, durations whole seconds, URLs http or https. The default path of a mix is
`/{user slug}/{slug}`. A track may be in several mixes, with the same values everywhere, but only
once in each. Text is UTF-8, with or without a BOM; lines end in LF or CRLF.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import BinaryIO

import msgspec
import pymysql
from pymysql.cursors import Cursor

from gateway.catalog.model import Mix
from gateway.catalog.tables import TABLES, write_mixes
from gateway.catalog.validation import (
    Bad,
    BadLine,
    Entry,
    MixFields,
    Seen,
    checked_mix,
    words_of,
)

__all__ = ["BadLine", "Entry", "Summary", "import_mixes", "read"]

LINE_BYTES = 4 * 1024 * 1024
"""Most bytes of a line; a longer one is bad."""
BATCH = 100
"""Mixes written together."""


@dataclass(slots=True)
class Summary:
    """The result of an import: `mixes` good mixes with `tracks` tracks, the `bad` lines, and
    whether the good mixes are in MySQL now."""

    mixes: int = 0
    tracks: int = 0
    bad: list[BadLine] = field(default_factory=list)
    imported: bool = False


def read(
    stream: BinaryIO, advance: Callable[[int], None] = lambda _: None
) -> Iterator[Entry | BadLine]:
    """The checked mixes and the bad lines of a file, in its order.

    Args:
        advance: called with the number of bytes of each line.
    """
    decoder = msgspec.json.Decoder(MixFields)
    seen = Seen()
    for number, line in _lines(stream, advance):
        content = line.rstrip(b"\r\n")
        if not content.strip():
            continue
        try:
            if len(content) > LINE_BYTES:
                raise Bad(f"is longer than {LINE_BYTES} bytes")
            try:
                fields = decoder.decode(content)
            except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
                raise Bad(words_of(error)) from None
            yield Entry(number, seen.admit(number, checked_mix(fields)))
        except Bad as bad:
            yield BadLine(number, str(bad))


def import_mixes(
    connection: pymysql.Connection[Cursor],
    entries: Iterable[Entry | BadLine],
    *,
    skip_bad: bool = False,
) -> Summary:
    """Write the mixes in one transaction: all of them, or, if a line is bad, none.

    Existing mixes are replaced with their tracks, so an import may be repeated.

    Args:
        connection: to the primary, without autocommit.
        skip_bad: import the good mixes even if lines are bad.

    Raises:
        pymysql.MySQLError: a statement failed; nothing was written, unless it was the commit
            whose answer was lost.
    """
    summary = Summary()
    batch: list[Mix] = []
    with connection.cursor() as cursor:
        for statement in TABLES:
            cursor.execute(statement)
        connection.begin()
        try:
            for entry in entries:
                if isinstance(entry, BadLine):
                    summary.bad.append(entry)
                    continue
                summary.mixes += 1
                summary.tracks += len(entry.mix.tracks)
                batch.append(entry.mix)
                if len(batch) == BATCH:
                    # After a bad line that stops the import, only further bad lines are collected.
                    if skip_bad or not summary.bad:
                        write_mixes(cursor, batch)
                    batch.clear()
            if summary.mixes and (skip_bad or not summary.bad):
                write_mixes(cursor, batch)
                connection.commit()
                summary.imported = True
        finally:
            if not summary.imported and connection.open:
                connection.rollback()
    return summary


def _lines(stream: BinaryIO, advance: Callable[[int], None]) -> Iterator[tuple[int, bytes]]:
    """Numbered lines with their ends. A line that is too long is cut, but still too long."""
    number = 0
    while line := stream.readline(LINE_BYTES + 2):
        number += 1
        advance(len(line))
        rest = line
        while len(rest) == LINE_BYTES + 2 and not rest.endswith(b"\n"):
            rest = stream.readline(LINE_BYTES + 2)
            advance(len(rest))
        yield number, line.removeprefix(b"\xef\xbb\xbf") if number == 1 else line
