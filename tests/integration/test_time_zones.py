"""MySQL's time does not depend on the server's time zone."""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from failover.mysql import clock_sql
from failover.mysql.connection import STATUS_SQL
from stack import datadir
from stack.datadir import Passwords
from stack.server import Server

# In POSIX's format: clocks change at 00:00 UTC on the last Sundays of March and October.
ZONE = "LOC0DST,M3.5.0/0,M10.5.0/1"


@pytest.fixture
def server(
    tmp_path: Path,
    template: Path,
    server_class: type[Server],
    passwords: Passwords,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Server]:
    """A server in a time zone that changes its clocks at midnight UTC."""
    monkeypatch.setenv("TZ", ZONE)
    datadir.copy(template, tmp_path / "data")
    server = server_class("mysql1", tmp_path / "data", passwords, clock_file=tmp_path / "clock")
    server.start()
    yield server
    server.kill()


@pytest.mark.parametrize(
    ("moment", "local_hour"),
    [
        pytest.param(datetime(2027, 3, 28, 0, 30, tzinfo=UTC), 1, id="the hour left out"),
        pytest.param(datetime(2026, 10, 24, 23, 30, tzinfo=UTC), 0, id="the hour, first time"),
        pytest.param(datetime(2026, 10, 25, 0, 30, tzinfo=UTC), 0, id="the hour, repeated"),
    ],
)
def test_mysql_s_time_does_not_follow_daylight_saving_time(
    server: Server, moment: datetime, local_hour: int
) -> None:
    assert server.clock_file is not None
    shift = moment.timestamp() - time.time()
    server.clock_file.write_text(f"{shift:+.0f}\n")

    ((local, milliseconds),) = server.query(f"SELECT HOUR(NOW()), {clock_sql.MILLISECONDS}")
    with server.connect() as connection, connection.cursor() as cursor:
        cursor.execute(STATUS_SQL)
        ((_, _, on_status, *_),) = cursor.fetchall()

    assert local == local_hour, "the server is not in the test's time zone"
    for told in (milliseconds / 1000, on_status / 1000):
        assert abs(told - moment.timestamp()) < 5
