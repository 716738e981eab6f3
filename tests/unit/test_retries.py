"""Retries: at once, then after pauses, until the deadline."""

from __future__ import annotations

import asyncio

import pytest

from failover.mysql.errors import Fault, MySQLError, PrimaryUnavailable
from failover.mysql.retries import retry


class Call:
    """Fails some times, then succeeds."""

    def __init__(self, failures: int, fault: Fault = Fault.LOST) -> None:
        self.left = failures
        self.fault = fault
        self.tries = 0

    async def __call__(self) -> str:
        self.tries += 1
        if self.left:
            self.left -= 1
            raise MySQLError(self.fault, 2013, "lost")
        return "done"


@pytest.fixture
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The pauses made, in seconds; none of them is waited for."""
    made: list[float] = []

    async def sleep(seconds: float) -> None:
        made.append(seconds)

    monkeypatch.setattr(asyncio, "sleep", sleep)
    return made


def until(call: Call, seconds: float = 60.0) -> str:
    async def run() -> str:
        return await retry(call, asyncio.get_running_loop().time() + seconds)

    return asyncio.run(run())


def test_a_call_that_succeeds_makes_no_pause(pauses: list[float]) -> None:
    assert until(Call(0)) == "done"
    assert pauses == []


def test_the_first_repetition_comes_at_once(pauses: list[float]) -> None:
    assert until(Call(1)) == "done"
    assert pauses == []


def test_each_later_repetition_comes_after_a_pause_of_half_a_second_at_most(
    pauses: list[float],
) -> None:
    call = Call(9)

    assert until(call) == "done"
    assert call.tries == 10
    assert len(pauses) == 8
    assert all(0 < pause <= 0.5 for pause in pauses)


def test_an_error_that_does_not_pass_is_not_repeated(pauses: list[float]) -> None:
    call = Call(1, Fault.FINAL)

    with pytest.raises(MySQLError, match="2013 lost"):
        until(call)
    assert call.tries == 1


def test_after_the_deadline_the_last_error_is_named(pauses: list[float]) -> None:
    with pytest.raises(PrimaryUnavailable, match="MySQL: 2013 lost"):
        until(Call(99), seconds=0.0)
