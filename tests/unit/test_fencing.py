"""Which host becomes the primary, from the answers of all hosts."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from failover.mysql.connection import HostStatus
from failover.mysql.engine import MariaDB, group
from failover.mysql.fencing import Adopt, NoneToAdopt, View, decide

A, B, C = "a:3306", "b:3306", "c:3306"


def status(identity: str, generation: int = 1, *, read_only: bool = False) -> HostStatus:
    return HostStatus(identity, read_only, generation, clock_ms=0, engine=MariaDB("10.11.6"))


def writable(address: str, generation: int = 1, identity: str | None = None) -> View:
    return View(address, status(identity or address, generation))


def standby(address: str, generation: int = 1) -> View:
    return View(address, status(address, generation, read_only=True))


def down(address: str, busy: bool = False) -> View:
    return View(address, error="2003 refused", busy=busy)


hosts = st.sampled_from([A, B, C])
views = st.lists(
    st.one_of(
        hosts.map(down),
        st.builds(
            lambda host, said: View(host, error="1040", busy=True, before=said),
            hosts,
            st.none() | st.builds(status, hosts, st.integers(0, 4), read_only=st.booleans()),
        ),
        st.builds(standby, hosts, st.integers(0, 4)),
        st.builds(writable, hosts, st.integers(0, 4), st.sampled_from([None, A, B, C, "alias"])),
    ),
    max_size=5,
    unique_by=lambda view: view.address,
)


def test_the_one_writable_host_is_the_primary() -> None:
    verdict = decide([standby(A), writable(B), down(C)], seen=0, identity=None)

    assert verdict == Adopt(B, status(B), raise_generation=False)


@pytest.mark.parametrize(
    ("seen_hosts", "words"),
    [
        ([], ["no hosts"]),
        ([down(A)], [A, "2003 refused"]),
        ([standby(A), down(B)], [A, "read-only", B, "2003"]),
        ([down(A, busy=True)], [A]),
    ],
)
def test_without_a_writable_host_there_is_no_primary_and_each_host_is_named(
    seen_hosts: list[View], words: list[str]
) -> None:
    verdict = decide(seen_hosts, seen=1, identity=None)

    assert isinstance(verdict, NoneToAdopt)
    assert all(word in verdict.reason for word in words)


def test_a_host_of_a_lower_generation_than_was_seen_is_a_replaced_primary() -> None:
    verdict = decide([writable(A, 4), standby(B, 5)], seen=5, identity=B)

    assert isinstance(verdict, NoneToAdopt)
    assert "replaced" in verdict.reason


def busy(address: str, before: HostStatus | None = None) -> View:
    return View(address, error="1040 Too many connections", busy=True, before=before)


def test_a_busy_primary_and_a_writable_host_of_its_generation_are_both_refused() -> None:
    for pair in ([busy(A, status(A, 3)), writable(B, 3)], [writable(B, 3), busy(A, status(A, 3))]):
        verdict = decide(pair, seen=3, identity=A)

        assert isinstance(verdict, NoneToAdopt)
        assert verdict.split
        assert f"{A} (not heard again: 1040" in verdict.reason


@pytest.mark.parametrize(
    ("before", "seen"),
    [
        (None, 3),  # it never answered
        (status(A, 3, read_only=True), 3),
        (status(A, 2), 3),  # it was replaced
        (status(A, 3), 3),  # B was promoted with a newer generation
    ],
)
def test_a_busy_host_does_not_stop_the_adoption_of_a_host_with_more_right(
    before: HostStatus | None, seen: int
) -> None:
    generation = 4 if before == status(A, 3) else 3
    verdict = decide([busy(A, before), writable(B, generation)], seen, identity=A)

    assert isinstance(verdict, Adopt)
    assert verdict.address == B


def test_a_busy_host_is_not_adopted_for_what_it_answered_before() -> None:
    verdict = decide([busy(A, status(A, 3)), standby(B, 3)], seen=3, identity=A)

    assert isinstance(verdict, NoneToAdopt)
    assert "1040" in verdict.reason
    # The same server answers under another name.
    both = [busy(A, status("server", 3)), writable(B, 3, identity="server")]
    for pair in (both, both[::-1]):
        assert isinstance(decide(pair, seen=3, identity="server"), Adopt)


@pytest.mark.parametrize("identity", [None, A, B])
def test_two_writable_hosts_of_the_same_generation_are_both_refused(identity: str | None) -> None:
    verdict = decide([writable(A, 3), writable(B, 3)], seen=3, identity=identity)

    assert isinstance(verdict, NoneToAdopt)
    assert verdict.split
    assert A in verdict.reason
    assert B in verdict.reason


@pytest.mark.parametrize("is_busy", [False, True])
def test_an_old_primary_cut_off_from_its_group_gives_way_to_the_elected_one(is_busy: bool) -> None:
    cut_off = busy(A, status(A, 3)) if is_busy else writable(A, 3)
    cut_off = replace(cut_off, redundancy=group(["ONLINE", "UNREACHABLE", "UNREACHABLE"], 3))
    elected = replace(writable(B, 3), redundancy=group(["ONLINE", "ONLINE"], 3))

    for pair in ([cut_off, elected], [elected, cut_off]):
        verdict = decide(pair, seen=3, identity=A)
        assert verdict == Adopt(B, status(B, 3), raise_generation=True)


def test_a_primary_that_lost_its_group_is_not_read_though_no_other_is_seen() -> None:
    cut_off = replace(writable(A, 3), redundancy=group(["ONLINE", "UNREACHABLE"], 2))

    verdict = decide([cut_off, standby(B, 3)], seen=3, identity=A)

    assert isinstance(verdict, NoneToAdopt)
    assert not verdict.split
    assert "1 of 2 members of the group is online" in verdict.reason


@pytest.mark.parametrize(
    "pair", [[writable(A, 3), writable(B, 3)], [standby(A, 3), down(B)]], ids=["split", "vacant"]
)
def test_hosts_that_are_no_primary_are_named_in_the_same_words_whichever_was_asked_last(
    pair: list[View],
) -> None:
    assert decide(pair, seen=3, identity=A) == decide(pair[::-1], seen=3, identity=A)


def test_two_names_of_one_server_count_as_one_host() -> None:
    verdict = decide(
        [writable(A, identity="server"), writable(B, identity="server")], seen=1, identity="server"
    )

    assert verdict == Adopt(A, status("server"), raise_generation=False)


def test_the_generation_is_raised_for_a_new_primary_that_has_the_old_one() -> None:
    verdict = decide([down(A), writable(B, 1)], seen=1, identity=A)

    assert verdict == Adopt(B, status(B), raise_generation=True)


@pytest.mark.parametrize(
    ("view", "seen", "identity"),
    [
        (writable(B, 2), 1, A),  # its promotion raised it
        (writable(A, 1), 1, A),  # the same server again
        (writable(A, 1), 0, None),  # the first that is ever seen
    ],
)
def test_the_generation_is_not_raised_otherwise(
    view: View, seen: int, identity: str | None
) -> None:
    verdict = decide([view], seen, identity)

    assert isinstance(verdict, Adopt)
    assert not verdict.raise_generation


@given(views, st.integers(0, 4), st.sampled_from([None, A, B, C]))
def test_only_a_writable_host_of_the_highest_generation_ever_seen_is_adopted(
    answers: list[View], seen: int, identity: str | None
) -> None:
    verdict = decide(answers, seen, identity)

    claims = [v for v in answers if v.status and not v.status.read_only]
    said = [v.status or v.before for v in answers]
    able = [h for h in said if h and not h.read_only and h.generation >= seen]
    if isinstance(verdict, Adopt):
        assert verdict.status.generation >= seen
        assert not verdict.status.read_only
        assert any(v.address == verdict.address and v.status == verdict.status for v in claims)
        rivals = {h.identity for h in able if h.generation > verdict.status.generation}
        assert rivals <= {verdict.status.identity}
    elif verdict.split:
        highest = max(h.generation for h in able)
        assert len({h.identity for h in able}) > 1
        assert sum(h.generation == highest for h in able) > 1
    else:
        # No host that answers now has as much right as a host that answered before.
        now = [h for v in claims if (h := v.status) and h.generation >= seen]
        best = max((h.generation for h in able), default=0)
        assert all(h.generation < best for h in now)


@given(views, st.sampled_from([None, A, B, C]))
def test_after_an_adoption_no_host_of_a_lower_generation_is_adopted(
    answers: list[View], identity: str | None
) -> None:
    first = decide(answers, 0, identity)
    if isinstance(first, Adopt):
        seen = first.status.generation
        for view in answers:
            again = decide([view], seen, first.status.identity)
            assert not isinstance(again, Adopt) or again.status.generation >= seen
