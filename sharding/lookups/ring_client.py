"""Hints on the nodes of a ring, which a reload may change."""

from __future__ import annotations

from collections.abc import Mapping

from config.model import Lookup
from failover.redis.nodes import Node, Nodes
from sharding.lookups.layout import Layout
from sharding.lookups.lookups import Batches, Lookups
from sharding.partitions.clock import Days
from sharding.ring.placement import Placement
from sharding.ring.ring import Ring
from sharding.state import Key


class Routes:
    """The ring of one configuration.

    Args:
        placement: the rule that gives each key a node.
        nodes: by name.
        days: the calendar.
        size: most entries in one round trip.

    Raises:
        ValueError: the placement describes no valid ring.
    """

    def __init__(
        self, placement: Placement, nodes: Mapping[str, Node], days: Days, size: int
    ) -> None:
        self.placement = placement
        self.ring = placement.ring()
        self.nodes = nodes
        layout = Layout(placement.layout, days.retention)
        self.batches = {name: Batches(node, layout, days, size) for name, node in nodes.items()}

    def configure(self, layout: Layout, size: int) -> None:
        """Use these from the next batch on."""
        for batches in self.batches.values():
            batches.configure(layout, size)


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
        """The present ring."""
        return self._routes.ring

    def plan(self, config: Lookup) -> Routes:
        """Build the ring of a configuration without using it.

        Raises:
            ValueError: the configuration describes no valid ring.
        """
        nodes = self._nodes.plan(config.servers, config)
        return Routes(Placement.of(config), nodes, self._days, config.batch)

    def turn(self, config: Lookup, planned: Routes) -> None:
        """Use the planned ring from the next request on. Requests under way end on the old one.

        Args:
            planned: what `plan` returned for the same configuration.
        """
        if planned.placement != self._routes.placement:
            self._routes = planned
        self._nodes.turn(planned.nodes, config)
        self._configure(config)
        self._routes.configure(self.layout, config.batch)

    def _find(self, key: Key) -> Batches | None:
        """The batches of the node that has a key; None while no node is live."""
        routes = self._routes
        server = routes.ring.route(self.layout.ring_key(key), self._nodes.out)
        return None if server is None else routes.batches[server.name]
