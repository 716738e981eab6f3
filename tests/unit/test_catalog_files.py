"""Catalog files: what is read, and which line and value a refusal names."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import config
from gateway.catalog.csv_file import UnreadableFile
from gateway.catalog.importer import format_of, read
from gateway.catalog.validation import BadLine, Entry


def track(track_id: int, **changes: object) -> dict[str, object]:
    return {
        "id": track_id,
        "name": f"Track {track_id}",
        "performer": "Somebody",
        "release_name": "A Record",
        "year": 1928,
        "url": "https://music.example.org/t",
        "track_file_stream_url": "https://media.example.org/t.mp3",
        "play_duration": 60,
    } | changes


def mix(mix_id: int, *tracks: dict[str, object], **changes: object) -> dict[str, object]:
    return {
        "id": mix_id,
        "name": f"Mix {mix_id}",
        "slug": f"mix-{mix_id}",
        "description": None,
        "tag_list_cache": "jazz, 1920s",
        "user": {"id": 3, "login": "ann", "slug": "ann"},
        "tracks": list(tracks) or [track(mix_id * 10), track(mix_id * 10 + 1)],
    } | changes


def jsonl(*mixes: dict[str, object]) -> bytes:
    return b"".join(json.dumps(m, ensure_ascii=False).encode() + b"\n" for m in mixes)


def rows_of(*mixes: dict) -> list[dict[str, object]]:
    return [
        {name: value for name, value in m.items() if name not in ("user", "tracks")}
        | {f"user.{name}": value for name, value in m["user"].items()}
        | {f"track.{name}": value for name, value in t.items()}
        for m in mixes
        for t in m["tracks"]
    ]


def as_csv(rows: list[dict[str, object]], ending: str = "\r\n") -> bytes:
    out = io.StringIO()
    writer = csv.DictWriter(out, list(rows[0]), lineterminator=ending)
    writer.writeheader()
    writer.writerows(rows)
    return out.getvalue().encode("utf-8", "surrogateescape")


def parse(content: bytes, file_format="jsonl"):
    found = list(read(io.BytesIO(content), file_format))
    good = [(entry.number, entry.mix.id) for entry in found if isinstance(entry, Entry)]
    bad = [entry for entry in found if isinstance(entry, BadLine)]
    return good, bad


def only_reason(content: bytes, file_format="jsonl") -> str:
    good, bad = parse(content, file_format)
    assert good == []
    assert [entry.number for entry in bad] == [1 if file_format == "jsonl" else 2]
    return bad[0].reason


# -- both formats ----------------------------------------------------------------------------------

names = st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=40).filter(
    str.strip
)
tracks = st.builds(
    track,
    st.integers(1, 2**63 - 1),
    name=names,
    performer=names,
    release_name=st.none() | names,
    year=st.none() | st.integers(1, 9999),
    url=st.just(None) | st.just("http://music.example.org/?q=é"),
    play_duration=st.integers(0, 86_400),
)


@given(
    st.lists(tracks, min_size=1, max_size=5, unique_by=lambda t: t["id"]),
    st.integers(1, 2**63 - 1),
    st.none() | names,
    st.sampled_from(["\n", "\r\n"]),
)
def test_both_formats_give_the_same_mix(tracks, mix_id, description, ending):
    given_mix = mix(mix_id, *tracks, description=description)
    (from_json,) = read(io.BytesIO(jsonl(given_mix)), "jsonl")
    (from_csv,) = read(io.BytesIO(as_csv(rows_of(given_mix), ending)), "csv")
    assert isinstance(from_json, Entry), from_json
    assert isinstance(from_csv, Entry), from_csv
    assert from_json.mix == from_csv.mix
    assert from_json.mix.duration == sum(t["play_duration"] for t in tracks)
    assert [t.name for t in from_json.mix.tracks] == [t["name"] for t in tracks]


@given(st.binary(max_size=300), st.sampled_from(["jsonl", "csv"]))
def test_random_bytes_are_refused_and_never_crash_the_reader(content, file_format):
    try:
        good, _ = parse(content, file_format)
    except UnreadableFile:
        return
    assert good == []


@given(st.data(), st.sampled_from(["jsonl", "csv"]))
def test_a_file_with_one_changed_byte_never_gives_a_shortened_mix(data, file_format):
    mixes = [mix(n, track(n * 10), track(n * 10 + 1), track(n * 10 + 2)) for n in (1, 2, 3)]
    content = bytearray(jsonl(*mixes) if file_format == "jsonl" else as_csv(rows_of(*mixes)))
    header = 0 if file_format == "jsonl" else content.index(b"\n") + 1
    content[data.draw(st.integers(header, len(content) - 1))] = data.draw(st.integers(0, 255))
    try:
        found = list(read(io.BytesIO(bytes(content)), file_format))
    except UnreadableFile:
        return
    mixes_found = {entry.mix.id: entry.mix for entry in found if isinstance(entry, Entry)}
    # In a CSV a changed id may move a row to another mix, or to the id 0, which no mix has.
    other = any(isinstance(one, BadLine) and one.reason.startswith("id:") for one in found)
    if mixes_found.keys() <= {1, 2, 3} and not other:
        assert all(len(mix.tracks) == 3 for mix in mixes_found.values())


def test_a_byte_order_mark_and_crlf_are_ignored():
    assert parse(b"\xef\xbb\xbf" + jsonl(mix(1)).replace(b"\n", b"\r\n"))[0] == [(1, 1)]
    assert parse(b"\xef\xbb\xbf" + as_csv(rows_of(mix(1))), "csv")[0] == [(2, 1)]


def test_a_mix_without_a_path_gets_one_below_its_user():
    (entry,) = read(io.BytesIO(jsonl(mix(1))), "jsonl")
    assert entry.mix.path == "/ann/mix-1"


def test_one_track_may_be_in_two_mixes():
    content = [mix(1, track(5), track(6)), mix(2, track(6), track(7))]
    assert parse(jsonl(*content))[0] == [(1, 1), (2, 2)]
    assert parse(as_csv(rows_of(*content)), "csv")[0] == [(2, 1), (4, 2)]


def test_a_track_that_differs_from_an_earlier_line_is_refused():
    good, bad = parse(jsonl(mix(1, track(5)), mix(2, track(5, name="Another"))))
    assert good == [(1, 1)]
    assert bad == [BadLine(2, "track 5 is not what it is on line 1")]


def test_a_mix_that_is_given_twice_is_refused_the_second_time():
    good, bad = parse(jsonl(mix(1), mix(2), mix(1)))
    assert good == [(1, 1), (2, 2)]
    assert bad == [BadLine(3, "mix 1 is on line 1 already")]


@pytest.mark.parametrize("file_format", ["jsonl", "csv"])
def test_a_track_that_is_twice_in_a_mix_is_refused(file_format):
    twice = mix(1, track(5), track(6), track(5))
    content = jsonl(twice) if file_format == "jsonl" else as_csv(rows_of(twice))
    assert only_reason(content, file_format) == "tracks[2]: track 5 is in the mix already"


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"id": 0}, "id: Expected `int` >= 1"),
        ({"id": -1}, "id: Expected `int` >= 1"),
        ({"id": 2**63}, "id: Expected `int` <= 9223372036854775807"),
        ({"id": "1"}, "id: Expected `int`, got `str`"),
        ({"id": True}, "id: Expected `int`, got `bool`"),
        ({"name": ""}, "name: Expected `str` of length >= 1"),
        ({"name": " "}, "name: is blank"),
        ({"name": "x" * 256}, "name: Expected `str` of length <= 255"),
        ({"name": "a\x00b"}, "name: holds the control character U+0000"),
        ({"description": "a\x1bb"}, "description: holds the control character U+001B"),
        ({"slug": "a/b"}, "slug: is no slug"),
        *(
            ({"path": path}, "path: is no plain path such as /somebody/mix")
            for path in [
                *("ann/mix", "//evil.example/x", "/\\evil.example", "/a//evil.example", "/"),
                *("/a b", "/../a", "/a/.", "/a?b", "/a#b", "https://evil.example/x"),
                "javascript:alert(1)",
            ]
        ),
        ({"path": "/a\x01"}, "path: holds the control character U+0001"),
        ({"slug": "\\evil.example"}, "slug: is no slug"),
        ({"slug": ".."}, "path: is no plain path such as /somebody/mix"),
        *(
            ({"tracks": [track(5, url=url)]}, "tracks[0].url: is no http or https URL")
            for url in [
                *("javascript:alert(1)", "data:text/html,x", "//evil.example", "ftp://a/b"),
                *("https:///x", "https://a\\@evil.example", "https://good@evil.example/"),
                "file:///x",
            ]
        ),
        ({"tracks": []}, "tracks: Expected `array` of length >= 1"),
        ({"user": None}, "user: Expected `object`, got `null`"),
        ({"mood": "blue"}, "Object contains unknown field `mood`"),
        ({"tracks": [track(5), track(0)]}, "tracks[1].id: Expected `int` >= 1"),
        ({"tracks": [track(5, year=10_000)]}, "tracks[0].year: Expected `int` <= 9999"),
        (
            {"tracks": [track(5, track_file_stream_url="javascript:x")]},
            "tracks[0].track_file_stream_url: is no http or https URL",
        ),
        (
            {"tracks": [track(5, play_duration=-1)]},
            "tracks[0].play_duration: Expected `int` >= 0",
        ),
        (
            {"tracks": [track(5, play_duration=1.5)]},
            "tracks[0].play_duration: Expected `int`, got `float`",
        ),
    ],
)
def test_a_wrong_value_is_refused_with_its_place_in_the_line(changes, reason):
    assert only_reason(jsonl(mix(1, **changes))) == reason


def test_a_missing_field_is_named():
    short = mix(1)
    del short["slug"]
    assert only_reason(jsonl(short)) == "Object missing required field `slug`"


def test_a_description_may_have_several_lines():
    text = "one\n\ttwo\r\n"
    (entry,) = read(io.BytesIO(as_csv(rows_of(mix(1, description=text)))), "csv")
    assert entry.mix.description == text


# -- JSON lines ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b"{", "Input data was truncated"),
        (b"[]", "Expected `object`, got `array`"),
        (b'{"id": \xff}', "JSON is malformed: invalid character (byte 7)"),
        (b"\xff\xfe{\x00", "JSON is malformed: invalid character (byte 0)"),
        (jsonl(mix(1)).replace(b"Mix 1", b"Mix \xe9").strip(), "is no UTF-8"),
        (b'{"id":' + b"[" * 100_000, "id: Expected `int`, got `array`"),
        (b" " * (4 * 1024 * 1024 + 1) + b"{}", "is longer than 4194304 bytes"),
        (b"{" * (9 * 1024 * 1024), "is longer than 4194304 bytes"),
    ],
    ids=["cut", "array", "byte", "utf-16", "latin-1", "deep", "long", "very long"],
)
def test_a_broken_line_is_refused_by_its_number_and_the_others_are_read(line, reason):
    good, bad = parse(jsonl(mix(1)) + b"\n" + line + b"\n" + jsonl(mix(2)))
    assert good == [(1, 1), (4, 2)]
    assert bad == [BadLine(3, reason)]


def test_the_last_line_needs_no_newline():
    assert parse(jsonl(mix(1)).rstrip())[0] == [(1, 1)]


# -- CSV -------------------------------------------------------------------------------------------


def test_a_wrong_row_makes_its_mix_refused_and_no_other():
    rows = rows_of(mix(1), mix(2), mix(3))
    rows[3]["track.year"] = "soon"
    good, bad = parse(as_csv(rows), "csv")
    assert good == [(2, 1), (6, 3)]
    assert bad == [BadLine(5, "track.year: Expected `int | null`, got `str`")]


@pytest.mark.parametrize(
    "broken",
    [
        b"1,too,short\r\n",
        b'"a"b,c\r\n',
        b'1,"not closed\r\n',
        b"9.22E+18,a\r\n",
        b"x" * 200_000 + b"\r\n",
    ],
)
@pytest.mark.parametrize(("place", "refused"), [(1, {1}), (2, {1}), (3, {1, 2}), (4, {2})])
def test_each_mix_that_a_broken_row_may_belong_to_is_refused(broken, place, refused):
    lines = as_csv(rows_of(mix(1), mix(2))).splitlines(keepends=True)
    lines.insert(place, broken)
    good, bad = parse(b"".join(lines), "csv")
    assert {mix_id for _, mix_id in good} == {1, 2} - refused
    assert place + 1 in [entry.number for entry in bad]
    assert any(f"line {place + 1} may belong" in entry.reason for entry in bad)


def test_an_id_in_exponent_notation_is_refused():
    rows = rows_of(mix(1))
    rows[0]["track.id"] = "1E3"
    good, bad = parse(as_csv(rows), "csv")
    assert good == []
    assert bad == [BadLine(2, "track.id: Expected `int`, got `str`")]


def test_rows_of_a_mix_that_disagree_about_it_are_refused():
    rows = rows_of(mix(1), mix(2))
    rows[1]["name"] = "Another"
    good, bad = parse(as_csv(rows), "csv")
    assert good == [(4, 2)]
    assert bad == [BadLine(3, "name is not that of line 2, the same mix")]


def test_a_file_in_which_rows_of_mixes_alternate_is_refused_as_a_whole():
    rows = rows_of(mix(1), mix(2))
    with pytest.raises(UnreadableFile, match="line 4: mix 1 is on line 2 already"):
        parse(as_csv([rows[0], rows[2], rows[1], rows[3]]), "csv")


def test_a_cell_in_latin_1_is_named():
    content = as_csv(rows_of(mix(1, track(5, name="caf\xe9"))))
    assert parse(content, "csv")[1] == []
    content = content.replace("é".encode(), b"\xe9")
    assert only_reason(content, "csv") == "track.name: is no UTF-8"


def test_a_byte_that_is_no_utf_8_in_a_number_is_named():
    content = as_csv(rows_of(mix(1, track(5, play_duration=77)))).replace(b",77", b",\x80\x80")
    assert only_reason(content, "csv") == "track.play_duration: is no UTF-8"


def test_a_nul_in_a_cell_is_named():
    content = as_csv(rows_of(mix(1, track(5, name="nul")))).replace(b"nul", b"n\x00l")
    assert only_reason(content, "csv") == "track.name: holds the control character U+0000"


def test_columns_may_come_in_any_order_and_optional_ones_may_be_missing():
    rows = [dict(reversed(row.items())) for row in rows_of(mix(1))]
    for row in rows:
        for name in ("description", "tag_list_cache", "track.year", "track.url"):
            del row[name]
    (entry,) = read(io.BytesIO(as_csv(rows)), "csv")
    assert entry.mix.tag_list_cache == ""
    assert entry.mix.tracks[0].year is None


@pytest.mark.parametrize(
    ("header", "reason"),
    [
        (b"", "the header is missing"),
        (b"id,name\n", "column slug is missing"),
        (b"id,mood\n", "there is no column 'mood'"),
        (b"id,id\n", "column id is there twice"),
        (b'{"id": 1}\n', "there is no column"),
    ],
)
def test_a_wrong_header_is_refused_as_a_whole(header, reason):
    with pytest.raises(UnreadableFile, match="line 1: ") as refusal:
        parse(header, "csv")
    assert reason in str(refusal.value)


# -- the sample ------------------------------------------------------------------------------------

SAMPLE = Path(config.__file__).with_name("sample_catalog.jsonl")


def test_the_sample_catalog_is_valid_and_its_first_mix_fits_the_recorded_session():
    with SAMPLE.open("rb") as file:
        found = list(read(file, "jsonl"))
    assert all(isinstance(entry, Entry) for entry in found), found
    assert len(found) >= 20
    assert all(6 <= len(entry.mix.tracks) <= 12 for entry in found)
    assert (found[0].mix.id, len(found[0].mix.tracks)) == (1, 8)


@pytest.mark.parametrize(
    ("name", "told"),
    [("a.jsonl", "jsonl"), ("A.NDJSON", "jsonl"), ("a.b.csv", "csv"), ("csv", "csv"), ("-", None)],
)
def test_the_format_is_taken_from_the_name_of_the_file(name, told):
    assert format_of(name) == told
