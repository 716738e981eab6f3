"""The store works on a server whose defaults all differ from those that it needs."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import pymysql
import pytest
from prometheus_client import REGISTRY
from pymysql.cursors import Cursor

from config.load import parse
from failover.mysql import session_variables
from failover.mysql.connection import Session
from sharding.state import Key
from stack import datadir
from stack.datadir import Passwords
from stack.mariadb import MariaDB
from stack.mysql import MySQL
from stack.server import Server
from tests.conftest import StackConfig
from tests.integration import test_store
from tests.support.backends import opened
from tests.support.mysqld import WITHOUT_TLS
from tests.support.states import bump, count

pytestmark = pytest.mark.stack

# All tests of the store with their fixtures run here with this file's `mysql`.
globals().update(
    {name: it for name, it in vars(test_store).items() if name.startswith(("test_", "backend"))}
)
uncached = test_store.uncached

HOSTILE = {
    "autocommit": "0",
    "completion_type": "'CHAIN'",
    "tx_isolation": "'SERIALIZABLE'",
    "tx_read_only": "1",
    "sql_mode": "'ANSI,NO_BACKSLASH_ESCAPES,HIGH_NOT_PRECEDENCE,EMPTY_STRING_IS_NULL'",
    "sql_select_limit": "1",
    "sql_safe_updates": "1",
    "max_join_size": "1",
    "sql_big_selects": "0",
    "sql_auto_is_null": "1",
    "unique_checks": "0",
    "foreign_key_checks": "0",
    "big_tables": "1",
    "sql_if_exists": "1",
    "old_mode": "'NO_DUP_KEY_WARNINGS_WITH_IGNORE,ZERO_DATE_TIME_CAST'",
    "time_zone": "'+13:00'",
    "character_set_client": "latin1",
    "character_set_results": "latin1",
    "character_set_connection": "latin1",
    "collation_connection": "latin1_german1_ci",
    "innodb_lock_wait_timeout": "3600",
    "lock_wait_timeout": "86400",
    "wait_timeout": "1",
    "idle_transaction_timeout": "3600",
    "idle_write_transaction_timeout": "3600",
    "idle_readonly_transaction_timeout": "3600",
    "max_statement_time": "0.5",
}
HOSTILE_MYSQL = {
    **{
        name: value
        for name, value in HOSTILE.items()
        if name in {pinned.name for pinned in session_variables.PINNED if pinned.only is None}
    },
    "sql_mode": "'ANSI,NO_BACKSLASH_ESCAPES,HIGH_NOT_PRECEDENCE,PAD_CHAR_TO_FULL_LENGTH'",
    "transaction_isolation": "'SERIALIZABLE'",
    "transaction_read_only": "1",
    "max_join_size": "1",
    "max_execution_time": "1",
    "information_schema_stats_expiry": "86400",
    "group_replication_consistency": "'EVENTUAL'",
    # Not pinned: each of our tables names its collation.
    "default_collation_for_utf8mb4": "'utf8mb4_general_ci'",
}

# Variables that are left to the server, and why that does no harm.
LEFT = {
    "only speed and memory, or an error if they run out": """
        analyze_max_length analyze_sample_percentage aria_repair_threads aria_sort_buffer_size
        bulk_insert_buffer_size deadlock_search_depth_long deadlock_search_depth_short
        deadlock_timeout_long deadlock_timeout_short eq_range_index_dive_limit
        expensive_subquery_limit histogram_size histogram_type in_predicate_conversion_threshold
        innodb_tmpdir join_buffer_size join_buffer_space_limit join_cache_level
        max_heap_table_size max_length_for_sort_data max_rowid_filter_size max_seeks_for_key
        max_session_mem_used max_tmp_tables mrr_buffer_size myisam_repair_threads
        myisam_sort_buffer_size net_buffer_length optimizer_adjust_secondary_key_costs
        optimizer_extra_pruning_depth optimizer_join_limit_pref_ratio
        optimizer_max_sel_arg_weight optimizer_max_sel_args optimizer_prune_level
        optimizer_search_depth optimizer_selectivity_sampling_limit optimizer_switch
        optimizer_use_condition_selectivity preload_buffer_size query_alloc_block_size
        query_prealloc_size range_alloc_block_size read_buffer_size read_rnd_buffer_size
        rowid_merge_buff_size sort_buffer_size sql_buffer_result tcp_nodelay thread_pool_priority
        tmp_disk_table_size tmp_memory_table_size tmp_table_size transaction_alloc_block_size
        transaction_prealloc_size use_stat_tables max_allowed_packet max_user_connections""",
    "the server's log, its statistics, its notes": """
        aria_stats_method log_disabled_statements log_queries_not_using_indexes
        log_slow_admin_statements log_slow_disabled_statements log_slow_filter
        log_slow_max_warnings log_slow_min_examined_row_limit log_slow_query log_slow_query_time
        log_slow_rate_limit log_slow_slave_statements log_slow_verbosity log_warnings
        long_query_time max_error_count min_examined_row_limit myisam_stats_method note_verbosity
        optimizer_trace optimizer_trace_max_mem_size profiling profiling_history_size
        progress_report_time slow_query_log sql_log_off sql_notes sql_warnings""",
    "an ordinary user may not set it, or it is replication's": """
        alter_algorithm binlog_alter_two_phase binlog_annotate_row_events
        binlog_direct_non_transactional_updates binlog_format binlog_row_image
        default_master_connection gtid_domain_id gtid_seq_no max_relay_log_size
        pseudo_slave_mode pseudo_thread_id server_id skip_parallel_replication skip_replication
        sql_log_bin sql_slave_skip_counter timestamp wsrep_causal_reads wsrep_dirty_reads
        wsrep_gtid_seq_no wsrep_on wsrep_osu_method wsrep_retry_autocommit wsrep_sync_wait
        wsrep_trx_fragment_size wsrep_trx_fragment_unit""",
    "MariaDB 11's: plans, memory and the log": """
        log_slow_always_query_time max_tmp_session_space_usage new_mode optimizer_scan_setup_cost
        optimizer_where_cost""",
    "MariaDB 11's: no statement of ours uses it": """
        block_encryption_mode mhnsw_default_distance mhnsw_default_m mhnsw_ef_search
        redirect_url""",
    "MariaDB 11's: the collation of the connection is pinned, after its character set": """
        character_set_collations""",
    "only reported, never set": """
        error_count external_user identity in_transaction insert_id last_gtid last_insert_id
        proxy_user rand_seed1 rand_seed2 warning_count""",
    "no statement of ours uses it": """
        auto_increment_increment auto_increment_offset character_set_database
        character_set_filesystem character_set_server check_constraint_checks collation_database
        collation_server column_compression_threshold column_compression_zlib_level
        column_compression_zlib_strategy column_compression_zlib_wrap default_regex_flags
        default_storage_engine default_tmp_storage_engine default_week_format
        div_precision_increment explicit_defaults_for_timestamp group_concat_max_len
        innodb_compression_default innodb_default_encryption_key_id innodb_ft_enable_stopword
        innodb_ft_user_stopword_table innodb_strict_mode innodb_table_locks interactive_timeout
        keep_files_on_create lc_messages lc_time_names low_priority_updates max_delayed_threads
        max_insert_delayed_threads max_recursive_iterations max_sort_length
        max_sp_recursion_depth old old_alter_table old_passwords query_cache_strip_comments
        query_cache_wlock_invalidate session_track_schema session_track_state_change
        session_track_system_variables session_track_transaction_info sql_quote_show_create
        standard_compliant_cte storage_engine system_versioning_alter_history
        system_versioning_asof system_versioning_insert_history updatable_views_with_limit""",
    "another engine than the one asked for is an error (sql_mode)": "enforce_storage_engine",
    "READ COMMITTED has no other meaning with it": "innodb_snapshot_isolation",
    "has no effect while sql_big_selects is on": "max_join_size",
    "writes empty the cache, and statements that read the clock are not cached": "query_cache_type",
    "a lost connection is opened again": """
        net_read_timeout net_retry_count net_write_timeout""",
}
# Variables that only MySQL has.
LEFT_BY_MYSQL = {
    "only speed and memory, or an error if they run out": """
        connection_memory_chunk_size connection_memory_limit cte_max_recursion_depth
        enable_secondary_engine_statistics global_connection_memory_tracking
        histogram_generation_max_mem_size innodb_ddl_buffer_size innodb_ddl_threads
        innodb_parallel_read_threads internal_tmp_mem_storage_engine max_points_in_geometry
        optimizer_max_subgraph_pairs parser_max_mem_size range_optimizer_max_mem_size
        secondary_engine_cost_threshold select_into_buffer_size select_into_disk_sync
        select_into_disk_sync_delay set_operations_buffer_size transaction_allow_batching""",
    "the server's log, its statistics, and what it shows to people": """
        end_markers_in_json explain_format explain_json_format_version optimizer_trace_features
        optimizer_trace_limit optimizer_trace_offset print_identified_with_as_hex
        session_track_gtids show_create_table_skip_secondary_engine show_create_table_verbosity
        show_gipk_in_create_table_and_information_schema terminology_use_previous""",
    "an ordinary user may not set it, or it is replication's": """
        binlog_row_value_options binlog_rows_query_log_events binlog_transaction_compression
        binlog_transaction_compression_level_zstd gtid_next immediate_server_version
        original_commit_timestamp original_server_version pseudo_replica_mode rbr_exec_mode
        require_row_format""",
    "only reported, never set": "gtid_owned statement_id",
    "no statement of ours uses it": """
        block_encryption_mode enable_cascade_triggers external_table_secondary_storage_engine
        external_table_storage_engine generated_random_password_length resultset_metadata
        restrict_fk_on_non_standard_key use_secondary_engine windowing_use_high_precision
        xa_detach_on_prepare""",
    "each of our tables has a primary key": """
        sql_generate_invisible_primary_key sql_require_primary_key""",
    "each of our tables names its collation": "default_collation_for_utf8mb4",
    "the operator decides whether tables are encrypted": "default_table_encryption",
}

SYNONYMS = {"transaction_isolation", "transaction_read_only"}
"""MariaDB 11's other names for pinned settings."""


class Usual(Server):
    """A server whose administrator's sessions, which the tests use, have usual settings."""

    @contextlib.contextmanager
    def connect(
        self, database: str | None = None, *, timeout: float = 5
    ) -> Iterator[pymysql.Connection[Cursor]]:
        with super().connect(database, timeout=timeout) as connection:
            with connection.cursor() as cursor:
                cursor.execute(session_variables.statement())
            yield connection


class HostileMariaDB(Usual, MariaDB):
    hostile = HOSTILE
    left = tuple(LEFT.values())
    settings = ("--skip-character-set-client-handshake",)
    template = "data_template"
    variables = "information_schema.system_variables"


class HostileMySQL(Usual, MySQL):
    hostile = HOSTILE_MYSQL
    left = (*LEFT.values(), *LEFT_BY_MYSQL.values())
    settings = (
        *WITHOUT_TLS,
        "--character-set-server=latin1",
        "--collation-server=latin1_german1_ci",
    )
    template = "mysql_template"
    variables = "performance_schema.variables_metadata"


Hostile = HostileMariaDB | HostileMySQL


@pytest.fixture(scope="module", params=[HostileMariaDB, HostileMySQL], ids=["mariadb", "mysql"])
def _hostile(
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
    passwords: Passwords,
) -> Iterator[Hostile]:
    template: Path = request.getfixturevalue(request.param.template)
    folder = tmp_path_factory.mktemp("hostile") / "data"
    datadir.copy(template, folder)
    clock_file = folder.parent / "clock"
    server: Hostile = request.param(
        "mysql1", folder, passwords, clock_file=clock_file, options=request.param.settings
    )
    yield server
    server.kill()


@pytest.fixture
def mysql(_hostile: Hostile) -> Hostile:
    """The server of every test here, in place of the usual one."""
    assert _hostile.clock_file is not None
    _hostile.clock_file.write_text("+0\n")
    if not _hostile.running:
        _hostile.start()
    for name, value in _hostile.hostile.items():
        _hostile.query(f"SET GLOBAL {name} = {value}")
    return _hostile


def pinned(server: Hostile) -> list[session_variables.Setting]:
    other = "MySQL" if isinstance(server, MariaDB) else "MariaDB"
    return [setting for setting in session_variables.PINNED if setting.only != other]


def test_every_session_variable_is_pinned_or_left_for_a_reason(mysql: Hostile) -> None:
    try:
        found = mysql.query(
            f"SELECT LOWER(variable_name) FROM {mysql.variables}"
            " WHERE variable_scope LIKE 'SESSION%'"
        )
    except pymysql.ProgrammingError:
        pytest.skip("MySQL 8.4 does not say which variables a session has")
    ours = {setting.name for setting in pinned(mysql)}
    left = {name for names in mysql.left for name in names.split()}

    assert len(found) > 100
    synonyms = SYNONYMS if isinstance(mysql, MariaDB) else set()
    assert {name for (name,) in found} - ours - left - synonyms == set()
    assert ours & left == set()


def test_every_pinned_setting_is_hostile_here(mysql: Hostile) -> None:
    assert {setting.name for setting in pinned(mysql)} <= set(mysql.hostile)


async def test_a_session_has_the_pinned_value_of_every_setting(
    stack_config: StackConfig, mysql: Hostile
) -> None:
    config = parse(stack_config()).mysql
    session = await Session.open(config.hosts[0], config)
    try:
        for setting in pinned(mysql):
            ((same,),) = await session.fetch(
                f"SELECT @@SESSION.{setting.name} = {_compared(setting.value)}"
            )
            assert same == 1, setting.name
    finally:
        session.close()


def _compared(value: str) -> str:
    """A value as a SELECT compares it: a bare word of SET must be a string there."""
    if value.startswith("utf8mb4"):
        return f"'{value}'"
    return {"completion_type": "'NO_CHAIN'"}.get(value, value)


@pytest.mark.parametrize("cached", [True, False])
async def test_acknowledged_changes_survive_a_crash_of_the_server(
    stack_config: StackConfig, mysql: Server, cached: bool
) -> None:
    key = Key(7, 11)
    async with opened(stack_config(sessions={"enabled": cached})) as backend:
        for _ in range(5):
            answer = (await backend.store.change(key, bump)).answer
        assert answer == 5
    mysql.kill()
    mysql.start()

    async with opened(stack_config()) as backend:
        assert await count(backend.store, key) == 5


async def test_a_primary_whose_transactions_are_read_only_by_default_takes_changes(
    stack_config: StackConfig, mysql: Server
) -> None:
    async with opened(stack_config()) as backend:
        before = _refusals()
        for _ in range(20):
            await backend.store.change(Key(8, 1), bump)

        assert _refusals() == before


def _refusals() -> float:
    """How often a primary refused a statement as read-only."""
    labels = {"fault": "read_only"}
    return REGISTRY.get_sample_value("tapedeck_mysql_errors_total", labels) or 0
