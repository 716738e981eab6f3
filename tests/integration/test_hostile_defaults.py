"""The store on a MariaDB whose defaults are all other ones than those that it was written for."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import pymysql
import pytest
from prometheus_client import REGISTRY
from pymysql.cursors import Cursor

from config.load import parse
from config.model import MySQL
from failover.mysql import settings
from failover.mysql.connection import Session
from sharding.state import Key
from stack import datadir
from stack.datadir import Passwords
from stack.mariadb import MariaDB
from tests.conftest import StackConfig
from tests.integration import test_store
from tests.support.backends import opened
from tests.support.states import bump, count

pytestmark = pytest.mark.stack

# Every test of the store, and its fixtures, with the `mysql` of this file.
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

# What is left to the server, and why that does no harm.
LEFT = {
    "speed and memory alone, or an error where they run out": """
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
    "told, not set": """
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
    "has no say where sql_big_selects is on": "max_join_size",
    "writes empty it, and a statement that reads the clock is never kept": "query_cache_type",
    "a connection that is cut is opened anew": """
        net_read_timeout net_retry_count net_write_timeout""",
}


SYNONYMS = {"transaction_isolation", "transaction_read_only"}
"""MariaDB 11's other names of what is pinned."""


class Hostile(MariaDB):
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
    tmp_path_factory: pytest.TempPathFactory, data_template: Path, passwords: Passwords
) -> Iterator[Hostile]:
    folder = tmp_path_factory.mktemp("hostile") / "data"
    datadir.copy(data_template, folder)
    server = Hostile(
        "mysql1",
        folder,
        passwords,
        clock_file=folder.parent / "clock",
        options=["--skip-character-set-client-handshake"],
    )
    yield server
    server.kill()


@pytest.fixture
def mysql(_hostile: Hostile) -> Hostile:
    """Takes the place of the usual server in every test here."""
    assert _hostile.clock_file is not None
    _hostile.clock_file.write_text("+0\n")
    if not _hostile.running:
        _hostile.start()
    for name, value in HOSTILE.items():
        _hostile.query(f"SET GLOBAL {name} = {value}")
    return _hostile


@pytest.fixture
def config(stack_config: StackConfig) -> MySQL:
    return parse(stack_config()).mysql


def of_mariadb() -> list[settings.Setting]:
    return [setting for setting in settings.PINNED if setting.engine != "mysql"]


def test_every_session_variable_is_pinned_or_left_for_a_reason(mysql: MariaDB) -> None:
    found = mysql.query(
        "SELECT LOWER(variable_name) FROM information_schema.system_variables"
        " WHERE variable_scope LIKE 'SESSION%'"
    )
    pinned = {setting.name for setting in of_mariadb()}
    left = {name for names in LEFT.values() for name in names.split()}

    assert {name for (name,) in found} - pinned - left - SYNONYMS == set()
    assert pinned & left == set()


def test_every_pinned_setting_is_hostile_here(mysql: MariaDB) -> None:
    assert {setting.name for setting in of_mariadb()} <= set(HOSTILE)


async def test_a_session_inherits_nothing_that_is_pinned(config: MySQL, mysql: MariaDB) -> None:
    session = await Session.open(config.hosts[0], config)
    try:
        for setting in of_mariadb():
            ((same,),) = await session.fetch(
                f"SELECT @@SESSION.{setting.name} = {_compared(setting.value)}"
            )
            assert same == 1, setting.name
    finally:
        session.close()


def _compared(value: str) -> str:
    """A value as a SELECT may compare it: the bare word of a SET is a string there."""
    if value.startswith("utf8mb4"):
        return f"'{value}'"
    return {"completion_type": "'NO_CHAIN'"}.get(value, value)


@pytest.mark.parametrize("cached", [True, False])
async def test_what_was_acknowledged_survives_a_crash_of_the_server(
    stack_config: StackConfig, mysql: Hostile, cached: bool
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


async def test_a_writable_primary_stays_adopted_though_transactions_are_read_only_by_default(
    stack_config: StackConfig, mysql: MariaDB
) -> None:
    async with opened(stack_config()) as backend:
        before = _refusals()
        for _ in range(20):
            await backend.store.change(Key(8, 1), bump)

        assert _refusals() == before


def _refusals() -> float:
    """How often the primary refused a statement because it writes."""
    labels = {"fault": "read_only"}
    return REGISTRY.get_sample_value("tapedeck_mysql_errors_total", labels) or 0
