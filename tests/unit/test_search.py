"""How a search is read, and that any input becomes arguments of one SQL statement."""

from __future__ import annotations

import contextlib
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.catalog.search import FOUND, TAGS, Wanted, asked, smart, statement, words_of
from gateway.http.errors import Refusal

anything = st.text(max_size=40)


@pytest.mark.parametrize(
    ("smart_id", "wanted"),
    [
        ("all:hot", Wanted(sort="hot")),
        ("tags:lo-fi", Wanted(tags=("lo-fi",))),
        ("tags:New_Orleans+jazz:popular", Wanted(tags=("new orleans", "jazz"), sort="popular")),
        ("tags:a__b+dr^who", Wanted(tags=("a_b", "dr.who"))),
        ("tags:1:2", Wanted(tags=("1:2",))),
        ("keyword:Slow_Blues:recent", Wanted(words=("slow", "blues"), sort="recent")),
        ("dj:4:recent", Wanted(user_id=4, sort="recent")),
        ("similar:7", Wanted(like=7)),
    ],
)
def test_a_smart_id_is_read_as_a_search(smart_id: str, wanted: Wanted) -> None:
    assert smart(smart_id) == wanted


@given(anything, st.text(max_size=40).filter(lambda t: t.count(",") + t.count("+") < TAGS))
def test_any_input_becomes_arguments_and_never_sql(q: str, tags: str) -> None:
    wanted = asked(q, tags, None)
    if wanted is None:
        assert not words_of(q)
        return
    sql, args = statement(wanted)
    assert sql.count("%s") == len(args)
    assert re.fullmatch(r"[A-Za-z0-9_.,()%= \n]+", sql)
    assert sql.endswith(f"LIMIT {FOUND}")
    for arg in args:
        assert arg in wanted.tags or re.fullmatch(r"(\+\w+ ?)+", arg)


@given(st.text("ab ,+", max_size=20))
def test_too_many_tags_are_refused(tags: str) -> None:
    few = len([part for part in re.split("[,+]", tags) if part.strip()]) <= TAGS
    with contextlib.nullcontext() if few else pytest.raises(Refusal, match="400"):
        asked("", tags, None)


@pytest.mark.parametrize("smart_id", ["tags:a+b+c+d+e+f", "dj:0", f"similar:{2**63}", "dj:x"])
def test_an_impossible_smart_id_is_404(smart_id: str) -> None:
    with pytest.raises(Refusal, match="404"):
        smart(smart_id)


@given(anything)
def test_any_smart_id_is_a_search_or_refused(smart_id: str) -> None:
    with contextlib.suppress(Refusal):
        smart(smart_id)
