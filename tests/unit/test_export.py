"""Exports: how states are written in each kind of file, and which are left out."""

from __future__ import annotations

import asyncio
import csv
import io
import json
from collections.abc import Sequence
from datetime import date, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.player.rules import body_of
from sharding.importing.exporting import Written, write
from sharding.importing.mapping import read_map, record
from sharding.importing.sources import File, Part
from sharding.partitions.calendar import table
from sharding.state import Owner

DAY = date(2026, 11, 30)
PLACES = "user: u\nplaylist: p\nday: d\nupdated: at\nplayer: {played: t, listened: l}\n"
BODIES = "user: u\nplaylist: p\nday: d\nbody: b\n"
PLACE = b'{"played":[1001,1002]}'
ROWS = [(42, 7, Owner.STATES_API, b'{"position": 3}'), (43, 7, Owner.PLAYER, PLACE)]


def exported(kind: str, said: str, rows: Sequence[Any] = ROWS) -> tuple[Written, str]:
    async def fetch(statement: str) -> Sequence[Any]:
        return rows if "user_id>0 " in statement else ()

    async def days() -> list[date]:
        return [DAY]

    file = io.StringIO()
    count = asyncio.run(write(file, fetch, kind, read_map(said), "places_%Y%m%d", days, ()))
    return count, file.getvalue()


@pytest.mark.parametrize("kind", [".sql", ".csv", ".jsonl"])
def test_a_state_of_the_other_api_is_left_out_and_counted(kind: str) -> None:
    count, text = exported(kind, PLACES)
    assert count == Written(states=1, left_out=1)
    assert "43" in text
    assert "42" not in text, "an empty place would replace what the other system has"
    count, text = exported(kind, BODIES)
    assert count == Written(states=1, left_out=1)
    assert "position" in text
    assert "43" not in text


def test_an_export_in_sql_has_one_readable_statement() -> None:
    _, text = exported(".sql", PLACES)
    *refusal, statement = text.splitlines()
    assert all(line.endswith(";") for line in refusal), "each is a statement"
    assert "'places_20261130'" in refusal[0]
    assert "'l'" in refusal[0], "the only column of a switch"
    assert statement == (
        "INSERT INTO `places_20261130` (`u`, `p`, `d`, `at`, `t`, `l`) VALUES"
        " (43, 7, '2026-11-30', '2026-11-30T00:00:00', '[1001, 1002]', 0) ON DUPLICATE KEY UPDATE"
        " `u`=VALUES(`u`), `p`=VALUES(`p`), `d`=VALUES(`d`), `at`=VALUES(`at`), `t`=VALUES(`t`),"
        " `l`=VALUES(`l`);"
    )
    assert "'{\"position\": 3}'" in exported(".sql", BODIES)[1]


@given(st.text(st.characters(exclude_categories=["Cs"])) | st.text("a'\\\"\n;é"))
def test_no_text_can_end_its_sql_literal(text: str) -> None:
    body = json.dumps({"a": text}, ensure_ascii=False).encode()
    _, statements = exported(".sql", BODIES, [(1, 2, Owner.STATES_API, body)])
    (statement,) = statements.split("\n")[:-1]
    literal = statement.split("VALUES (1, 2, '2026-11-30', ")[1].rsplit(") ON DUPLICATE KEY", 1)[0]
    if literal.startswith("_utf8mb4 0x"):
        assert bytes.fromhex(literal.removeprefix("_utf8mb4 0x")) == body
    else:
        assert literal == f"'{body.decode()}'"
        assert not set("'\\") & set(body.decode())
        assert body.isascii()


def test_an_export_in_json_lines_has_lists_and_objects() -> None:
    (line,) = exported(".jsonl", PLACES)[1].splitlines()
    assert json.loads(line) == {
        "u": 43,
        "p": 7,
        "d": "2026-11-30",
        "at": "2026-11-30T00:00:00",
        "t": [1001, 1002],
        "l": 0,
    }
    rows = [(42, 7, Owner.STATES_API, b'{\n  "position": 1e400\r\n}')]
    (line,) = exported(".jsonl", BODIES, rows)[1].splitlines()
    assert "1e400" in line, "a number is exported with the digits that it was stored with"


def test_a_column_that_is_day_and_update_time_is_written_as_a_time() -> None:
    said = PLACES.replace("day: d", "day: at")
    assert next(csv.DictReader(io.StringIO(exported(".csv", said)[1]))) == {
        "u": "43",
        "p": "7",
        "at": "2026-11-30T00:00:00",
        "t": "[1001, 1002]",
        "l": "0",
    }


def test_a_file_has_a_column_day_if_the_map_takes_the_day_from_tables_names() -> None:
    said = PLACES.replace("day: d\n", "").replace("updated: at", "updated: GREATEST(a, b)")
    assert exported(".csv", said)[1].split() == [
        "u,p,t,l,day",
        '43,7,"[1001,',
        '1002]",0,2026-11-30',
    ]
    assert "`day`" not in exported(".sql", said)[1]


@pytest.mark.parametrize("kind", [".csv", ".jsonl"])
@pytest.mark.parametrize(("said", "owner"), [(PLACES, Owner.PLAYER), (BODIES, Owner.STATES_API)])
def test_an_exported_state_is_imported_unchanged(
    kind: str, said: str, owner: Owner, tmp_path: Any
) -> None:
    (row,) = [one for one in ROWS if one[2] == owner]
    file = tmp_path / f"back{kind}"
    file.write_text(exported(kind, said)[1])
    source = File(str(file), read_map(said), None, ())
    ((_, values),) = [one for batch in source.rows(Part("")) for one in batch]
    made = record(values, None, body_of)
    assert (*made.key, made.owner) == row[:3]
    assert json.loads(made.body) == json.loads(row[3])
    assert made.day == DAY


async def test_an_export_over_midnights_has_the_states_that_moved_meanwhile() -> None:
    there = {DAY: [ROWS[1]], DAY + timedelta(days=1): list[Any]()}

    async def days() -> list[date]:
        return list(there)

    async def fetch(statement: str) -> Sequence[Any]:
        newest = max(there)
        if table(newest) in statement and newest < DAY + timedelta(days=3):
            # While the last day is read, two midnights pass, and a listener goes on.
            there[DAY + timedelta(days=2)] = []
            there[DAY + timedelta(days=3)] = [(44, 7, Owner.PLAYER, PLACE)]
        found = [rows for day, rows in there.items() if table(day) in statement]
        return found[0] if "user_id>0 " in statement else ()

    file = io.StringIO()
    count = await write(file, fetch, ".jsonl", read_map(PLACES), "", days, ())
    assert count == Written(states=2)
    assert [json.loads(line)["u"] for line in file.getvalue().splitlines()] == [43, 44]
