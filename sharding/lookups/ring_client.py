"""Hints on the nodes of a ring, which a reload may change."""

from __future__ import annotations

from collections.abc import Mapping

from config.model import Lookup
from failover.redis.nodes import Node, Nodes
from sharding.lookups.layout import Layout
from sharding.lookups.lookups import Batches, Lookups
from sharding.partitions.clock import Days
from sharding.ring.placement import alike
from sharding.ring.ring import Ring, ring_of
from sharding.state import Key


class Routes:
    """The ring of one configuration.

    Args:
        nodes: by name.

    Raises:
        ValueError: the configuration describes no valid ring.
    """

    def __init__(self, config: Lookup, nodes: Mapping[str, Node], days: Days) -> None:
        self.config = config
        self.ring = ring_of(config)
        self.nodes = nodes
        layout = Layout(config.layout, days.retention)
        self.batches = {
            name: Batches(node, layout, days, config.batch) for name, node in nodes.items()
        }


class RingLookups(Lookups):
    """The lookup entries of all listeners, on the nodes of a ring.

    Args:
        config: ring, layout and deadline.
        nodes: the nodes and their health.
        days: the calendar, to remove hints past retention.
    """

    def __init__(self, config: Lookup, nodes: Nodes, days: Days) -> None:
        super().__init__(config, days)
        self._nodes = nodes
        self._routes = self.plan(config)

    @property
    def ring(self) -> Ring:
        return self._routes.ring

    def plan(self, config: Lookup) -> Routes:
        """Build the ring of a configuration without using it.

        Raises:
            ValueError: the configuration describes no valid ring.
        """
        return Routes(config, self._nodes.plan(config.servers, config), self._days)

    def use(self, config: Lookup, planned: Routes) -> None:
        """Use the planned ring from the next request on. Requests under way end on the old one.

        Args:
            planned: what `plan` returned for the same configuration.
        """
        if not alike(planned.config, self._routes.config):
            self._routes = planned
        self._nodes.use(planned.nodes, config)
        self._configure(config)
        for batches in self._routes.batches.values():
            batches.configure(self.layout, config.batch)

    def _find(self, key: Key) -> Batches | None:
        routes = self._routes
        server = routes.ring.route(self.layout.ring_key(key), self._nodes.out)
        return None if server is None else routes.batches[server.name]
