"""The clock of a MySQL server is shifted while it runs, as a MariaDB's is."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from stack import datadir
from stack.datadir import Passwords
from stack.mysql import MySQL

pytestmark = pytest.mark.stack


@pytest.fixture
def server(tmp_path: Path, mysql_template: Path, passwords: Passwords) -> Iterator[MySQL]:
    datadir.copy(mysql_template, tmp_path / "data")
    made = MySQL("mysql1", tmp_path / "data", passwords, clock_file=tmp_path / "clock")
    made.start()
    yield made
    made.kill()


def test_mysqls_clock_is_shifted_at_once_and_its_waits_last_as_long_as_ever(server: MySQL) -> None:
    assert server.clock_file is not None
    with server.connect() as connection, connection.cursor() as cursor:
        for shift in (86_400, -3_600, 366 * 86_400, 0):
            server.clock_file.write_text(f"{shift:+d}\n")
            cursor.execute("SELECT UNIX_TIMESTAMP(), UNIX_TIMESTAMP(UTC_TIMESTAMP())")
            ((local, utc),) = cursor.fetchall()
            assert abs(float(local) - time.time() - shift) < 5
            assert abs(float(utc) - time.time() - shift) < 5
            began = time.monotonic()
            cursor.execute("SELECT SLEEP(0.2)")
            assert 0.2 <= time.monotonic() - began < 4
            # Its threads wait for each other, for ever if need be.
            cursor.execute("SELECT COUNT(*) FROM tapedeck.tapedeck_generation")
            assert cursor.fetchall() == ((1,),)
