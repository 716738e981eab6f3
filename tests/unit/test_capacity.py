"""A lookup node's memory and evictions, from the figures that Redis reports."""

from __future__ import annotations

from unittest.mock import AsyncMock, Mock

import pytest

from failover.redis.connections import NodeError
from failover.redis.nodes import _Starved
from sharding.lookups.capacity import WINDOW, Evictions, Survey, capacity
from sharding.metrics import CAPACITY_ALARM

INFO = {"used_memory": 10, "maxmemory": 0, "run_id": "a", "evicted_keys": 3}


def test_evictions_count_for_an_hour_and_those_before_the_first_survey_do_not() -> None:
    evictions = Evictions()
    assert evictions.lately(0, "a", 500) == 0
    assert evictions.lately(60, "a", 507) == 7
    assert evictions.lately(60 + WINDOW, "a", 507) == 7
    assert evictions.lately(61 + WINDOW, "a", 507) == 0


def test_evictions_are_counted_from_zero_after_the_node_restarted() -> None:
    evictions = Evictions()
    evictions.lately(0, "a", 500)
    assert evictions.lately(9, "b", 3) == 3


def test_a_node_without_a_memory_limit_shows_none() -> None:
    assert capacity(INFO, 7, Evictions(), 0.0).maxmemory_bytes is None


def test_figures_without_those_that_redis_reports_are_refused() -> None:
    with pytest.raises(KeyError):
        capacity({"used_memory": 1}, 0, Evictions(), 0.0)


async def test_a_survey_goes_on_after_a_node_could_not_be_asked_by_a_starved_process() -> None:
    """An exception here would end all later surveys."""
    node = Mock()
    node.ask_uncounted = AsyncMock(side_effect=_Starved)
    survey = Survey(60)

    await survey.check([node])

    assert survey.found == {}


async def test_a_node_that_begins_to_refuse_the_question_shows_no_old_figures() -> None:
    info = "".join(f"{name}:{value}\r\n" for name, value in INFO.items()).encode()
    node = Mock()
    node.name = "one"
    node.ask_uncounted = AsyncMock(return_value=[info, 7])
    survey = Survey(60)
    await survey.check([node])
    assert survey.found["one"].keys == 7

    node.ask_uncounted.return_value = [NodeError("NOPERM no permission"), 7]
    await survey.check([node])

    assert survey.found == {}
    assert "one" not in [sample.labels["node"] for sample in CAPACITY_ALARM.collect()[0].samples]
