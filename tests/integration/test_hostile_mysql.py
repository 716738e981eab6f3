"""The store on a MySQL whose defaults are all other ones than those that it was written for."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import pymysql
import pytest
from pymysql.cursors import Cursor

from config.load import parse
from config.model import MySQL as Config
from failover.mysql import settings
from failover.mysql.connection import Session
from stack import datadir
from stack.datadir import Passwords
from stack.mysql import MySQL
from tests.conftest import StackConfig
from tests.integration import test_hostile_defaults, test_store
from tests.integration.test_hostile_defaults import _compared
from tests.support.mysqld import WITHOUT_TLS

pytestmark = pytest.mark.stack

# Every test of the store, and its fixtures, with the `mysql` of this file.
globals().update(
    {name: it for name, it in vars(test_store).items() if name.startswith(("test_", "backend"))}
)
uncached = test_store.uncached

HOSTILE = {
    **{
        name: value
        for name, value in test_hostile_defaults.HOSTILE.items()
        if name in {setting.name for setting in settings.PINNED if setting.engine == "both"}
    },
    "sql_mode": "'ANSI,NO_BACKSLASH_ESCAPES,HIGH_NOT_PRECEDENCE,PAD_CHAR_TO_FULL_LENGTH'",
    "transaction_isolation": "'SERIALIZABLE'",
    "transaction_read_only": "1",
    "max_join_size": "1",
    "max_execution_time": "1",
    "information_schema_stats_expiry": "86400",
    "group_replication_consistency": "'EVENTUAL'",
    # Not pinned: each table says which collation it has.
    "default_collation_for_utf8mb4": "'utf8mb4_general_ci'",
}
SERVER = ("--character-set-server=latin1", "--collation-server=latin1_german1_ci")

# What is left to the server, and why that does no harm; besides what is left to a MariaDB.
LEFT = {
    "speed and memory alone, or an error where they run out": """
        connection_memory_chunk_size connection_memory_limit cte_max_recursion_depth
        enable_secondary_engine_statistics global_connection_memory_tracking
        histogram_generation_max_mem_size innodb_ddl_buffer_size innodb_ddl_threads
        innodb_parallel_read_threads internal_tmp_mem_storage_engine max_points_in_geometry
        optimizer_max_subgraph_pairs parser_max_mem_size range_optimizer_max_mem_size
        secondary_engine_cost_threshold select_into_buffer_size select_into_disk_sync
        select_into_disk_sync_delay set_operations_buffer_size transaction_allow_batching""",
    "the server's log, its statistics, what it shows to people": """
        end_markers_in_json explain_format explain_json_format_version optimizer_trace_features
        optimizer_trace_limit optimizer_trace_offset print_identified_with_as_hex
        session_track_gtids show_create_table_skip_secondary_engine show_create_table_verbosity
        show_gipk_in_create_table_and_information_schema terminology_use_previous""",
    "an ordinary user may not set it, or it is replication's": """
        binlog_row_value_options binlog_rows_query_log_events binlog_transaction_compression
        binlog_transaction_compression_level_zstd gtid_next immediate_server_version
        original_commit_timestamp original_server_version pseudo_replica_mode rbr_exec_mode
        require_row_format""",
    "told, not set": "gtid_owned statement_id",
    "no statement of ours uses it": """
        block_encryption_mode enable_cascade_triggers external_table_secondary_storage_engine
        external_table_storage_engine generated_random_password_length resultset_metadata
        restrict_fk_on_non_standard_key use_secondary_engine windowing_use_high_precision
        xa_detach_on_prepare""",
    "each of our tables has a primary key": """
        sql_generate_invisible_primary_key sql_require_primary_key""",
    "each of our tables says which collation it has": "default_collation_for_utf8mb4",
    "a table is encrypted or not as the operator wants it": "default_table_encryption",
}


class Hostile(MySQL):
    """Its administrator, who is part of the tests, has usual settings all the same."""

    @contextlib.contextmanager
    def connect(
        self, database: str | None = None, *, timeout: float = 5
    ) -> Iterator[pymysql.Connection[Cursor]]:
        with super().connect(database, timeout=timeout) as connection:
            with connection.cursor() as cursor:
                cursor.execute(settings.statement())
            yield connection


@pytest.fixture(scope="module")
def _hostile(
    tmp_path_factory: pytest.TempPathFactory, mysql_template: Path, passwords: Passwords
) -> Iterator[Hostile]:
    folder = tmp_path_factory.mktemp("hostile") / "data"
    datadir.copy(mysql_template, folder)
    server = Hostile("mysql1", folder, passwords, options=(*WITHOUT_TLS, *SERVER))
    yield server
    server.kill()


@pytest.fixture
def mysql(_hostile: Hostile) -> Hostile:
    """Takes the place of the usual server in every test here."""
    if not _hostile.running:
        _hostile.start()
    for name, value in HOSTILE.items():
        _hostile.query(f"SET GLOBAL {name} = {value}")
    return _hostile


@pytest.fixture
def config(stack_config: StackConfig) -> Config:
    return parse(stack_config()).mysql


def of_mysql() -> list[settings.Setting]:
    return [setting for setting in settings.PINNED if setting.engine != "mariadb"]


def test_every_session_variable_is_pinned_or_left_for_a_reason(mysql: MySQL) -> None:
    ((listed,),) = mysql.query(
        "SELECT COUNT(*) FROM information_schema.tables"
        " WHERE table_schema = 'performance_schema' AND table_name = 'variables_metadata'"
    )
    if not listed:
        pytest.skip("MySQL 8.4 does not say which variables a session has")
    found = mysql.query(
        "SELECT LOWER(variable_name) FROM performance_schema.variables_metadata"
        " WHERE variable_scope LIKE 'SESSION%'"
    )
    pinned = {setting.name for setting in of_mysql()}
    reasons = (*LEFT.values(), *test_hostile_defaults.LEFT.values())
    left = {name for names in reasons for name in names.split()}

    assert len(found) > 100
    assert {name for (name,) in found} - pinned - left == set()
    assert pinned & left == set()


def test_every_pinned_setting_is_hostile_here(mysql: MySQL) -> None:
    assert {setting.name for setting in of_mysql()} <= set(HOSTILE)


async def test_a_session_inherits_nothing_that_is_pinned(config: Config, mysql: MySQL) -> None:
    session = await Session.open(config.hosts[0], config)
    try:
        for setting in of_mysql():
            ((same,),) = await session.fetch(
                f"SELECT @@SESSION.{setting.name} = {_compared(setting.value)}"
            )
            assert same == 1, setting.name
    finally:
        session.close()
