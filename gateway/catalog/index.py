"""The index of mixes, beside their tables: words, tags, plays, covers. No I/O.

A mix without a row here can be played, but is not found. Importing a mix writes its row, and a
gateway adds rows for a catalog that is older than this index (`maintenance.py`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from gateway.catalog.model import Mix
from gateway.catalog.search import TAG_LENGTH, tags_of

WORDS_LENGTH = 15_000
"""Most characters of a mix in the index: a TEXT has room for as many at four bytes each."""


TABLES = (
    """
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
    ) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_bin""",
    f"""
    CREATE TABLE IF NOT EXISTS mix_tags (
      tag VARCHAR({TAG_LENGTH}) NOT NULL,
      mix_id BIGINT UNSIGNED NOT NULL,
      PRIMARY KEY (tag, mix_id),
      KEY of_mix (mix_id)
    ) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_bin""",
)


Write = tuple[str, Sequence[tuple[Any, ...]]]
"""A statement, and the rows that it is to be run with; none: it is run once, as it is."""


def writes(mixes: Sequence[Mix]) -> Iterator[Write]:
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
