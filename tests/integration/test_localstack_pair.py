"""The local stack's pair is like a managed database: no acknowledged change is lost."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from stack import datadir, engines, replication
from stack.datadir import Passwords
from stack.mariadb import MariaDB
from stack.mysql import MySQL
from stack.pair import Pair
from stack.process import ServerFailed
from stack.server import Server
from tests.support.terminal import eventually
from tests.support.writers import Writers

pytestmark = pytest.mark.stack


@pytest.fixture
def said() -> list[str]:
    return []


BOTH: list[type[Server]] = [MariaDB, MySQL]
CHOSEN = MySQL if engines.chosen("mysql") else MariaDB


@pytest.fixture(params=[CHOSEN] if os.environ.get(engines.CHOICE) else BOTH)
def engine(request: pytest.FixtureRequest) -> type[Server]:
    found: type[Server] = request.param
    return found


@pytest.fixture
def pair(
    tmp_path: Path,
    engine: type[Server],
    request: pytest.FixtureRequest,
    passwords: Passwords,
    said: list[str],
) -> Iterator[Pair]:
    template = "data_template" if engine is MariaDB else "mysql_template"
    for name in ("mysql1", "mysql2"):
        datadir.copy(request.getfixturevalue(template), tmp_path / "data" / name)
    made = Pair(tmp_path / "data", passwords, engine, say=said.append)
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
    assert replication.semi_sync(pair.primary)[:2] == (True, 1)
    assert pair.primary.query("SELECT @@read_only") == [(0,)]
    assert pair.standby.query("SELECT @@read_only") == [(1,)]
    assert replication.generation(pair.standby) == 1


@pytest.mark.parametrize("loss", [Server.kill, Server.freeze])
def test_no_acknowledged_change_is_lost_with_a_primary_and_it_returns_as_the_standby(
    pair: Pair, writers: Writers, loss: Callable[[Server], None]
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


def test_a_standby_that_does_not_apply_is_promoted_with_all_that_it_received(
    pair: Pair, writers: Writers
) -> None:
    pair.standby.query("STOP REPLICA SQL_THREAD")
    assert writers.more(2)
    pair.primary.kill()
    assert eventually(lambda: pair.primary.name == "mysql2")
    assert not writers.missing()


@pytest.mark.parametrize("loss", [Server.kill, Server.freeze])
def test_a_lost_standby_is_started_and_linked_again(
    pair: Pair, writers: Writers, loss: Callable[[Server], None]
) -> None:
    pid = pair.standby.pid
    loss(pair.standby)
    assert eventually(lambda: pair.standby.pid not in (None, pid) and pair.redundant)
    assert writers.more()
    assert pair.primary.name == "mysql1"


def test_without_a_standby_the_pair_says_so_and_does_not_fail_over(
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


def test_after_a_forced_promotion_the_old_primary_gets_a_new_copy(
    pair: Pair, said: list[str]
) -> None:
    pair.primary.query("CREATE TABLE tapedeck.t (id INT PRIMARY KEY)")
    pair.stop_server("mysql2")
    assert eventually(lambda: replication.semi_sync(pair.primary)[0] is False)
    pair.primary.query("INSERT INTO tapedeck.t VALUES (1)")  # mysql2 does not have this row
    # After a clean end it cannot drop that change, as it could after a crash.
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


def test_roles_and_data_are_kept_after_both_servers_were_killed(
    pair: Pair, writers: Writers, passwords: Passwords
) -> None:
    assert writers.more()
    assert "mysql2 is the primary" in pair.stop_server("mysql1")
    assert writers.more()
    pair.kill()
    one, two = (server.port for server in pair.servers.values())
    again = Pair(pair.folder, passwords, type(pair.primary), ports=(one, two))
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


def test_a_promotion_interrupted_before_it_was_recorded_is_completed(
    pair: Pair, passwords: Passwords
) -> None:
    standby = pair.standby
    pair._end_watching()
    pair.primary.kill()
    with pytest.raises(ZeroDivisionError):
        replication.promote(standby, lambda _: 1 // 0)  # type: ignore[arg-type]
    standby.stop()
    again = Pair(pair.folder, passwords, type(standby))
    again.start()
    try:
        assert again.primary.name == standby.name
        assert again.redundant
        assert again.status()["generation"] == 2
    finally:
        again.kill()


def test_a_planned_promotion_exchanges_the_roles(pair: Pair, writers: Writers) -> None:
    assert writers.more()
    assert pair.promote() == ("mysql2 is the primary; mysql1 is the standby; the pair is redundant")
    assert writers.more()
    assert not writers.missing()
