"""The local stack's group: MySQL elects its primary, and no acknowledged change is lost."""

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
def test_after_the_primary_is_lost_another_is_elected_and_it_returns_as_a_secondary(
    group: Group, writers: Writers, loss: Callable[[MySQL], None]
) -> None:
    assert group.redundant
    old = group.primary
    assert writers.more()
    loss(old)
    assert eventually(lambda: group.primary is not old, 60)
    assert group.redundant, "two of three members have every acknowledged change"
    if loss is MySQL.kill:
        assert writers.more()
        assert group.status()["online"] == 2
        assert group.start_server(old.name) == (
            f"{old.name} is a secondary again: 3 of 3 members are online"
        )
    else:
        # It rejoins by itself, without a command.
        old.thaw()
        assert eventually(lambda: group.status()["online"] == 3, 60)
    assert group.primary is not old
    assert writers.more()
    assert not writers.missing()
    assert old.query("SELECT @@super_read_only") == [(1,)]


def test_without_a_majority_no_change_is_made_until_all_members_run_again(
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
    assert f"{second.name} is a secondary again" in group.start_server(second.name)
    assert eventually(lambda: group.status()["online"] == 3, 60), "the other one may join later"
    assert group.primary is survivor, "only the survivor has the last acknowledged changes"
    assert writers.more()
    assert not writers.missing()


def test_a_forced_promotion_works_without_a_majority(group: Group) -> None:
    survivor = group.primary
    for server in others(group):
        server.kill()
    assert eventually(lambda: not group.status()["online"], 30)
    assert group.promote(force=True) == (
        f"{survivor.name} is the primary: 1 of 3 members are online"
    )
    survivor.query("CREATE TABLE tapedeck.t (id INT PRIMARY KEY)")


def test_a_stopped_or_killed_group_starts_again_with_every_change(
    group: Group, writers: Writers
) -> None:
    assert writers.more()
    left = group.primary
    assert "is the primary" in group.stop_server(left.name)
    assert group.primary is not left
    assert writers.more()
    # The stopped member lacks changes of the others, so it must join and not found the group.
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


def test_a_member_without_data_gets_all_data_from_the_others(
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
