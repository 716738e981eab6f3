"""Hints in a Redis Cluster: its slots are the ring."""

from __future__ import annotations

from config.model import Lookup
from failover.redis.cluster import ClusterNodes
from failover.redis.nodes import Node
from sharding.lookups.lookups import Batches, Lookups
from sharding.partitions.clock import Days
from sharding.state import Key


class ClusterLookups(Lookups):
    """The lookup entries of all listeners, in a Redis Cluster.

    Args:
        config: layout, deadline and size of batches.
        nodes: the primaries.
        days: the calendar, to remove hints past retention.
    """

    def __init__(self, config: Lookup, nodes: ClusterNodes, days: Days) -> None:
        super().__init__(config, days)
        self._nodes = nodes
        self._size = config.batch
        self._batches: dict[Node, Batches] = {}

    @property
    def ring(self) -> ClusterNodes:
        return self._nodes

    def _find(self, key: Key) -> Batches | None:
        node = self._nodes.owner(self.layout.ring_key(key))
        if node is None or not node.health.live:
            return None
        batches = self._batches.get(node)
        if batches is None:
            # Primaries come and go: keep the batches of those that are there.
            here = set(self._nodes)
            self._batches = {known: b for known, b in self._batches.items() if known in here}
            batches = Batches(node, self.layout, self._days, self._size)
            self._batches[node] = batches
        return batches
