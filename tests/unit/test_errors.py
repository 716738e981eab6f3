"""How errors of MySQL and of its driver are classified."""

from __future__ import annotations

import asyncio

import pymysql.err as e
import pytest

from failover.mysql.errors import FAULTS, Fault, MySQLError, classify


@pytest.mark.parametrize(
    ("error", "fault"),
    [
        (e.OperationalError(2013, "Lost connection to MySQL server during query"), Fault.LOST),
        (e.OperationalError(2003, "Can't connect to MySQL server"), Fault.LOST),
        (e.OperationalError(2006, "MySQL server has gone away"), Fault.LOST),
        (e.OperationalError(1053, "Server shutdown in progress"), Fault.LOST),
        (e.OperationalError(1927, "Connection was killed"), Fault.LOST),
        (e.OperationalError(1317, "Query execution was interrupted"), Fault.LOST),
        (e.OperationalError(1290, "running with the --read-only option"), Fault.READ_ONLY),
        (e.OperationalError(1792, "Cannot execute in a READ ONLY transaction"), Fault.READ_ONLY),
        (e.OperationalError(1836, "Running in read-only mode"), Fault.READ_ONLY),
        # Errors of a member of a group, and of a server that goes offline.
        (e.OperationalError(3100, "Error on observer while running hook"), Fault.LOST),
        (e.OperationalError(3101, "Plugin instructed to rollback"), Fault.OVERTAKEN),
        (e.OperationalError(3098, "The table does not comply"), Fault.FINAL),
        (e.OperationalError(3032, "The server is currently in offline mode"), Fault.LOST),
        (e.OperationalError(3797, "Error while waiting for a backlog"), Fault.LOST),
        (e.OperationalError(1180, "Got error 149 during COMMIT"), Fault.LOST),
        (e.OperationalError(1040, "Too many connections"), Fault.BUSY),
        (e.OperationalError(1203, "max_user_connections"), Fault.BUSY),
        (e.OperationalError(1226, "has exceeded the 'max_user_connections' resource"), Fault.BUSY),
        (e.OperationalError(1213, "Deadlock found when trying to get lock"), Fault.OVERTAKEN),
        (e.OperationalError(1205, "Lock wait timeout exceeded"), Fault.OVERTAKEN),
        (e.OperationalError(1020, "Record has changed since last read"), Fault.OVERTAKEN),
        (e.ProgrammingError(1146, "Table doesn't exist"), Fault.NO_TABLE),
        (e.IntegrityError(1062, "Duplicate entry"), Fault.DUPLICATE),
        (e.OperationalError(1045, "Access denied for user"), Fault.FINAL),
        (e.ProgrammingError(1064, "You have an error in your SQL syntax"), Fault.FINAL),
        (e.DataError(1406, "Data too long for column"), Fault.FINAL),
        (e.OperationalError(1153, "Got a packet bigger than max_allowed_packet"), Fault.FINAL),
        (e.OperationalError(1114, "The table is full"), Fault.FULL),
        # MariaDB, for the partition of a new day.
        (e.OperationalError(1005, 'Can\'t create table (errno: 135 "No more room")'), Fault.FULL),
        # Errors of the driver that has lost its connection, or its place in the packets.
        (e.InterfaceError(0, "Not connected"), Fault.LOST),
        (e.InterfaceError("(0, 'Not connected')"), Fault.LOST),
        (e.InternalError("Packet sequence number wrong - got 1 expected 2"), Fault.LOST),
        (TimeoutError(), Fault.LOST),
        (ConnectionResetError(104, "Connection reset by peer"), Fault.LOST),
        (OSError(113, "No route to host"), Fault.LOST),
        (asyncio.IncompleteReadError(b"", 4), Fault.LOST),
    ],
)
def test_each_error_is_classified_by_what_it_means_for_a_request(
    error: Exception, fault: Fault
) -> None:
    known = classify(error)

    assert known is not None
    assert known.fault is fault


def test_an_error_keeps_its_number_and_the_server_s_message() -> None:
    known = classify(e.OperationalError(1213, "Deadlock found"))

    assert known is not None
    assert (known.code, known.reason, str(known)) == (1213, "Deadlock found", "1213 Deadlock found")


@pytest.mark.parametrize("error", [ValueError("no"), KeyError("k"), ZeroDivisionError()])
def test_an_error_of_the_program_is_not_classified_as_mysql_s(error: Exception) -> None:
    assert classify(error) is None


def test_a_classified_error_is_returned_unchanged() -> None:
    error = MySQLError(Fault.BUSY, 1040, "Too many connections")

    assert classify(error) is error


@pytest.mark.parametrize("fault", list(Fault))
def test_only_faults_that_may_pass_are_tried_again(fault: Fault) -> None:
    passing = MySQLError(fault, 0, "").passing

    once = (Fault.NO_TABLE, Fault.DUPLICATE, Fault.FULL, Fault.FINAL)
    assert passing is (fault not in once)


@pytest.mark.parametrize("code", sorted(FAULTS))
def test_an_error_s_number_decides_whichever_class_the_driver_chose(code: int) -> None:
    fault, source = FAULTS[code]

    for kind in (e.OperationalError, e.InternalError, e.ProgrammingError, e.IntegrityError):
        known = classify(kind(code, "words"))
        assert known is not None
        assert known.fault is fault
    assert "_" in source.split(":")[0]  # the name in MySQL's manual
