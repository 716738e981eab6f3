"""Parameters, bodies and conditions: what is read, and which status a refusal has."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from typing import Any
from urllib.parse import quote, urlencode

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.http.errors import Refusal
from gateway.http.parameters import gather, unescape, whole_number
from gateway.states.preconditions import read_conditions, read_tags
from gateway.states.routes import check_object
from sharding.state import PLAYLIST_MAX, USER_MAX

FORM = "application/x-www-form-urlencoded"


def refused(call: Callable[..., Any], *args: object) -> Refusal:
    with pytest.raises(Refusal) as caught:
        call(*args)
    return caught.value


def attempt(call: Callable[..., Any], *args: object) -> Any:
    """The result of the call, or the refusal that it raises."""
    try:
        return call(*args)
    except Refusal as refusal:
        return refusal


@given(st.dictionaries(st.text(max_size=20), st.text(max_size=20), max_size=20))
def test_encoded_parameters_are_read_from_query_and_form(fields: dict[str, str]) -> None:
    fields = {k: v for k, v in fields.items() if k or v}
    text = urlencode(fields)
    assert gather(text) == fields
    assert gather("", text.encode(), FORM) == fields
    assert gather("", text.encode(), FORM + "; charset=UTF-8") == fields


@given(
    st.text(max_size=100),
    st.binary(max_size=100),
    st.sampled_from(
        [FORM, "multipart/form-data; boundary=b", "multipart/form-data", "text/plain", ""]
    ),
)
def test_any_query_and_body_is_read_or_refused_with_400_or_415(
    query: str, body: bytes, content_type: str
) -> None:
    found = attempt(gather, query, body, content_type)
    if isinstance(found, Refusal):
        assert found.status in (400, 415)
        assert found.sentences
    else:
        assert all(isinstance(value, str) for value in found.values())


def test_a_parameter_with_the_same_value_in_query_and_form_is_accepted() -> None:
    assert gather("mix_id=1&a=2", b"mix_id=1&b=3", FORM) == {"mix_id": "1", "a": "2", "b": "3"}


@pytest.mark.parametrize(
    ("query", "body"),
    [("mix_id=1&mix_id=1", b""), ("mix_id=1", b"mix_id=2"), ("", b"a=1&a=2"), ("a&a", b"")],
)
def test_a_parameter_that_is_given_twice_is_refused_by_name(query: str, body: bytes) -> None:
    refusal = refused(gather, query, body, FORM)
    assert refusal.status == 400
    assert "more than once" in refusal.sentences[0]


@pytest.mark.parametrize("query", ["a=%zz", "a=%", "a=%4", "%ff=1", "a=%c3%28", "a=\udcff"])
def test_broken_encoding_is_refused(query: str) -> None:
    assert refused(gather, query).status == 400


def test_a_form_of_another_media_type_or_charset_is_415() -> None:
    for kind in ("application/json", "", "text/plain", FORM + "; charset=latin-1"):
        assert refused(gather, "", b"a=1", kind).status == 415


def test_a_hundred_parameters_are_allowed_and_one_more_is_refused() -> None:
    assert len(gather("&".join(f"p{n}=1" for n in range(100)))) == 100
    assert refused(gather, "&".join(f"p{n}=1" for n in range(101))).status == 400


MULTIPART = 'multipart/form-data; boundary="x y"'


def multipart(*parts: str) -> bytes:
    return ("".join(f"--x y\r\n{part}\r\n" for part in parts) + "--x y--\r\n").encode()


def test_a_multipart_form_reads_like_an_urlencoded_one() -> None:
    body = multipart(
        'Content-Disposition: form-data; name="mix_id"\r\n\r\n7',
        'Content-Disposition: form-data; name="note"\r\n\r\nünï',
    )
    assert gather("track_id=1", body, MULTIPART) == {
        "track_id": "1",
        "mix_id": "7",
        "note": "ünï",
    }


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"nothing",
        b"--x y\r\n",
        b"--x y\r\nContent-Disposition: form-data; name=a\r\n\r\n1",
        multipart("Content-Disposition: form-data\r\n\r\n7"),
        multipart('Content-Disposition: form-data; name="a"; filename="f"\r\n\r\n7'),
        multipart('Content-Disposition: form-data; name="a"\r\n\r\n1', "\r\n\r\n2"),
    ],
)
def test_a_broken_multipart_form_is_400(body: bytes) -> None:
    if body:
        assert refused(gather, "", body, MULTIPART).status == 400


@given(st.integers(1, PLAYLIST_MAX))
def test_every_id_in_range_is_read(number: int) -> None:
    assert whole_number(str(number), "mix_id") == number


@pytest.mark.parametrize(
    "text",
    [
        "",
        "0",
        "-1",
        "+1",
        "1.0",
        "1e3",
        " 1",
        "1 ",
        "١",
        "0x1",
        "x",
        "\0",
        "1\0",
        "1\n",
        "9" * 19,
        str(2**63),
        "9" * 5000,
        "Ⅷ",
    ],
)
def test_a_wrong_id_is_400_and_the_parameter_is_named(text: str) -> None:
    refusal = refused(whole_number, text, "mix_id")
    assert refusal.status == 400
    assert "mix_id" in refusal.sentences[0]
    assert len(refusal.sentences[0]) < 300


def test_a_missing_parameter_is_400_and_a_user_is_at_most_2_62_minus_1() -> None:
    assert "missing" in refused(whole_number, None, "mix_id").sentences[0]
    assert whole_number(str(USER_MAX), "user_id", USER_MAX) == USER_MAX
    assert refused(whole_number, str(USER_MAX + 1), "user_id", USER_MAX).status == 400


@given(st.text(max_size=40))
def test_an_encoded_path_segment_is_decoded(text: str) -> None:
    assert unescape(quote(text, safe=""), "segment") == text


def tags(*lines: str) -> set[str] | str:
    found = read_tags(list(lines), "If-Match")
    assert found is not None
    return "*" if found.anything else set(found.strong)


def test_conditions_are_read_as_rfc_9110_says() -> None:
    assert read_tags([], "If-Match") is None
    assert tags("*") == tags(" * ") == "*"
    assert tags('"7"') == {"7"}
    assert tags('"7", "8"') == tags('"7"', '"8"') == tags(', "7" ,, "8",') == {"7", "8"}
    assert tags('W/"7"') == set()
    assert tags('W/"7", "8"') == {"8"}
    assert tags('"a,b"') == {"a,b"}


@pytest.mark.parametrize(
    "line",
    [
        "",
        ",",
        "7",
        "'7'",
        '"7',
        '7"',
        '"7" "8"',
        '"7"x',
        'w/"7"',
        '"7", *',
        "*, *",
        '"\x01"',
        '"7""8"',
    ],
)
def test_a_condition_that_cannot_be_read_is_400(line: str) -> None:
    assert refused(read_tags, [line], "If-Match").status == 400


@given(st.text(alphabet=' \t,"W/*7\xe9x', max_size=200))
def test_any_condition_is_read_as_tags_or_is_400(line: str) -> None:
    found = attempt(read_tags, [line], "If-Match")
    assert found.status == 400 if isinstance(found, Refusal) else found.strong is not None


@pytest.mark.parametrize(
    ("if_match", "if_none_match", "version", "allowed"),
    [
        ('"7"', '"8"', 7, True),
        ('"7"', '"7"', 7, False),
        ('"7"', 'W/"7"', 7, False),
        ('"7"', "*", 7, False),
        ('"8"', '"9"', 7, False),
        ("*", '"7"', None, False),
    ],
)
def test_both_conditions_must_hold(
    if_match: str, if_none_match: str, version: int | None, allowed: bool
) -> None:
    found = attempt(read_conditions([if_match], [if_none_match]).require, version)
    assert found is None if allowed else found.status == 412


def test_a_weak_tag_matches_for_a_read_and_never_for_a_change() -> None:
    assert read_conditions([], ['W/"7"']).is_unchanged(7)
    assert not read_conditions([], ['W/"7"']).is_unchanged(8)
    refusal = refused(read_conditions(['W/"7"'], []).require, 7)
    assert refusal.status == 412
    assert 'send "7"' in str(refusal)


def test_a_condition_matches_exactly_its_version() -> None:
    condition = read_tags(['"7"'], "If-Match")
    assert condition is not None
    assert condition.match(7)
    assert not condition.match(8)
    assert not condition.match(None)
    anything = read_tags(["*"], "If-Match")
    assert anything is not None
    assert anything.match(1)
    assert not anything.match(None)


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)


@given(st.dictionaries(st.text(), json_values, max_size=5), st.booleans())
def test_every_json_object_is_accepted_as_a_state(
    value: dict[str, object], ascii_only: bool
) -> None:
    check_object(json.dumps(value, ensure_ascii=ascii_only).encode())


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b" ",
        b"[]",
        b"1",
        b"null",
        b'"{}"',
        b"{",
        b"{} {}",
        b'{"a":NaN}',
        b'{"a":Infinity}',
        b'{"a":-Infinity}',
        b"{'a':1}",
        b'{"a":1,}',
        b'{"a":"\x00"}',
        b"\xef\xbb\xbf{}",
        b'{"a":"\xff"}',
        b'{"a":"\xed\xa0\x80"}',
        '{"a":1}'.encode("utf-16"),
        b'{"a":' * 20_000,
        b'{"a":' * 20_000 + b"1" + b"}" * 20_000,
        b'{"a":' + b"[" * 20_000 + b"]" * 20_000 + b"}",
    ],
)
def test_a_body_that_is_no_json_object_is_400(body: bytes) -> None:
    assert refused(check_object, body).status == 400


def test_half_of_a_surrogate_pair_is_named() -> None:
    assert "surrogate pair" in refused(check_object, rb'{"title":"\ud83d"}').sentences[0]


@given(st.binary(max_size=60))
def test_random_bytes_are_accepted_only_if_they_are_a_json_object(body: bytes) -> None:
    refusal = attempt(check_object, body)
    if refusal is not None:
        assert refusal.status == 400
    else:
        value = json.loads(body.decode("utf-8"))
        assert isinstance(value, dict)
        assert not any(isinstance(v, float) and math.isnan(v) for v in value.values())
