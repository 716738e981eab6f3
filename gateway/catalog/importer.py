"""Reads catalog files (JSON lines or CSV), checks their mixes, and writes them to MySQL.

JSON lines: one mix a line, with its tracks in the order of play. A `?` marks fields that may be
missing or null:

    {"id": 7, "name": "Rags", "slug": "rags", "path"?: "/ann/rags", "description"?: "...",
     "tag_list_cache"?: "ragtime, piano", "cover_url"?: "https://.../{size}.jpg",
     "user": {"id": 3, "login": "ann", "slug": "ann"},
     "tracks": [{"id": 70, "name": "Maple Leaf Rag", "performer": "Joshua Rifkin",
                 "release_name"?: "Piano Rags", "year"?: 1970, "url"?: "https://...",
                 "track_file_stream_url": "https://...", "play_duration": 193}, ...]}

CSV: a header, then one track a row, in the order of play. The columns have the names of the fields
above (`id`, `name`, ..., `user.id`, `track.id`, `track.name`, ...), in any order. Those of the mix
are repeated in each row, the rows of a mix are together, and an empty cell is a missing value.

Ids are 1 to 2^63-1, durations whole seconds, URLs http or https. The default path of a mix is
`/{user slug}/{slug}`. A track may be in several mixes, with the same values everywhere, but only
once in each. Text is UTF-8, with or without a BOM; lines end in LF or CRLF.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from typing import BinaryIO, Literal

import msgspec

from failover.mysql import session_variables
from failover.mysql.connection import BEGIN, COMMIT
from failover.mysql.primary import Primary
from gateway.catalog.csv_file import read_csv
from gateway.catalog.tables import ensure_catalog, writes
from gateway.catalog.validation import (
    Bad,
    BadLine,
    Entry,
    MixFields,
    Seen,
    checked_mix,
    words_of,
)

Format = Literal["jsonl", "csv"]

LINE_BYTES = 4 * 1024 * 1024
"""Most bytes of a line; a longer one is bad."""
BATCH = 100
"""Lines read, and mixes written, by one round of statements."""
STATEMENT_SECONDS = 20
"""A statement may wait so long for the rows of another import."""
_SILENT_SECONDS = 3600
"""How long the server keeps the transaction while the file gives no line."""
_PATIENCE = session_variables.statement(
    innodb_lock_wait_timeout=STATEMENT_SECONDS,
    lock_wait_timeout=STATEMENT_SECONDS,
    wait_timeout=_SILENT_SECONDS,
    idle_transaction_timeout=_SILENT_SECONDS,
)


@dataclass(slots=True)
class Summary:
    """The result of an import: `mixes` good mixes with `tracks` tracks, the `bad` lines, and
    whether the good mixes are in MySQL now."""

    mixes: int = 0
    tracks: int = 0
    bad: list[BadLine] = field(default_factory=list)
    imported: bool = False


_FORMATS: dict[str, Format] = {"jsonl": "jsonl", "ndjson": "jsonl", "csv": "csv"}


def format_of(name: str) -> Format | None:
    """The format of a file by the ending of its name; None if that tells none."""
    return _FORMATS.get(name.lower().rpartition(".")[2])


def read(stream: BinaryIO, file_format: Format) -> Iterator[Entry | BadLine]:
    """The checked mixes and the bad lines of a file, in its order.

    Raises UnreadableFile if a CSV has a wrong header, or a mix's rows in several places.
    """
    lines = _lines(stream)
    return _read_jsonl(lines) if file_format == "jsonl" else read_csv(lines)


async def import_mixes(
    primary: Primary, entries: Iterator[Entry | BadLine], *, skip_bad: bool = False
) -> Summary:
    """Write the mixes in one transaction: all of them, or, if a line is bad, none.

    Existing mixes are replaced with their tracks, so an import may be repeated.

    Args:
        entries: read in a thread: what they come from may be slow.
        skip_bad: import the good mixes even if lines are bad.

    Raises:
        UnreadableFile: as `read`; nothing was written.
        PrimaryUnavailable: no primary until the deadline.
        MySQLError: a statement failed; nothing was written, unless it was the commit whose answer
            was lost.
    """
    summary = Summary()
    await ensure_catalog(primary)
    async with primary.session_apart(primary.deadline()) as session:
        session.statement_seconds = STATEMENT_SECONDS
        await session.execute(_PATIENCE)
        await session.execute(BEGIN)
        while batch := await asyncio.to_thread(lambda: list(islice(entries, BATCH))):
            summary.bad += [entry for entry in batch if isinstance(entry, BadLine)]
            mixes = [entry.mix for entry in batch if isinstance(entry, Entry)]
            summary.mixes += len(mixes)
            summary.tracks += sum(len(mix.tracks) for mix in mixes)
            # Past a bad line that spoils all, the rest is read for its own bad lines only.
            if mixes and (skip_bad or not summary.bad):
                for statement, rows in writes(mixes):
                    await session.execute_many(statement, rows)
        if summary.mixes and (skip_bad or not summary.bad):
            await session.execute(COMMIT)
            summary.imported = True
    # (Where it is not, the transaction ends with its connection.)
    return summary


def _lines(stream: BinaryIO) -> Iterator[tuple[int, bytes]]:
    """Numbered lines with their ends. A line that is too long is cut, but still too long."""
    number = 0
    while line := stream.readline(LINE_BYTES + 2):
        number += 1
        rest = line
        while len(rest) == LINE_BYTES + 2 and not rest.endswith(b"\n"):
            rest = stream.readline(LINE_BYTES + 2)
        yield number, line.removeprefix(b"\xef\xbb\xbf") if number == 1 else line


def _read_jsonl(lines: Iterable[tuple[int, bytes]]) -> Iterator[Entry | BadLine]:
    decoder = msgspec.json.Decoder(MixFields)
    seen = Seen()
    for number, line in lines:
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
