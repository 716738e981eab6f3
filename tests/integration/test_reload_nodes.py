"""A reload of the ring: its effect on hints, and on nodes that are removed or stay."""

from __future__ import annotations

import asyncio
import random
from datetime import date, timedelta
from typing import Any

import pytest
import redis

from sharding import metrics
from sharding.backend import Backend
from sharding.state import Key
from stack.redis import RedisServer
from tests.conftest import StackConfig
from tests.support.rings import opened, reload, servers
from tests.support.states import bump, count
from tests.support.waiting import until

pytestmark = pytest.mark.stack


def day(backend: Backend, days_ago: int) -> date:
    return backend.days.today() - timedelta(days=days_ago)


# Not 1, 2, 3: with the default hash such keys would be close together on the ring.
USERS = random.Random(42).sample(range(1, 10**9), 2000)


def client(node: RedisServer) -> redis.Redis:
    return redis.Redis(port=node.port, socket_timeout=2)


async def test_a_key_that_a_reload_moved_has_no_hint_for_one_load(
    stack_config: StackConfig, lookup_servers: list[RedisServer]
) -> None:
    one, two, three = lookup_servers
    async with opened(stack_config(lookup={"servers": servers(one, two)})) as backend:
        keys = [Key(user, 1) for user in USERS[:60]]
        await asyncio.gather(*(backend.store.change(key, bump) for key in keys))
        await backend.lookups.drain()

        reload(backend, stack_config(lookup={"servers": servers(one, two, three)}))
        moved = [
            k for k in keys if backend.lookups.ring.owner(b"u:%d" % k.user_id).port == three.port
        ]
        assert 5 < len(moved) < 40
        assert await outcomes(backend, keys) == {"miss": len(moved), "hit": 60 - len(moved)}
        await backend.lookups.drain()
        assert await outcomes(backend, keys) == {"hit": 60}
        with client(three) as owner:
            assert sorted(owner.keys("u:*")) == sorted(b"u:%d" % k.user_id for k in moved)


async def test_no_state_is_lost_when_the_layout_changes_and_changes_back(
    stack_config: StackConfig, lookup_servers: list[RedisServer]
) -> None:
    nodes = servers(*lookup_servers)
    async with opened(stack_config(lookup={"servers": nodes})) as backend:
        keys = [Key(user, playlist) for user in USERS[:20] for playlist in (1, 2)]
        await asyncio.gather(*(backend.store.change(key, bump) for key in keys))
        await backend.lookups.drain()
        for layout, outcome in (("flat", "miss"), ("packed", "hit"), ("flat", "hit")):
            reload(backend, stack_config(lookup={"servers": nodes, "layout": layout}))
            assert await outcomes(backend, keys) == {outcome: len(keys)}
            await backend.lookups.drain()


async def outcomes(backend: Backend, keys: list[Key]) -> dict[str, int]:
    """Load states that were changed once; how many hints were right or missing."""
    before = dict(metrics.LOOKUPS.counts)
    assert [await count(backend.store, key) for key in keys] == [1] * len(keys)
    after = metrics.LOOKUPS.counts
    return {name: after[name] - before[name] for name in after if after[name] != before[name]}


async def test_a_removed_node_s_connections_are_closed_and_its_metric_is_removed(
    stack_config: StackConfig, lookup_servers: list[RedisServer]
) -> None:
    one, two, three = lookup_servers
    from prometheus_client import REGISTRY

    def ours() -> int:
        with client(three) as admin:
            return len(admin.client_list()) - 1  # this one

    async with opened(stack_config()) as backend:
        await asyncio.gather(*(backend.store.change(Key(user, 1), bump) for user in USERS[:59]))
        await backend.lookups.drain()
        assert ours() > 0
        gone = backend.nodes["lookup3"]
        reload(backend, stack_config(lookup={"servers": servers(one, two)}))
        for user in USERS[:59]:
            assert await count(backend.store, Key(user, 1)) == 1
        await until(lambda: ours() == 0, what="the node's connections are closed")
        assert gone.name not in {node.name for node in backend.nodes}
        assert REGISTRY.get_sample_value("tapedeck_lookup_node_live", {"node": "lookup3"}) is None
        assert REGISTRY.get_sample_value("tapedeck_lookup_node_live", {"node": "lookup1"}) == 1


async def test_a_question_to_a_node_that_a_reload_removes_is_still_answered(
    stack_config: StackConfig, lookup_servers: list[RedisServer]
) -> None:
    one, two, _ = lookup_servers
    async with opened(stack_config(lookup={"servers": servers(one)})) as backend:
        key = Key(7, 1)
        backend.lookups.put(key, day(backend, 1), saved=True)
        await backend.lookups.drain()
        one.freeze()
        asked = asyncio.create_task(backend.lookups.ask(key))
        link = backend.nodes["lookup1"]._link
        await until(lambda: not link._free, what="a question is under way")
        reload(backend, stack_config(lookup={"servers": servers(two)}))
        await asyncio.sleep(0.1)  # connections that are closed at once would be closed by now
        one.thaw()
        assert (await asked).day == day(backend, 1)


async def test_a_node_stays_ejected_after_a_reload_only_if_its_name_and_address_stay(
    stack_config: StackConfig, lookup_servers: list[RedisServer]
) -> None:
    one, two, _ = lookup_servers
    lookup: dict[str, Any] = {"server_retry_timeout": 60_000, "server_failure_limit": 1}
    async with opened(stack_config(lookup=lookup)) as backend:
        one.kill()
        while not backend.nodes.out:
            await asyncio.gather(*(backend.lookups.ask(Key(user, 1)) for user in USERS[:19]))
        before = backend.nodes["lookup1"].health
        since = before.since

        reload(
            backend, stack_config(lookup={**lookup, "servers": servers(one, two), "timeout": 99})
        )
        assert backend.nodes.out == {"lookup1"}
        assert backend.nodes["lookup1"].health.since == since

        renamed = [f"{one.address}:1 another", *servers(two)]
        reload(backend, stack_config(lookup={**lookup, "servers": renamed}))
        assert backend.nodes.out == frozenset()

        reload(backend, stack_config(lookup={**lookup, "servers": servers(one, two)}))
        assert backend.nodes.out == frozenset()  # it had been removed, so it begins as a new node
        while not backend.nodes.out:
            await asyncio.gather(*(backend.lookups.ask(Key(user, 1)) for user in USERS[:19]))

        one.start()
        faster = {**lookup, "servers": servers(one, two), "server_retry_timeout": 50}
        reload(backend, stack_config(lookup=faster))
        await until(lambda: not backend.nodes.out, what="the node returns after the shorter time")
