"""The catalog's SQL: its tables, how mixes are read from them and written to them.

The SQL is what MariaDB 10.6+ and MySQL 8 both have. A mix's row contains its user; a track may be
in many mixes. `mix_index` and `mix_tags` are the index for searches: words, tags, plays, covers. A
mix without a row there can be played, but is not found. Importing a mix writes its row, and a
gateway adds rows for a catalog that is older than this index (`maintenance.py`).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby
from typing import Any

from msgspec.structs import astuple

from failover.mysql.primary import Primary
from gateway.catalog.model import Card, Mix, MixUser, Track
from gateway.catalog.search import TAG_LENGTH, tags_of

NAME_LENGTH = 255
PATH_LENGTH = 600
TAGS_LENGTH = 1000
URL_LENGTH = 2000
DESCRIPTION_LENGTH = 10_000
"""Characters, at most."""
WORDS_LENGTH = 15_000
"""Most characters of a mix in the index: a TEXT has room for as many at four bytes each."""

# utf8mb4_bin is the only collation of both servers in which no two characters are equal.
_OPTIONS = "ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_bin"

TABLES = (
    f"""
    CREATE TABLE IF NOT EXISTS mixes (
      id BIGINT UNSIGNED NOT NULL PRIMARY KEY,
      name VARCHAR({NAME_LENGTH}) NOT NULL,
      slug VARCHAR({NAME_LENGTH}) NOT NULL,
      path VARCHAR({PATH_LENGTH}) NOT NULL,
      description TEXT NULL,
      tag_list_cache VARCHAR({TAGS_LENGTH}) NOT NULL,
      duration INT UNSIGNED NOT NULL,
      user_id BIGINT UNSIGNED NOT NULL,
      user_login VARCHAR({NAME_LENGTH}) NOT NULL,
      user_slug VARCHAR({NAME_LENGTH}) NOT NULL
    ) {_OPTIONS}""",
    f"""
    CREATE TABLE IF NOT EXISTS tracks (
      id BIGINT UNSIGNED NOT NULL PRIMARY KEY,
      name VARCHAR({NAME_LENGTH}) NOT NULL,
      performer VARCHAR({NAME_LENGTH}) NOT NULL,
      release_name VARCHAR({NAME_LENGTH}) NULL,
      year SMALLINT UNSIGNED NULL,
      url VARCHAR({URL_LENGTH}) NULL,
      track_file_stream_url VARCHAR({URL_LENGTH}) NOT NULL,
      play_duration INT UNSIGNED NOT NULL
    ) {_OPTIONS}""",
    f"""
    CREATE TABLE IF NOT EXISTS mix_tracks (
      mix_id BIGINT UNSIGNED NOT NULL,
      position SMALLINT UNSIGNED NOT NULL,
      track_id BIGINT UNSIGNED NOT NULL,
      PRIMARY KEY (mix_id, position),
      UNIQUE KEY one_of_each (mix_id, track_id)
    ) {_OPTIONS}""",
    f"""
    CREATE TABLE IF NOT EXISTS mix_index (
      mix_id BIGINT UNSIGNED NOT NULL PRIMARY KEY,
      path VARCHAR(600) NOT NULL,
      user_id BIGINT UNSIGNED NOT NULL,
      cover_url VARCHAR(2000) NULL,
      words TEXT CHARACTER SET utf8mb4 COLLATE utf8mb4_unicode_ci NOT NULL,
      plays BIGINT UNSIGNED NOT NULL DEFAULT 0,
      heat DOUBLE NOT NULL DEFAULT 0,
      KEY of_path (path),
      KEY of_user (user_id),
      KEY by_plays (plays),
      KEY by_heat (heat),
      FULLTEXT KEY of_words (words)
    ) {_OPTIONS}""",
    f"""
    CREATE TABLE IF NOT EXISTS mix_tags (
      tag VARCHAR({TAG_LENGTH}) NOT NULL,
      mix_id BIGINT UNSIGNED NOT NULL,
      PRIMARY KEY (tag, mix_id),
      KEY of_mix (mix_id)
    ) {_OPTIONS}""",
)

Write = tuple[str, Sequence[tuple[Any, ...]]]
"""A statement, and the rows that it is to be run with; none: it is run once, as it is."""

_OF_MIX = (
    "m.id, m.name, m.slug, m.path, m.description, m.tag_list_cache, m.duration,"
    " m.user_id, m.user_login, m.user_slug"
)
PAGE = "SELECT id FROM mixes ORDER BY id LIMIT %s OFFSET %s"
"""Selects the ids of a page of mixes. Arguments: its length, and the number of mixes before it."""
COUNT_MIXES = "SELECT COUNT(*) FROM mixes"
ID_AFTER = "SELECT COALESCE((SELECT MIN(id) FROM mixes WHERE id > %s), (SELECT MIN(id) FROM mixes))"
"""Selects the next id after an id, or the first one; NULL in an empty catalog."""

_MIX_COLUMNS = 10


def _some(count: int) -> str:
    return f"IN ({', '.join(['%s'] * count)})"


def read_mixes(count: int) -> str:
    """The statement that reads `count` mixes with their tracks. Its arguments are their ids.

    One statement is one snapshot: a mix is never read with tracks of another edition.
    """
    return (
        f"SELECT {_OF_MIX}, t.id, t.name, t.performer, t.release_name, t.year, t.url,"
        " t.track_file_stream_url, t.play_duration"
        f" FROM (SELECT * FROM mixes WHERE id {_some(count)}) m"
        " LEFT JOIN mix_tracks mt ON mt.mix_id = m.id"
        " LEFT JOIN tracks t ON t.id = mt.track_id"
        " ORDER BY m.id, mt.position"
    )


def read_cards(count: int) -> str:
    """The statement that reads `count` mixes without their tracks. Its arguments are their ids."""
    return (
        f"SELECT {_OF_MIX}, (SELECT COUNT(*) FROM mix_tracks mt WHERE mt.mix_id = m.id),"
        " i.plays, i.cover_url"
        f" FROM mixes m LEFT JOIN mix_index i ON i.mix_id = m.id WHERE m.id {_some(count)}"
    )


def read_ids(count: int) -> str:
    """The statement that reads which of `count` mixes there are. Its arguments are their ids."""
    return f"SELECT id FROM mixes WHERE id {_some(count)}"


async def ensure_catalog(primary: Primary) -> None:
    """Create the tables that are missing. A MySQLError: the user may not create tables."""
    rows = await primary.fetch(
        "SELECT table_name FROM information_schema.tables WHERE table_schema = DATABASE()"
    )
    there = {row[0] for row in rows}
    for statement in TABLES:
        # A CREATE that changes nothing is still replicated, and may wait for a standby.
        if statement.split("(", 1)[0].split()[-1] not in there:
            await primary.execute(statement)


def mixes_of(rows: Iterable[Sequence[Any]]) -> Iterator[Mix]:
    """The mixes in the rows of `read_mixes`."""
    for mix, of_mix in groupby(rows, key=lambda row: tuple(row[:_MIX_COLUMNS])):
        tracks = tuple(
            Track(*row[_MIX_COLUMNS:]) for row in of_mix if row[_MIX_COLUMNS] is not None
        )
        yield Mix(*(*mix[:7], MixUser(*mix[7:]), tracks))


def card_of(row: Sequence[Any]) -> Card:
    """The card in a row of `read_cards`."""
    return Card(*(*row[:7], MixUser(*row[7:10]), *row[10:]))


def writes(mixes: Sequence[Mix]) -> Iterator[Write]:
    """The statements that insert or replace mixes and their tracks, for inside a transaction."""
    tracks = {track.id: track for mix in mixes for track in mix.tracks}
    # In the order of the primary keys, so that two imports at once cannot deadlock.
    yield (
        "REPLACE INTO mixes VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s)",
        [(*astuple(mix)[:7], *astuple(mix.user)) for mix in sorted(mixes, key=lambda mix: mix.id)],
    )
    yield (
        "REPLACE INTO tracks VALUES (%s, %s, %s, %s, %s, %s, %s, %s)",
        [astuple(track) for _, track in sorted(tracks.items())],
    )
    ids = sorted(mix.id for mix in mixes)
    yield f"DELETE FROM mix_tracks WHERE mix_id IN ({', '.join(map(str, ids))})", []
    yield (
        "INSERT INTO mix_tracks (mix_id, position, track_id) VALUES (%s, %s, %s)",
        sorted(
            (mix.id, position, track.id)
            for mix in mixes
            for position, track in enumerate(mix.tracks)
        ),
    )
    yield from index_writes(mixes)


def index_writes(mixes: Sequence[Mix]) -> Iterator[Write]:
    """The statements that index mixes. Run them in a transaction that has locked the mixes' rows.
    The counts of plays stay."""
    ordered = sorted(mixes, key=lambda mix: mix.id)
    yield (
        (
            "INSERT INTO mix_index (mix_id, path, user_id, cover_url, words)"
            " VALUES (%s, %s, %s, %s, %s)"
            " ON DUPLICATE KEY UPDATE path = VALUES(path), user_id = VALUES(user_id),"
            " cover_url = VALUES(cover_url), words = VALUES(words)"
        ),
        [(m.id, m.path, m.user.id, m.cover_url, _words(m)) for m in ordered],
    )
    yield f"DELETE FROM mix_tags WHERE mix_id IN ({', '.join(str(m.id) for m in ordered)})", []
    tags = sorted(
        (tag, m.id) for m in ordered for tag in tags_of(m.tag_list_cache) if len(tag) <= TAG_LENGTH
    )
    if tags:
        yield "INSERT INTO mix_tags (tag, mix_id) VALUES (%s, %s)", tags


def _words(mix: Mix) -> str:
    performers = dict.fromkeys(track.performer for track in mix.tracks)
    said = (mix.name, mix.user.login, mix.tag_list_cache, mix.description or "", *performers)
    return " ".join(said)[:WORDS_LENGTH]
