"""SQL outside `failover/mysql/engine.py` is understood by both MySQL and MariaDB."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

TOP = Path(__file__).resolve().parents[2]
OF_ONE_ENGINE = re.compile(
    r"\bMD5\s*\(|\bRETURNING\b|\bSET STATEMENT\b|\bDROP TABLE\b.*\b(NO)?WAIT\b|\bseq_\d+_to_"
    r"|\b(START|STOP|RESET|SHOW) SLAVE\b|\bCHANGE MASTER\b|\bMASTER_GTID_WAIT\b|\bBACKUP STAGE\b"
    r"|\bgtid_(slave|current|binlog)_pos\b|\bSKIP LOCKED\b|\bAS NEW\b|\bSET PERSIST\b"
)
"""MySQL 9 has no MD5(); the others exist only in one of the two, or not in every version."""


def strings(source: str) -> Iterator[tuple[int, str]]:
    """The texts of a module with their lines, without docstrings."""
    tree = ast.parse(source)
    prose = {
        node.value
        for node in ast.walk(tree)
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and node not in prose:
            yield node.lineno, node.value


@pytest.mark.parametrize("folder", ["gateway", "sharding", "failover", "cli"])
def test_the_program_sends_no_statement_that_only_one_engine_knows(folder: str) -> None:
    found = [
        f"{path.relative_to(TOP)}:{line}: {text}"
        for path in sorted((TOP / folder).rglob("*.py"))
        for line, text in strings(path.read_text())
        if OF_ONE_ENGINE.search(text)
    ]

    assert not found, "\n".join(found)


@pytest.mark.parametrize(
    "statement",
    [
        "CONCAT('tapedeck_prune.', MD5(DATABASE()))",
        "INSERT INTO t VALUES (1) RETURNING a",
        "DROP TABLE IF EXISTS t NOWAIT",
        "SHOW SLAVE STATUS",
    ],
)
def test_a_statement_of_one_engine_is_found(statement: str) -> None:
    ((_, text),) = strings(f"SQL = {statement!r}")

    assert OF_ONE_ENGINE.search(text)
