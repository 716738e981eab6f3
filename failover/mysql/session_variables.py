"""Session variables that must not come from the server's defaults: one table, one statement.

The table is the result of reviewing every session variable of MariaDB 10.11 (193) and MySQL 9.7
(155). It has those that can change what a statement of ours means, whether it is committed, or how
long it may wait. It leaves to the server those that only change speed or memory, the log or
replication, those that no statement of ours uses, and those that an ordinary user may not set
(`tests/integration/test_hostile_defaults.py` names each of them). The server's `init_connect` runs
first, so this statement overrides it.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

IDLE_SECONDS = 60
"""Seconds after which the server closes an idle connection."""
LOCK_SECONDS = 1
"""Seconds that a statement waits for a row that another transaction has locked (MySQL's least)."""
METADATA_LOCK_SECONDS = 2
"""Seconds that a statement waits for DDL."""

Product = Literal["MariaDB", "MySQL"]
"""What `failover.mysql.engine` has a class for."""


class Setting(NamedTuple):
    """A session variable that is pinned.

    Attributes:
        value: as SQL.
        why: what another value would do.
        only: which of the two has the variable under this name; None for both.
    """

    name: str
    value: str
    why: str
    only: Product | None = None


PINNED = (
    Setting("autocommit", "1", "0: a save of one row answers and is never committed"),
    Setting("completion_type", "0", "CHAIN: what follows a COMMIT is not committed; RELEASE: cut"),
    Setting("tx_isolation", "'READ-COMMITTED'", "locks and snapshots of the protocol", "MariaDB"),
    Setting("transaction_isolation", "'READ-COMMITTED'", "the same", "MySQL"),
    Setting("tx_read_only", "0", "1: a writable primary refuses writes (1792)", "MariaDB"),
    Setting("transaction_read_only", "0", "the same", "MySQL"),
    Setting(
        "sql_mode",
        "'STRICT_ALL_TABLES,NO_ENGINE_SUBSTITUTION'",
        "not strict: a value that is too long is cut; ANSI_QUOTES, PIPES_AS_CONCAT, "
        "NO_BACKSLASH_ESCAPES, HIGH_NOT_PRECEDENCE: another language; else MyISAM for InnoDB",
    ),
    Setting("sql_select_limit", "18446744073709551615", "a read that ends early: states absent"),
    Setting("sql_safe_updates", "0", "1: an UPDATE or DELETE without a key is refused (1175)"),
    Setting("sql_big_selects", "1", "0: a read of every partition is refused (1104)"),
    Setting("sql_auto_is_null", "0", "1: IS NULL finds the row inserted last"),
    Setting("unique_checks", "1", "0: the engine may skip the check for a duplicate"),
    Setting("foreign_key_checks", "1", "0: the same for what a table refers to"),
    Setting("big_tables", "0", "1: every temporary table goes to the disk: reads time out"),
    Setting("sql_if_exists", "0", "1: DDL on a table that is missing succeeds", "MariaDB"),
    Setting("old_mode", "'UTF8_IS_UTF8MB3'", "rules of old versions for SQL", "MariaDB"),
    Setting("time_zone", "'+00:00'", "else local time is some place's"),
    Setting("character_set_client", "utf8mb4", "names and comments are read as other letters"),
    Setting("character_set_results", "utf8mb4", "and come back as other letters"),
    Setting("character_set_connection", "utf8mb4", "literals are other letters"),
    Setting("collation_connection", "utf8mb4_bin", "two different literals are equal"),
    Setting("innodb_lock_wait_timeout", str(LOCK_SECONDS), "a held row holds up a whole batch"),
    Setting("lock_wait_timeout", str(METADATA_LOCK_SECONDS), "DDL holds up requests for a day"),
    Setting("wait_timeout", str(IDLE_SECONDS), "idle connections are cut at the server's whim"),
    # A gateway that freezes in a transaction must not keep its locks. MySQL lacks these variables.
    Setting("idle_transaction_timeout", "10", "a frozen gateway keeps its rows locked", "MariaDB"),
    Setting("idle_write_transaction_timeout", "0", "overrides the one above", "MariaDB"),
    Setting("idle_readonly_transaction_timeout", "0", "overrides it too", "MariaDB"),
    Setting("max_statement_time", "0", "a statement is cut (1969) that had time left", "MariaDB"),
    Setting("max_execution_time", "0", "the same, for SELECT (3024)", "MySQL"),
    Setting("information_schema_stats_expiry", "0", "sizes are those of a day ago", "MySQL"),
    Setting(
        "group_replication_consistency",
        "'BEFORE_ON_PRIMARY_FAILOVER'",
        "EVENTUAL: a new primary answers before it has applied what the old one acknowledged",
        "MySQL",
    ),
)
"""In the order of setting: a collation comes after its character set."""

# MariaDB skips what is marked for MySQL 5.7 to 9.x (MariaDB documentation, "Comment Syntax").
_MARKED = {None: "{}", "MariaDB": "/*M!100600 {}*/", "MySQL": "/*!80014 {}*/"}


def statement(**others: int) -> str:
    """The SET statement that pins all variables, for both engines.

    Args:
        others: values that replace the table's, for connections that may wait longer.

    >>> "/*M!100600 , idle_transaction_timeout=0*/" in statement(idle_transaction_timeout=0)
    True
    """
    parts: list[str] = []
    for setting in PINNED:
        comma = ", " if parts else ""
        value = others.get(setting.name, setting.value)
        parts.append(_MARKED[setting.only].format(f"{comma}{setting.name}={value}"))
    return f"SET SESSION {''.join(parts)}"
