"""What a drill sees of MySQL."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from drills.stage import Plan, Stage
from sharding.partitions.ownership import COLUMNS, COMMENT, column_list, name_list, table_list

DAY = "player_state_20261020"


def test_a_drill_reads_the_partition_that_mysql_first_lists_in_part(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lists: dict[str, list[Any]] = {
        name_list(): [(DAY,)],
        column_list(): [(DAY, *column) for column in COLUMNS],
        table_list(): [(DAY, "BASE TABLE", COMMENT, 1, 1, 5), ("", "", "", 0, 0, 5)],
    }
    in_part = [column_list()]

    def query(sql: str) -> list[Any]:
        if sql in in_part:
            in_part.remove(sql)
            return []
        return lists[sql]

    stage = Stage(tmp_path, Plan())
    monkeypatch.setattr(stage, "query", query)

    assert stage.partitions() == [DAY]
