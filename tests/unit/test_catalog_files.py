"""Catalog files: what is read, and what is refused by which line."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import config
from gateway.catalog.importer import BadLine, Entry, read


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


def parse(content: bytes):
    found = list(read(io.BytesIO(content)))
    good = [(entry.number, entry.mix.id) for entry in found if isinstance(entry, Entry)]
    bad = [entry for entry in found if isinstance(entry, BadLine)]
    return good, bad


def only_reason(content: bytes) -> str:
    good, bad = parse(content)
    assert good == []
    assert [entry.number for entry in bad] == [1]
    return bad[0].reason


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


@given(st.binary(max_size=300))
def test_any_bytes_are_refused_and_never_break_the_reader(content):
    assert parse(content)[0] == []


@given(
    st.lists(tracks, min_size=1, max_size=5, unique_by=lambda t: t["id"]),
    st.integers(1, 2**63 - 1),
    st.none() | st.just("one\n\ttwo\r\n") | names,
)
def test_a_mix_is_read_as_it_was_written(tracks, mix_id, description):
    (entry,) = read(io.BytesIO(jsonl(mix(mix_id, *tracks, description=description))))
    assert isinstance(entry, Entry), entry
    assert entry.mix.description == description
    assert entry.mix.duration == sum(t["play_duration"] for t in tracks)
    assert [t.name for t in entry.mix.tracks] == [t["name"] for t in tracks]


@given(st.data())
def test_a_file_with_one_changed_byte_never_gives_a_shortened_mix(data):
    mixes = [mix(n, track(n * 10), track(n * 10 + 1), track(n * 10 + 2)) for n in (1, 2, 3)]
    content = bytearray(jsonl(*mixes))
    content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    found = [one for one in read(io.BytesIO(bytes(content))) if isinstance(one, Entry)]
    assert all(len(entry.mix.tracks) == 3 for entry in found)


def test_a_bom_and_crlf_are_read_over():
    assert parse(b"\xef\xbb\xbf" + jsonl(mix(1)).replace(b"\n", b"\r\n"))[0] == [(1, 1)]


def test_without_a_path_a_mix_lies_under_its_user():
    (entry,) = read(io.BytesIO(jsonl(mix(1))))
    assert entry.mix.path == "/ann/mix-1"


def test_one_track_may_be_in_two_mixes():
    content = [mix(1, track(5), track(6)), mix(2, track(6), track(7))]
    assert parse(jsonl(*content))[0] == [(1, 1), (2, 2)]


def test_one_track_with_different_words_is_refused_where_it_differs():
    good, bad = parse(jsonl(mix(1, track(5)), mix(2, track(5, name="Another"))))
    assert good == [(1, 1)]
    assert bad == [BadLine(2, "track 5 is not what it is on line 1")]


def test_a_mix_that_comes_twice_is_refused_the_second_time():
    good, bad = parse(jsonl(mix(1), mix(2), mix(1)))
    assert good == [(1, 1), (2, 2)]
    assert bad == [BadLine(3, "mix 1 is on line 1 already")]


def test_a_track_that_is_twice_in_a_mix_is_refused():
    twice = mix(1, track(5), track(6), track(5))
    assert only_reason(jsonl(twice)) == "tracks[2]: track 5 is in the mix already"


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
            for path in (
                *(
                    "ann/mix",
                    "//evil.example/x",
                    "/\\evil.example",
                    "/a//evil.example",
                    "/",
                    "/a b",
                ),
                *("/../a", "/a/.", "/a?b", "/a#b", "https://evil.example/x", "javascript:alert(1)"),
            )
        ),
        ({"path": "/a\x01"}, "path: holds the control character U+0001"),
        ({"slug": "\\evil.example"}, "slug: is no slug"),
        ({"slug": ".."}, "path: is no plain path such as /somebody/mix"),
        *(
            ({"tracks": [track(5, url=url)]}, "tracks[0].url: is no http or https URL")
            for url in (
                *("javascript:alert(1)", "data:text/html,x", "//evil.example", "ftp://a/b"),
                *(
                    "https:///x",
                    "https://a\\@evil.example",
                    "https://good@evil.example/",
                    "file:///x",
                ),
            )
        ),
        ({"tracks": []}, "tracks: Expected `array` of length >= 1"),
        ({"user": None}, "user: Expected `object`, got `null`"),
        ({"mood": "blue"}, "Object contains unknown field `mood`"),
        ({"tracks": [track(5), track(0)]}, "tracks[1].id: Expected `int` >= 1"),
        ({"tracks": [track(5, year=10_000)]}, "tracks[0].year: Expected `int` <= 9999"),
        ({"tracks": [track(5, url="ftp://a/b")]}, "tracks[0].url: is no http or https URL"),
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
def test_a_bad_value_is_named_with_its_place(changes, reason):
    assert only_reason(jsonl(mix(1, **changes))) == reason


def test_a_missing_field_is_named():
    short = mix(1)
    del short["slug"]
    assert only_reason(jsonl(short)) == "Object missing required field `slug`"


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
def test_a_broken_line_is_named_by_number_and_the_others_are_read(line, reason):
    good, bad = parse(jsonl(mix(1)) + b"\n" + line + b"\n" + jsonl(mix(2)))
    assert good == [(1, 1), (4, 2)]
    assert bad == [BadLine(3, reason)]


def test_the_last_line_needs_no_end():
    assert parse(jsonl(mix(1)).rstrip())[0] == [(1, 1)]


# -- the sample ------------------------------------------------------------------------------------

SAMPLE = Path(config.__file__).with_name("sample_catalog.jsonl")


def test_the_sample_is_good_and_its_first_mix_fits_the_recorded_session():
    with SAMPLE.open("rb") as file:
        found = list(read(file))
    assert all(isinstance(entry, Entry) for entry in found), found
    assert len(found) >= 20
    assert all(6 <= len(entry.mix.tracks) <= 12 for entry in found)
    assert (found[0].mix.id, len(found[0].mix.tracks)) == (1, 8)
