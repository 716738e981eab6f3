"""How the local stack judges a group, and when it founds the group again."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from stack.group_rules import View, situation_of

NAMES = ("mysql1", "mysql2", "mysql3")
STATES = ("ONLINE", "RECOVERING", "UNREACHABLE", "OFFLINE", "ERROR")
ALL = dict.fromkeys(NAMES, "ONLINE")

members = st.dictionaries(st.sampled_from(NAMES), st.sampled_from(STATES))
views = st.builds(View, st.sampled_from(STATES), members, st.sampled_from([None, *NAMES]))
groups = st.fixed_dictionaries({name: st.none() | views for name in NAMES})


def online(primary: str, members: dict[str, str] = ALL) -> View:
    return View("ONLINE", members, primary)


def test_the_primary_is_the_member_that_the_others_name() -> None:
    seen = situation_of(dict.fromkeys(NAMES, online("mysql2")))
    assert (seen.exists, seen.primary, seen.online) == (True, "mysql2", frozenset(NAMES))
    assert not seen.joining
    assert not seen.founding


def test_the_majority_decides_against_a_thawed_primary_that_was_expelled() -> None:
    without = {"mysql2": "ONLINE", "mysql3": "ONLINE"}
    seen = situation_of(
        {
            "mysql1": online("mysql1"),
            "mysql2": online("mysql2", without),
            "mysql3": online("mysql2", without),
        }
    )
    assert seen.primary == "mysql2"
    assert seen.online == {"mysql2", "mysql3"}


def test_a_restarted_member_joins_the_others() -> None:
    rest = {"mysql1": "ONLINE", "mysql3": "ONLINE"}
    views = {"mysql1": online("mysql1", rest), "mysql2": View(), "mysql3": online("mysql1", rest)}
    assert situation_of(views).joining == ("mysql2",)


def test_a_member_without_a_majority_decides_nothing_and_the_group_is_founded_only_by_all() -> None:
    alone = online("mysql1", {"mysql1": "ONLINE", "mysql2": "UNREACHABLE", "mysql3": "UNREACHABLE"})
    seen = situation_of({"mysql1": alone, "mysql2": None, "mysql3": None})
    assert not seen.exists
    assert not seen.founding
    assert not situation_of({"mysql1": alone, "mysql2": View(), "mysql3": None}).founding
    assert situation_of({"mysql1": alone, "mysql2": View(), "mysql3": View()}).founding


@given(groups)
def test_a_group_is_founded_only_if_none_exists_and_every_member_answers(
    group: dict[str, View | None],
) -> None:
    seen = situation_of(group)
    if seen.founding:
        assert all(view is not None and not view.decides for view in group.values())
    if seen.joining:
        assert any(view is not None and view.decides for view in group.values())
    assert seen.exists == any(view is not None and view.decides for view in group.values())
