"""No statement uses local time, which is ambiguous when clocks change for the summer."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("cli", "config", "failover", "gateway", "sharding")
LOCAL_TIME = re.compile(
    r"\b(NOW|CURDATE|CURTIME|SYSDATE|LOCALTIME|UNIX_TIMESTAMP|FROM_UNIXTIME)\s*\("
    r"|\b(CURRENT_(DATE|TIME|TIMESTAMP)|LOCALTIMESTAMP)\b"
)


@pytest.mark.parametrize("package", PACKAGES)
def test_no_statement_uses_local_time(package: str) -> None:
    found = [
        f"{path.relative_to(ROOT)}:{number}: {line.strip()}"
        for path in sorted((ROOT / package).rglob("*.py"))
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if LOCAL_TIME.search(line) and path.name != "clock_sql.py"
    ]
    assert not found, "use failover/mysql/clock_sql.py:\n" + "\n".join(found)
