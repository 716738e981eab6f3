"""The pair plays the part of a managed database: nothing that was acknowledged is lost."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pymysql
import pytest

from tapedeck.localstack import datadir, replication
from tapedeck.localstack.datadir import Passwords
from tapedeck.localstack.mariadb import MariaDB
from tapedeck.localstack.pair import Pair
from tapedeck.localstack.process import ServerFailed

pytestmark = pytest.mark.stack


def eventually(holds: Callable[[], bool], seconds: float = 20) -> bool:
    deadline = time.monotonic() + seconds
    while not holds():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


class Writers:
    """Two clients that write numbers, wherever they can, and remember what was acknowledged."""

    def __init__(self, pair: Pair, passwords: Passwords) -> None:
        self._pair = pair
        self._password = passwords.gateway
        self._end = threading.Event()
        self.acknowledged: list[int] = []
        pair.primary.query("CREATE TABLE tapedeck.written (id BIGINT PRIMARY KEY)")
        self._threads = [threading.Thread(target=self._write, args=(n,)) for n in (1, 2)]
        for thread in self._threads:
            thread.start()

    def _write(self, writer: int) -> None:
        numbers = itertools.count(writer * 10**9)
        while not self._end.is_set():
            for server in self._pair.servers.values():
                try:
                    self._write_to(server, numbers)
                except pymysql.MySQLError:
                    time.sleep(0.01)

    def _write_to(self, server: MariaDB, numbers: Iterator[int]) -> None:
        connection = pymysql.connect(
            host="127.0.0.1",
            port=server.port,
            user="tapedeck",
            password=self._password,
            database="tapedeck",
            autocommit=True,
            connect_timeout=1,
            read_timeout=8,
        )
        with connection, connection.cursor() as cursor:
            while not self._end.is_set():
                number = next(numbers)
                cursor.execute("INSERT INTO written VALUES (%s)", (number,))
                self.acknowledged.append(number)

    def more(self, count: int = 50) -> bool:
        """Whether that many more are acknowledged soon."""
        wanted = len(self.acknowledged) + count
        return eventually(lambda: len(self.acknowledged) >= wanted)

    def missing(self) -> set[int]:
        """What was acknowledged and is not there."""
        acknowledged = set(self.acknowledged)
        rows = self._pair.primary.query("SELECT id FROM tapedeck.written", timeout=30)
        return acknowledged - {number for (number,) in rows}

    def stop(self) -> None:
        self._end.set()
        for thread in self._threads:
            thread.join()


@pytest.fixture
def said() -> list[str]:
    return []


@pytest.fixture
def pair(
    tmp_path: Path, data_template: Path, passwords: Passwords, said: list[str]
) -> Iterator[Pair]:
    for name in ("mysql1", "mysql2"):
        datadir.copy(data_template, tmp_path / "data" / name)
    made = Pair(tmp_path / "data", passwords, say=said.append)
    made.start()
    yield made
    made.kill()


@pytest.fixture
def writers(pair: Pair, passwords: Passwords) -> Iterator[Writers]:
    made = Writers(pair, passwords)
    yield made
    made.stop()


def test_a_new_pair_is_redundant_and_only_the_primary_can_be_written(pair: Pair) -> None:
    assert pair.redundant
    assert pair.primary.name == "mysql1"
    assert replication.semi_sync(pair.primary) == (True, 1)
    assert pair.primary.query("SELECT @@read_only") == [(0,)]
    assert pair.standby.query("SELECT @@read_only") == [(1,)]
    assert replication.generation(pair.standby) == 1


@pytest.mark.parametrize("loss", [MariaDB.kill, MariaDB.freeze])
def test_a_lost_primary_costs_no_acknowledged_change_and_returns_as_the_standby(
    pair: Pair, writers: Writers, loss: Callable[[MariaDB], None]
) -> None:
    for generation in (2, 3):
        old = pair.primary
        assert writers.more()
        loss(old)
        assert eventually(lambda old=old: pair.primary is not old)  # type: ignore[misc]
        assert writers.more()
        assert not writers.missing()
        assert not old.running
        assert not pair.redundant
        assert replication.generation(pair.primary) == generation
        assert pair.start_server(old.name) == f"{old.name} is the standby; the pair is redundant"
        assert pair.standby is old
        assert writers.more()


@pytest.mark.parametrize("loss", [MariaDB.kill, MariaDB.freeze])
def test_a_lost_standby_is_started_and_linked_again(
    pair: Pair, writers: Writers, loss: Callable[[MariaDB], None]
) -> None:
    pid = pair.standby.pid
    loss(pair.standby)
    assert eventually(lambda: pair.standby.pid not in (None, pid) and pair.redundant)
    assert writers.more()
    assert pair.primary.name == "mysql1"


def test_without_a_standby_it_goes_on_openly_and_is_not_failed_over(
    pair: Pair, writers: Writers, said: list[str]
) -> None:
    pair.stop_server("mysql2")
    assert eventually(lambda: replication.semi_sync(pair.primary)[0] is False)
    assert writers.more()
    assert eventually(lambda: any("goes on without a standby" in sentence for sentence in said))
    assert pair.status()["semi_sync"] is False

    pair.primary.kill()
    assert eventually(lambda: any("NOT promoted" in sentence for sentence in said))
    assert pair.primary.name == "mysql1"
    with pytest.raises(ServerFailed, match="mysql2, the standby, does not run"):
        pair.promote()
    assert "no primary" in pair.start_server("mysql2")
    with pytest.raises(ServerFailed, match="promote --force"):
        pair.promote()

    assert pair.start_server("mysql1") == "mysql1 is the primary again, as it was"
    assert eventually(lambda: pair.redundant)
    assert writers.more()
    assert not writers.missing()


def test_a_forced_promotion_loses_what_it_says_and_the_old_primary_gets_a_new_copy(
    pair: Pair, said: list[str]
) -> None:
    pair.primary.query("CREATE TABLE tapedeck.t (id INT PRIMARY KEY)")
    pair.stop_server("mysql2")
    assert eventually(lambda: replication.semi_sync(pair.primary)[0] is False)
    pair.primary.query("INSERT INTO tapedeck.t VALUES (1)")  # mysql2 has not got this one
    # After a clean end it cannot cut that change off, as it can after a crash.
    pair.primary.stop()
    pair.start_server("mysql2")
    assert pair.promote(force=True) == "mysql2 is the primary; mysql1 stays dead"
    assert pair.primary.query("SELECT * FROM tapedeck.t") == []
    pair.primary.query("INSERT INTO tapedeck.t VALUES (2)")

    assert pair.start_server("mysql1") == "mysql1 is the standby; the pair is redundant"
    assert any("new copy" in sentence for sentence in said)
    pair.primary.query("INSERT INTO tapedeck.t VALUES (3)")
    assert eventually(lambda: pair.standby.query("SELECT * FROM tapedeck.t") == [(2,), (3,)])
    assert (pair.folder / "mysql1.replaced").is_dir()


def test_roles_and_data_are_kept_over_a_kill_of_everything(
    pair: Pair, writers: Writers, passwords: Passwords
) -> None:
    assert writers.more()
    assert "mysql2 is the primary" in pair.stop_server("mysql1")
    assert writers.more()
    pair.kill()
    again = Pair(
        pair.folder, passwords, ports=(pair.servers["mysql1"].port, pair.servers["mysql2"].port)
    )
    again.start()
    try:
        assert again.primary.name == "mysql2"
        assert again.redundant
        assert writers.more()
        acknowledged = set(writers.acknowledged)
        rows = again.primary.query("SELECT id FROM tapedeck.written", timeout=30)
        assert not acknowledged - {number for (number,) in rows}
    finally:
        writers.stop()
        again.kill()


def test_a_promotion_that_was_cut_off_before_it_was_written_down_is_carried_on(
    pair: Pair, passwords: Passwords
) -> None:
    standby = pair.standby
    pair._end_watching()
    pair.primary.kill()
    with pytest.raises(ZeroDivisionError):
        replication.promote(standby, lambda _: 1 // 0)  # type: ignore[arg-type]
    standby.stop()
    again = Pair(pair.folder, passwords)
    again.start()
    try:
        assert again.primary.name == standby.name
        assert again.redundant
        assert again.status()["generation"] == 2
    finally:
        again.kill()


def test_a_planned_promotion_turns_the_pair_over(pair: Pair, writers: Writers) -> None:
    assert writers.more()
    assert pair.promote() == ("mysql2 is the primary; mysql1 is the standby; the pair is redundant")
    assert writers.more()
    assert not writers.missing()
