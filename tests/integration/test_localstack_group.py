"""MySQL Group Replication: MySQL elects, and nothing that was acknowledged is lost."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from stack import datadir
from stack.datadir import Passwords
from stack.group import Group
from stack.mysql import MySQL
from stack.process import ServerFailed
from tests.support.terminal import eventually
from tests.support.writers import Writers

pytestmark = pytest.mark.stack


@pytest.fixture
def said() -> list[str]:
    return []


@pytest.fixture
def group(
    tmp_path: Path, mysql_template: Path, passwords: Passwords, said: list[str]
) -> Iterator[Group]:
    for name in ("mysql1", "mysql2", "mysql3"):
        datadir.copy(mysql_template, tmp_path / "data" / name)
    made = Group(tmp_path / "data", passwords, say=said.append)
    made.start()
    yield made
    made.kill()


@pytest.fixture
def writers(group: Group, passwords: Passwords) -> Iterator[Writers]:
    made = Writers(group, passwords)
    yield made
    made.stop()


def others(group: Group) -> list[MySQL]:
    return [server for server in group.servers.values() if server is not group.primary]


@pytest.mark.parametrize("loss", [MySQL.kill, MySQL.freeze])
def test_another_primary_is_elected_and_the_old_one_returns_as_a_secondary(
    group: Group, writers: Writers, loss: Callable[[MySQL], None]
) -> None:
    assert group.redundant
    old = group.primary
    assert writers.more()
    loss(old)
    assert eventually(lambda: group.primary is not old, 60)
    assert group.redundant, "two of three have what was acknowledged"
    if loss is MySQL.kill:
        assert writers.more()
        assert group.status()["online"] == 2
        assert group.start_server(old.name) == (
            f"{old.name} is a secondary again: 3 of 3 members are online"
        )
    else:
        # MySQL itself has it rejoin, without an order.
        old.thaw()
        assert eventually(lambda: group.status()["online"] == 3, 60)
    assert group.primary is not old
    assert writers.more()
    assert not writers.missing()
    assert old.query("SELECT @@super_read_only") == [(1,)]


def test_without_a_majority_no_change_is_made_until_all_can_say_what_they_have(
    group: Group, writers: Writers, said: list[str]
) -> None:
    assert writers.more()
    survivor, (first, second) = group.primary, others(group)
    first.kill()
    second.kill()
    assert eventually(lambda: any("has no majority" in sentence for sentence in said))
    assert not group.redundant
    with pytest.raises(ServerFailed, match="promote --force"):
        group.promote()
    assert f"tapedeck stack start {second.name}" in group.start_server(first.name)
    assert "3 of 3 members are online" in group.start_server(second.name)
    assert group.primary is survivor, "it has what only it acknowledged"
    assert writers.more()
    assert not writers.missing()


def test_a_majority_that_is_lost_for_good_can_be_done_without_on_order(group: Group) -> None:
    survivor = group.primary
    for server in others(group):
        server.kill()
    assert eventually(lambda: not group.status()["online"], 30)
    assert group.promote(force=True) == (
        f"{survivor.name} is the primary: 1 of 3 members are online"
    )
    survivor.query("CREATE TABLE tapedeck.t (id INT PRIMARY KEY)")


def test_a_group_that_was_stopped_or_killed_as_a_whole_begins_where_it_was(
    group: Group, writers: Writers
) -> None:
    assert writers.more()
    left = group.primary
    assert "is the primary" in group.stop_server(left.name)
    assert group.primary is not left
    assert writers.more()
    # The one that was away lacks what the others have: it may join, and not found the group.
    group.kill()
    group.start()
    assert group.primary is not left
    assert group.status()["online"] == 3
    assert writers.more()
    before = group.primary
    assert group.promote().endswith(f"is the primary; {before.name} is a secondary")
    assert writers.more()
    writers.stop()
    group.stop()
    group.start()
    assert group.redundant
    assert not writers.missing()


def test_a_member_whose_data_is_gone_gets_all_of_it_from_the_others(
    group: Group,
) -> None:
    group.primary.query("CREATE TABLE tapedeck.t (id INT PRIMARY KEY)")
    group.primary.query("INSERT INTO tapedeck.t VALUES (1)")
    lost = others(group)[0]
    group.stop()
    shutil.rmtree(lost.folder)
    group.start()
    assert group.primary is not lost
    assert eventually(lambda: lost.query("SELECT * FROM tapedeck.t") == [(1,)])
