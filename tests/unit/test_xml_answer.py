"""An answer in XML has the same content as in JSON, and every XML parser reads it."""

from __future__ import annotations

import json
import re
import xml.etree.ElementTree as ET
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from gateway.catalog.model import Card, MixUser
from gateway.http.messages import Response
from gateway.http.xml_answer import XML, make_xml
from gateway.player.covers import draw_cover

NAMES = st.sampled_from(["status", "errors", "mixes", "mix_set", "cover_urls", "id", "at_end"])
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False)
    | st.text() | st.text("<>&]'\"\r\n\t\x00\x0b\ufffe\U0001f3b5"),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(NAMES, inner, max_size=4),
    max_leaves=12,
)  # fmt: skip


def in_xml(document: dict[str, Any]) -> Response:
    answer = Response(200, json.dumps(document).encode())
    make_xml(answer)
    return answer


def read(element: ET.Element) -> Any:
    """The value of an element, by its type."""
    if element.get("nil") == "true":
        return None
    kind = element.get("type")
    if kind == "array":
        return [read(one) for one in element]
    if kind is not None:
        return json.loads(element.text or "")
    return {one.tag: read(one) for one in element} if len(element) else element.text or ""


def expected(value: Any) -> Any:
    if isinstance(value, dict):  # in XML an empty object looks like an empty text
        return {name.replace("_", "-"): expected(one) for name, one in value.items()} or ""
    if isinstance(value, list):
        return [expected(one) for one in value]
    if isinstance(value, str):
        return re.sub("[\x00-\x08\x0b\x0c\x0e-\x1f\ud800-\udfff\ufffe\uffff]", "\ufffd", value)
    return value


@given(st.dictionaries(NAMES, VALUES, min_size=1, max_size=5))
def test_a_parser_reads_the_same_from_xml_as_from_json(document: dict[str, Any]) -> None:
    root = ET.fromstring(in_xml(document).body)
    assert root.tag == "response"
    assert read(root) == expected(document)


def test_an_answer_in_xml_is_as_the_original_service_s() -> None:
    answer = in_xml(
        {"status": "200 OK", "errors": None, "logged_in": False, "api_version": 3,
         "set": {"at_end": False, "track": {"id": 7, "name": "A & B"}}, "mixes": [{"id": 1}]}
    )  # fmt: skip
    assert answer.content_type == XML
    assert answer.body.decode() == (
        '<?xml version="1.0" encoding="UTF-8"?>\n<response>'
        '<set><track><id type="integer">7</id><name>A &amp; B</name></track>'
        '<at-end type="boolean">false</at-end></set>'
        '<mixes type="array"><mix><id type="integer">1</id></mix></mixes>'
        '<status>200 OK</status><errors nil="true"></errors>'
        '<logged-in type="boolean">false</logged-in><api-version type="integer">3</api-version>'
        "</response>"
    )


@given(st.text(min_size=1) | st.sampled_from("<&\ufffe\uffff\x85\r"))
def test_the_drawn_picture_of_every_name_is_read(name: str) -> None:
    card = Card(1, name, "a", "/a/a", None, "", 1, MixUser(1, "a", "a"), 1)
    ET.fromstring(draw_cover(card, 100))
