"""What a node's figures mean for the lookups on it."""

from __future__ import annotations

from unittest.mock import AsyncMock, Mock

import pytest

from failover.redis.nodes import _Absent
from sharding.lookups.capacity import WINDOW, Evictions, Survey, capacity

INFO = {"used_memory": 10, "maxmemory": 0, "run_id": "a", "evicted_keys": 3}


def test_evictions_count_for_an_hour_and_those_before_the_first_look_do_not() -> None:
    evictions = Evictions()
    assert evictions.lately(0, "a", 500) == 0
    assert evictions.lately(60, "a", 507) == 7
    assert evictions.lately(60 + WINDOW, "a", 507) == 7
    assert evictions.lately(61 + WINDOW, "a", 507) == 0


def test_evictions_are_counted_anew_after_the_node_started_again() -> None:
    evictions = Evictions()
    evictions.lately(0, "a", 500)
    assert evictions.lately(9, "b", 3) == 3


def test_a_node_without_a_limit_has_none() -> None:
    assert capacity(INFO, 7, Evictions(), 0.0).maxmemory_bytes is None


def test_a_node_that_does_not_say_what_redis_says_is_refused() -> None:
    with pytest.raises(KeyError):
        capacity({"used_memory": 1}, 0, Evictions(), 0.0)


async def test_a_node_that_answers_while_this_process_gets_no_cpu_time_is_looked_at_again() -> None:
    """The looks go on for ever: they must not end with this one."""
    node = Mock()
    node.ask_aside = AsyncMock(side_effect=_Absent)
    survey = Survey(60)

    await survey.check([node])

    assert survey.found == {}
