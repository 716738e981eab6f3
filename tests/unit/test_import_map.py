"""The map of an import: its mistakes are named with their lines, and values are read by it."""

from __future__ import annotations

import contextlib
import json
import re
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cli.importing import _time
from gateway.player.rules import body_of
from sharding.importing import run
from sharding.importing.known_keys import Known
from sharding.importing.mapping import BadMap, BadRow, Map, read_map, record
from sharding.importing.sources import BadSource, Keys, Source, _without_password, open_source
from sharding.importing.target import (
    CHANGED,
    EXPIRED,
    MOVED,
    NEW,
    OLDER,
    OTHER,
    REPLACED,
    SAME,
    decide,
)
from sharding.partitions.sql import Row
from sharding.state import PLAYLIST_MAX, USER_MAX, Key, Owner
from sharding.store import idempotency

DAY = date(2026, 10, 20)
KEPT = date(2026, 9, 20), date(2026, 10, 21)
PLAIN = "user: u\nplaylist: p\nday: d\nplayer: {played: t}"


def played(values: dict[str, Any]) -> Any:
    made = record({"user": 1, "playlist": 2, "day": None, **values}, DAY, body_of)
    return json.loads(made.body)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("usr: u\nplaylist: p\nbody: b", "line 1: there is no 'usr': did you mean 'user'?"),
        ("user: u\nplaylist: p\nplayer:\n  playd: t", "line 4: there is no 'playd': did you mean"),
        ("user: u\nplaylist: p", "say either `player:`"),
        ("user: u\nplaylist: p\nbody: b\nplayer: {played: t}", "say either `player:`"),
        ("playlist: p\nbody: b", "user: is missing"),
        ("user: [u]\nplaylist: p\nbody: b", "line 1: user: a column's name"),
        ("user: u\nplaylist: p\nplayer: t", "line 3: player: say below it"),
        ("user", "line 1: a map is"),
        ("user: 'u\n", "is no YAML at line"),
    ],
)
def test_a_mistake_in_a_map_is_named_with_its_line_and_a_suggestion(text: str, says: str) -> None:
    with pytest.raises(BadMap) as refused:
        read_map(text)
    assert says in str(refused.value)


@pytest.mark.parametrize(
    ("wanted", "tables", "says"),
    [
        ("mysql://h/d", "", "--tables"),
        ("redis://h", "", "needs `key:`"),
        ("states.xml", "", "no .csv or .jsonl file"),
        ("postgres://me:hidden@h/d", "", "postgres://h/d: is no mysql:// or redis:// address"),
        ("mysql://me:hidden/word@h/d", "t%Y%m%d", r"port is no number; .*%2F"),
        ("redis://:hidden#word@h:7001/0", "", r"port is no number; .*%23"),
    ],
)
def test_a_source_that_cannot_be_read_is_refused_without_a_word_of_its_password(
    wanted: str, tables: str, says: str
) -> None:
    with pytest.raises(BadSource, match=says) as refused:
        open_source(wanted, tables, read_map(PLAIN), None, ())
    assert "hidden" not in str(refused.value)


def test_what_a_run_tells_of_redis_has_no_password() -> None:
    assert _without_password("redis://me:hidden@h:1/0?password=hidden") == "redis://h:1/0"


ONE = "user: u\nplaylist: p\nday: d\nplayer:\n  played: t\n"


def rows_of_file(
    path: Path, text: bytes, said: Map | None = None, users: tuple[int, ...] = ()
) -> dict[str, dict[str, Any]]:
    path.write_bytes(text)
    source = open_source(str(path), "", said or read_map(ONE), None, users)
    (part,) = source.parts(date.min, date.max)
    return dict(row for batch in source.rows(part) for row in batch)


def test_a_file_is_read_past_a_byte_order_mark_and_past_a_line_that_is_no_utf_8(
    tmp_path: Path,
) -> None:
    line = b'{"u": 1, "p": 7, "t": [70], "d": "2026-11-30"}\n'
    found = rows_of_file(tmp_path / "p.jsonl", b"\xef\xbb\xbf" + line + b"\xff" + line + line)
    assert found["line 1"] == found["line 3"] == {"user": 1, "playlist": 7, "played": b"[70]",
                                                  "day": "2026-11-30"}  # fmt: skip
    with pytest.raises(BadRow, match="is no JSON object"):
        played(found["line 2"])
    found = rows_of_file(
        tmp_path / "p.csv", b"\xef\xbb\xbfu,p,t,d\n1,7,70,2026-11-30\n2,7,\xff,2026-11-30\n"
    )
    assert found["line 2"]["user"] == "1"
    with pytest.raises(BadRow, match=r"played: .* is no list of track ids"):
        played(found["line 3"])


HASH = {b"u": b"1", b"p": b"7", b"d": b"20261130"}


class OneHash:
    """The client of a Redis that has one hash."""

    def pipeline(self, **_: Any) -> OneHash:
        return self

    def __enter__(self) -> OneHash:
        return self

    def __exit__(self, *_: object) -> None: ...

    def type(self, _: bytes) -> None: ...

    def hgetall(self, _: bytes) -> None: ...

    def execute(self, *, raise_on_error: bool = True) -> list[Any]:
        return [b"hash"] if raise_on_error else [HASH]


@pytest.mark.parametrize("kind", ["json", "hash", "nested"])
@pytest.mark.parametrize("wrong", ["played", "skips", "listened", "at_end", "reported", "updated"])
def test_a_mistake_in_the_name_of_a_field_makes_a_bad_row_and_not_an_empty_place(
    wrong: str, kind: str, tmp_path: Path
) -> None:
    """Unless the map says that a record may lack the field."""
    line = b'{"u": 1, "p": 7, "d": "20261130", "a": {"b": []}}'
    for mark in ("", "?"):
        path = ("a.typo" if kind == "nested" else "typo") + mark
        part = f"player:\n  {wrong}: {path}"
        if wrong == "updated":
            part = f"updated: {path}\nplayer:\n  played: u"
        said = read_map(f"key: k:{{user}}:{{playlist}}\nuser: u\nplaylist: p\nday: d\n{part}")
        assert said.columns[wrong] == path.removesuffix("?"), "as an export names it"
        if kind == "hash":
            keys = Keys("redis://h", said, None, ())
            ((_, row),) = keys._read(OneHash(), [b"k:1:7"], re.compile("k:1:7"))
        else:
            (row,) = rows_of_file(tmp_path / "p.jsonl", line, said).values()
        if mark:
            record(row, None, body_of)
        else:
            with pytest.raises(BadRow, match=rf"has no field '{path}' \({wrong}\): correct its"):
                record(row, None, body_of)


def test_an_optional_column_may_be_missing_in_a_csv_file_and_is_refused_for_tables(
    tmp_path: Path,
) -> None:
    said = read_map(ONE + "  skips: s?\n")
    (row,) = rows_of_file(tmp_path / "p.csv", b"u,p,t,d\n1,7,70,20261130\n", said).values()
    assert json.loads(record(row, None, body_of).body) == {"played": [70]}
    with pytest.raises(BadSource, match=r"a \? in the map is for files and Redis: .* for skips"):
        open_source("mysql://h/d", "t%Y%m%d", said, None, ())


def test_a_body_of_a_json_line_keeps_its_digits(tmp_path: Path) -> None:
    body = b'{"a": 1e400, "b": [123456789012345678901234567890, 1.10]}'
    said = read_map("user: u\nplaylist: p\nday: d\nbody: b\n")
    line = b'{"u": 1, "p": 7, "d": "20261130", "b": ' + body + b"}"
    (row,) = rows_of_file(tmp_path / "p.jsonl", line, said).values()
    assert record(row, None, body_of).body == body


@pytest.mark.parametrize("updated", ["2026-11-30T12:00:00", "2026-11-30", "1796040000"])
def test_a_row_whose_update_time_lacks_its_fraction_or_its_hours_is_read_as_changed_since(
    updated: str, tmp_path: Path
) -> None:
    said = read_map(f"{ONE}updated: at\n")
    path = tmp_path / "p.csv"
    path.write_text(f"u,p,t,d,at\n1,7,70,20261130,{updated}\n2,7,70,20261130,2026-11-29\n")
    since = datetime(2026, 11, 30, 12, 0, 0, 500_000, UTC)
    source = open_source(str(path), "", said, since, ())
    (part,) = source.parts(date.min, date.max)
    assert [row["user"] for batch in source.rows(part) for _, row in batch] == ["1"]


@pytest.mark.parametrize("said", ["2026-12-01T01:00:00+05:00", "2026-11-30T20:00:00"])
def test_a_time_of_another_zone_is_taken_in_utc(said: str) -> None:
    assert str(_time(said)) == "2026-11-30 20:00:00+00:00"


def test_only_rows_of_the_wanted_users_are_read_however_their_ids_are_written(
    tmp_path: Path,
) -> None:
    text = b"u,p,t,d\n042,7,70,20261130\n 42,8,70,20261130\n4_2,9,70,20261130\n43,7,,\n"
    assert list(rows_of_file(tmp_path / "p.csv", text, users=(42,))) == ["line 2", "line 3"]


def test_a_csv_row_with_more_or_fewer_fields_than_the_first_line_is_bad(tmp_path: Path) -> None:
    """Its values may be in the wrong columns: a list without quotes falls apart."""
    text = b"u,p,t,d\n1,7,70,71,2026-11-30\n2,7,70\n3,7,70,2026-11-30\n"
    found = rows_of_file(tmp_path / "p.csv", text)
    with pytest.raises(BadRow, match="has 5 fields, and the first line 4"):
        played(found["line 2"])
    with pytest.raises(BadRow, match="has 3 fields, and the first line 4"):
        played(found["line 3"])
    assert found["line 4"]["played"] == "70"


CSV_ROW = b'%d,7,"70,71",2026-11-30\n'


@pytest.mark.parametrize("broken", [b'2,7,"70,71,2026-11-30\n', b'"2,7,70,2026-11-30\n'])
@pytest.mark.parametrize("place", ["between", "last", "long before the end"])
def test_a_csv_quote_that_is_not_closed_makes_only_its_own_row_bad(
    tmp_path: Path, place: str, broken: bytes
) -> None:
    after = {"between": 2, "last": 0, "long before the end": 9000}[place]
    rows = b"".join(CSV_ROW % user for user in range(3, 3 + after))
    found = rows_of_file(tmp_path / "p.csv", b"u,p,t,d\n" + CSV_ROW % 1 + broken + rows)
    assert list(found) == [f"line {number}" for number in range(2, 4 + after)]
    bad = {name for name, row in found.items() if "broken" in row}
    assert bad == {"line 3"}
    with pytest.raises(BadRow, match=r"quote that is not closed|unexpected end of data"):
        played(found["line 3"])
    assert all(row["played"] == "70,71" for name, row in found.items() if name not in bad)


def test_a_csv_row_of_several_lines_is_named_by_all_of_them(tmp_path: Path) -> None:
    text = b'u,p,t,d\n1,7,"70,\n71",2026-11-30\n2,7,70,2026-11-30\n'
    found = rows_of_file(tmp_path / "p.csv", text)
    assert found.keys() == {"lines 2 to 3", "line 4"}
    assert played(found["lines 2 to 3"])["played"] == [70, 71]


@pytest.mark.parametrize(
    ("first", "says"),
    [
        (b'u,p,"t,d\n1,7,70,2026-11-30\n', "the first line has a quote that is not closed"),
        (
            b"u,p,tracks,d\n1,7,70,2026-11-30\n",
            "the first line has no column t: it has u, p, tracks",
        ),
        (b"u;p;t;d\n", "the first line has no column u, p, d, t: it has u;p;t;d"),
        (b"", "the first line has no column u, p, d, t: the file is empty"),
    ],
)
def test_a_csv_file_without_a_column_of_the_map_is_refused_before_any_row(
    tmp_path: Path, first: bytes, says: str
) -> None:
    with pytest.raises(BadSource, match=says):
        rows_of_file(tmp_path / "p.csv", first)


@pytest.mark.parametrize("tracks", ["70,71", "[70, 71]", '["70","71"]', [70, 71], b"70, 71"])
def test_tracks_are_read_however_they_are_written(tracks: object) -> None:
    assert played({"played": tracks}) == {"played": [70, 71]}


@pytest.mark.parametrize("nothing", [None, b"", b"[]", b"null", []])
def test_no_value_is_no_tracks_and_no_skips(nothing: object) -> None:
    assert played({"played": nothing, "skips": nothing, "reported": nothing}) == {}


@pytest.mark.parametrize(
    "time",
    [1792490400, "1792490400", 1792490400000, Decimal(1792490400), "2026-10-20T10:00:00",
     "2026-10-20 10:00:00", "2026-10-20T12:00:00+02:00", "[1792490400]",
     datetime(2026, 10, 20, 10, tzinfo=UTC), datetime(2026, 10, 20, 10)],  # noqa: DTZ001
)  # fmt: skip
def test_times_of_skips_are_read_however_they_are_written(time: object) -> None:
    assert played({"skips": time}) == {"skips": [1792490400.0]}


@pytest.mark.parametrize(
    "day",
    ["20261020", "2026-10-20", "2026-10-20 23:59:59", DAY, 1792490400, "2026-10-20T23:59:59Z",
     "2026-10-21T01:30:00+02:00", "2026-10-19T22:30:00.5-02:00"],
)  # fmt: skip
def test_days_are_read_however_they_are_written(day: object) -> None:
    assert record({"user": 1, "playlist": 2, "day": day, "body": "{}"}, None, body_of).day == DAY


def test_switches_are_read_however_they_are_written() -> None:
    for yes in (1, "1", b"\x31", b"\x01", "true", "yes", True, Decimal(1)):
        assert played({"listened": yes, "at_end": yes}) == {"listened": True, "at_end": True}
    for no in (0, "0", b"\x00", "false", "", None, False, b"null"):
        assert played({"listened": no, "at_end": no}) == {}


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"user": "x"}, "user: 'x' is no whole number"),
        ({"user": 2**62}, "user: .*anonymous listeners lie above"),
        ({"playlist": 0}, "playlist: 0 is not from 1"),
        ({"played": "a,b"}, "played: 'a,b' is no list of track ids"),
        ({"user": "4_2"}, "user: '4_2' is no whole number"),
        ({"played": [70.5]}, r"played: \[70.5\] is no list of track ids"),
        ({"skips": "yesterday"}, "skips: 'yesterday' is no list of times"),
        ({"skips": 3}, "skips: 3 is no list of times"),
        ({"skips": [20261020100000]}, "skips: .* is no list of times"),
        ({"day": 2026}, "day: 2026 is no day"),
        ({"listened": "perhaps"}, "listened: 'perhaps' is neither true nor false"),
        ({"body": "[]"}, r"body: '\[\]' is no JSON object"),
        ({"body": '{"a":"\ud800"}'}, r"body: .* is no JSON object"),
        ({"body": {"a": "\ud800"}}, r"body: .* is no JSON object"),
        ({"body": 10**15}, "body: '1000000000000000' is no JSON object"),
        ({"body": json.dumps({"a": "b" * 70_000})}, "more than states.max_bytes"),
        ({"broken": "is no JSON object"}, "is no JSON object"),
    ],
)
def test_a_bad_row_says_which_value_is_wrong(values: dict[str, Any], says: str) -> None:
    with pytest.raises(BadRow, match=says):
        played(values)


@given(
    st.dictionaries(
        st.sampled_from(["day", "played", "skips", "at_end", "listened", "reported", "body"]),
        st.one_of(
            *(st.none(), st.integers(), st.floats(), st.text(), st.binary(), st.booleans()),
            *(st.lists(st.integers() | st.floats()), st.datetimes(), st.text("0123456789[],.-")),
        ),
    )
)
def test_any_row_is_a_state_or_refused(values: dict[str, Any]) -> None:
    made = None
    with contextlib.suppress(BadRow):
        made = record({"user": 1, "playlist": b"2", **values}, DAY, body_of)
    assert made is None or isinstance(json.loads(made.body), dict)


@given(st.integers(-40, 3), st.integers(-40, 3), st.booleans(), st.booleans(), st.booleans())
def test_an_import_never_replaces_a_newer_or_changed_state_or_one_of_the_other_api(
    age: int, row_age: int, imported: bool, same: bool, players: bool
) -> None:
    day, row_day = (date.fromordinal(DAY.toordinal() + n) for n in (age, row_age))
    one = record({"user": 1, "playlist": 2, "body": "{}"}, day, body_of)
    operations = idempotency.imported(3) if imported else b"import.0.1;w.1.3"
    owner = Owner.PLAYER if players else Owner.STATES_API
    row = Row(row_day, 3, int(owner), b"{}" if same else b'{"a":1}', operations)
    outcome = decide(one, row, *KEPT).outcome
    assert one.key == Key(1, 2)
    if age < -30:
        assert outcome == EXPIRED
    elif age <= 1:
        assert (outcome == CHANGED) == (not imported)
        if imported and players:
            assert outcome == OTHER
        elif imported:
            newer = MOVED if age > row_age else OLDER
            assert outcome == (newer if age != row_age else SAME if same else REPLACED)
        assert decide(one, None, *KEPT).outcome == NEW


KEYS = st.builds(Key, st.integers(1, USER_MAX), st.integers(1, PLAYLIST_MAX))


@given(st.lists(st.tuples(st.integers(0, 31), st.lists(KEYS, min_size=1, max_size=5)), max_size=8))
def test_an_import_rules_out_no_day_to_which_the_key_was_added(
    added: list[tuple[int, list[Key]]],
) -> None:
    days = [date.fromordinal(DAY.toordinal() + n) for n in range(32)]
    known = Known({}, days, 100)
    for number, keys in added:
        known.add(days[number], keys)
    found = known.among([key for _, keys in added for key in keys])
    for number, keys in added:
        assert set(keys) <= set(found[days[number]])


def test_an_import_rules_out_days_for_most_absent_keys() -> None:
    days = [date.fromordinal(DAY.toordinal() + n) for n in range(32)]
    known = Known({}, days, 1000)
    known.add(DAY, [Key(user, 7) for user in range(1, 101)])
    assert not known.among([])
    assert len(known.among([Key(user, 7) for user in range(50, 1000)])[DAY]) < 60


async def test_an_import_reports_once_that_it_is_long_and_keeps_its_rate_after_a_pause(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    said, now, slept = list[str](), [100.0], list[float]()

    async def sleep(seconds: float) -> None:
        slept.append(seconds)
        now[0] += seconds

    monkeypatch.setattr("sharding.importing.run.time.monotonic", lambda: now[0])
    monkeypatch.setattr("sharding.importing.run.asyncio.sleep", sleep)
    source = Source("places.jsonl", read_map(PLAIN), None, ())
    work = run.Run(source, body_of, 1000, print, print, when_long=lambda: said.append("1"))
    for _ in range(30):
        await work.passed(250)
    assert not said
    now[0] += 60  # MySQL did not answer
    slept.clear()
    for _ in range(30):
        await work.passed(250)
    assert said == ["1"]
    assert 7.3 < sum(slept) < 7.6, "7,500 rows at 1,000 a second, not all at once"
