"""When a lookup node is ejected from the ring, and when it returns."""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from failover.redis.ejection import LATE, LONGEST, STEADY, Health

RETRY = 30.0


def a_node(limit: int = 2, *, eject: bool = True) -> Health:
    return Health(limit=limit, retry_seconds=RETRY, eject=eject)


def let_it_be_ejected(node: Health, now: float) -> float:
    """Let it fail until it is ejected; the seconds until its next probe."""
    while not node.failed(now, "timeout"):
        pass
    assert node.next_probe is not None
    return node.next_probe - now


def test_an_ejected_node_is_probed_after_its_time_out() -> None:
    node = a_node()
    out = let_it_be_ejected(node, 100)

    assert out == RETRY
    assert not node.probe_due(100 + RETRY - 0.001)
    assert node.probe_due(100 + RETRY)


def test_only_a_probe_brings_a_node_back() -> None:
    node = a_node()
    let_it_be_ejected(node, 0)

    node.succeeded()  # the answer of a request that was sent before
    assert not node.live

    assert node.probed(10 * RETRY, None)
    assert node.live
    assert (node.failures, node.reason, node.next_probe) == (0, "", None)


def test_after_a_failed_probe_the_node_stays_ejected_for_that_reason() -> None:
    node = a_node()
    let_it_be_ejected(node, 0)

    assert not node.probed(RETRY, "LOADING")

    assert not node.live
    assert node.reason == "LOADING"
    assert not node.probe_due(2 * RETRY - 0.001)
    assert node.probe_due(2 * RETRY)


def test_a_probe_of_a_live_node_changes_nothing() -> None:
    node = a_node()

    assert not node.probed(5, None)
    assert not node.probed(5, "refused")
    assert (node.live, node.failures) == (True, 0)


def test_failures_of_requests_sent_before_the_ejection_do_not_count() -> None:
    node = a_node()
    let_it_be_ejected(node, 0)

    assert not node.failed(1, "timeout")
    assert not node.late(1, "late")
    assert node.next_probe == RETRY


def test_a_node_that_flaps_is_ejected_for_longer_each_time_up_to_a_limit() -> None:
    node, now, outs = a_node(), 0.0, []
    for _ in range(7):
        outs.append(let_it_be_ejected(node, now))
        now += outs[-1]
        node.probed(now, None)
        now += 1

    assert outs == [RETRY * n for n in (1, 2, 4, 8, 8, 8, 8)]
    assert max(outs) == LONGEST * RETRY


def test_after_a_long_time_without_failures_the_first_time_out_applies_again() -> None:
    node = a_node()
    now = let_it_be_ejected(node, 0)
    node.probed(now, None)
    second = let_it_be_ejected(node, now + STEADY * RETRY - 1)
    assert second == 2 * RETRY
    now += STEADY * RETRY + second
    node.probed(now, None)

    assert let_it_be_ejected(node, now + STEADY * second) == RETRY


def test_a_node_is_ejected_after_more_late_answers_than_failures() -> None:
    node = a_node(2)

    ejected = [node.late(0, "late") for _ in range(2 * LATE)]

    assert ejected == [False] * (2 * LATE - 1) + [True]
    assert node.reason == "late"


def test_one_answer_in_time_cancels_the_late_ones_before() -> None:
    node = a_node(1)
    for _ in range(20):
        for _ in range(LATE - 1):
            assert not node.late(0, "late")
        node.succeeded()

    assert node.live


class Node(RuleBasedStateMachine):
    """Any sequence of answers, failures, probes and pauses."""

    @initialize(limit=st.integers(1, 5), eject=st.booleans())
    def begin(self, limit: int, eject: bool) -> None:
        self.now = 1000.0
        self.limit = limit
        self.node = Health(limit=limit, retry_seconds=RETRY, eject=eject, since=self.now)
        self.in_a_row = 0
        self.out_since: float | None = None

    @rule(seconds=st.integers(0, int(20 * LONGEST * RETRY)))  # whole: sums stay exact
    def time_passes(self, seconds: int) -> None:
        self.now += seconds

    @rule()
    def answers(self) -> None:
        was = self.node.live
        self.node.succeeded()
        assert self.node.live is was
        if was:
            self.in_a_row = 0

    @rule()
    def fails(self) -> None:
        was = self.node.live
        ejected = self.node.failed(self.now, "timeout")
        if not was:
            assert not ejected
            return
        self.in_a_row += 1
        assert ejected is (self.node.eject and self.in_a_row >= self.limit)
        assert ejected is not self.node.live
        if ejected:
            assert self.node.next_probe is not None
            assert RETRY <= self.node.next_probe - self.now <= LONGEST * RETRY

    @rule()
    def answers_late(self) -> None:
        was = self.node.live
        ejected = self.node.late(self.now, "late")
        assert not ejected or (was and self.node.eject)

    @precondition(lambda self: self.node.probe_due(self.now))
    @rule(problem=st.sampled_from([None, "refused", "LOADING"]))
    def is_probed(self, problem: str | None) -> None:
        assert self.node.probed(self.now, problem) is (problem is None)
        if problem is None:
            self.in_a_row = 0
        else:
            assert self.node.next_probe == self.now + RETRY

    @invariant()
    def only_an_ejected_node_waits_for_a_probe(self) -> None:
        assert (self.node.next_probe is None) is self.node.live
        assert self.node.live or self.node.eject
        assert self.node.live or self.node.reason


TestNode = Node.TestCase
TestNode.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)


def test_changed_settings_keep_a_node_s_state_and_a_shorter_time_out_applies_at_once() -> None:
    health = Health(limit=1, retry_seconds=30)
    assert health.failed(100.0, "refused")
    health.adjust(101.0, limit=3, retry_seconds=5, eject=True)
    assert not health.live
    assert health.since == 100.0
    assert health.next_probe == 106.0
    health.adjust(102.0, limit=3, retry_seconds=60, eject=True)
    assert health.next_probe == 106.0
    health.adjust(103.0, limit=3, retry_seconds=60, eject=False)
    assert health.probe_due(103.0)
    assert health.probed(103.0, None)
    assert [health.failed(104.0, "refused") for _ in range(9)] == [False] * 9


def test_a_node_that_fails_and_may_not_be_ejected_is_failing_until_it_has_written() -> None:
    node = a_node(eject=False)
    seen = [(node.failed(1.0, "timeout"), node.failing) for _ in range(2)]
    assert seen == [(False, False), (False, True)]
    node.succeeded()
    assert (node.failing, node.reason) == (False, "")
    for _ in range(2):
        node.failed(3.0, "READONLY", refused=True)
    node.succeeded()  # an answered read
    assert (node.failing, node.reason) == (True, "READONLY")
    node.succeeded(wrote=True)
    assert (node.failing, node.reason) == (False, "")
    for _ in range(LATE * 2):
        assert not node.late(6.0, "late")
    assert (node.failing, node.reason) == (True, "late")
