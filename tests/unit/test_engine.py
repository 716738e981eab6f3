"""MySQL and MariaDB: which of the two a server is, and when it is redundant."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from failover.mysql.engine import Engine, MariaDB, MySQL, group, semi_sync
from failover.mysql.errors import Fault, MySQLError

STATES = st.sampled_from(["ONLINE", "RECOVERING", "UNREACHABLE", "ERROR", "OFFLINE"])


@pytest.mark.parametrize(
    ("version", "comment", "name"),
    [
        ("10.11.6-MariaDB-0+deb12u1", "Debian 12", "MariaDB 10.11.6"),
        ("11.8.3-MariaDB-log", "mariadb.org binary distribution", "MariaDB 11.8.3"),
        ("8.0.40", "mariadb.org binary distribution", "MariaDB 8.0.40"),  # --version=8.0.40
        ("9.7.4-2", "(Debian)", "MySQL 9.7.4"),
        ("8.4.3", "MySQL Community Server - GPL", "MySQL 8.4.3"),
        ("8.0.36-28", "Percona Server (GPL)", "MySQL 8.0.36"),
        ("8.0.39", "Source distribution", "MySQL 8.0.39"),  # as RDS says
        ("", "", "MySQL"),
    ],
)
def test_a_server_s_engine_is_told_from_its_version_and_comment(
    version: str, comment: str, name: str
) -> None:
    assert str(Engine.of(version, comment)) == name


@pytest.mark.parametrize(
    ("engine", "tested"),
    [
        (MariaDB("10.11.6-MariaDB"), True),
        (MariaDB("11.8.3-MariaDB"), True),
        (MariaDB("10.6.20-MariaDB"), False),
        (MySQL("8.4.0"), True),
        (MySQL("9.7.4"), True),
        (MySQL("8.0.40"), False),
        (MySQL("of my own making"), True),
    ],
)
def test_a_version_older_than_the_tested_ones_is_reported(engine: Engine, tested: bool) -> None:
    assert (engine.untested == "") is tested
    assert tested or str(engine) in engine.untested


class Server:
    """Answers each statement by its first words."""

    broken = False

    def __init__(self, answers: Mapping[str, Sequence[Sequence[Any]] | MySQLError]) -> None:
        self._answers = answers

    async def fetch(self, sql: str) -> Sequence[Sequence[Any]]:
        answer = next(value for begin, value in self._answers.items() if sql.startswith(begin))
        if isinstance(answer, MySQLError):
            raise answer
        return answer

    async def execute(self, sql: str) -> int:
        raise AssertionError(sql)


DENIED = MySQLError(Fault.FINAL, 1142, "SELECT command denied")
MEMBERS = "SELECT member_state"
NAME = "SHOW GLOBAL VARIABLES LIKE 'group_replication_group_name'"
STATUS = "SHOW GLOBAL STATUS LIKE 'Rpl_semi_sync%'"
LINKED = [("Rpl_semi_sync_source_status", "ON"), ("Rpl_semi_sync_source_clients", 1)]


@pytest.mark.parametrize(
    ("answers", "held", "words"),
    [
        ({MEMBERS: [("ONLINE",)] * 3}, True, "3 of 3 members"),
        ({MEMBERS: [("ONLINE",), ("ONLINE",), ("UNREACHABLE",)]}, True, "2 of 3 members"),
        ({MEMBERS: [("ONLINE",), ("RECOVERING",)]}, False, "1 of 3 members"),
        ({MEMBERS: [("ONLINE",)]}, False, "1 of 3 members"),
        # Without the right to read the members, redundancy is unknown.
        ({MEMBERS: DENIED, NAME: [("group_replication_group_name", "a")]}, None, "GRANT SELECT"),
        # A semi-synchronous pair: no group, or one that is not running.
        ({MEMBERS: [], STATUS: LINKED}, True, "standby"),
        ({MEMBERS: [("OFFLINE",)], STATUS: LINKED}, True, "standby"),
        ({MEMBERS: DENIED, NAME: [], STATUS: LINKED}, True, "standby"),
        ({MEMBERS: DENIED, NAME: [("x", "")], STATUS: LINKED}, True, "standby"),
        ({MEMBERS: DENIED, NAME: [], STATUS: []}, False, "no standby"),
        # A refused statement must not make the primary unusable: redundancy is unknown.
        ({MEMBERS: MySQLError(Fault.NO_TABLE, 1146, "no such table")}, None, "no such table"),
    ],
)
def test_mysql_is_redundant_through_its_group_or_its_standby(
    answers: dict[str, Any], held: bool | None, words: str
) -> None:
    found = asyncio.run(MySQL("9.7.4").redundancy(Server(answers), hosts=3))

    assert found is not None
    assert found.held is held
    assert words in found.reason


def test_with_one_configured_host_only_a_group_is_found_to_be_redundant() -> None:
    alone = asyncio.run(MySQL("9.7.4").redundancy(Server({MEMBERS: []}), hosts=1))
    members = Server({MEMBERS: [("ONLINE",)] * 3})
    behind_a_router = asyncio.run(MySQL("9.7.4").redundancy(members, hosts=1))

    assert alone is None
    assert behind_a_router is not None
    assert behind_a_router.held


def test_redundancy_is_not_judged_after_a_lost_connection() -> None:
    lost = Server({STATUS: MySQLError(Fault.LOST, 2013, "lost")})
    with pytest.raises(MySQLError):
        asyncio.run(MariaDB("10.11.6").redundancy(lost, hosts=2))


@given(st.lists(STATES, max_size=9), st.integers(1, 9))
def test_a_group_is_redundant_only_while_two_and_a_majority_are_online(
    members: list[str], hosts: int
) -> None:
    held = group(members, hosts).held
    online = members.count("ONLINE")

    assert held == (online >= 2 and online > max(len(members), hosts) // 2)
    # Another online member never ends the redundancy; an unreachable one never brings it.
    if len(members) < hosts:
        assert group([*members, "ONLINE"], hosts).held or not held
    assert held or not group([*members, "UNREACHABLE"], hosts).held


@pytest.mark.parametrize(
    ("status", "held"),
    [
        ({}, False),
        ({"Rpl_semi_sync_master_status": "ON", "Rpl_semi_sync_master_clients": "1"}, True),
        ({"Rpl_semi_sync_master_status": "OFF", "Rpl_semi_sync_master_clients": "1"}, False),
        ({"Rpl_semi_sync_master_status": "ON", "Rpl_semi_sync_master_clients": "0"}, False),
        ({"Rpl_semi_sync_slave_status": "ON"}, False),
    ],
)
def test_a_standby_counts_while_the_primary_waits_for_it(
    status: dict[str, str], held: bool
) -> None:
    assert semi_sync(status.items(), MariaDB.waiting_side).held is held
