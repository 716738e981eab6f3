"""Which descriptors clients may not have: MySQL, the lookup nodes and operators need them."""

from __future__ import annotations

import resource

from config.model import Sections

OF_A_NODE = 16
"""Connections to one lookup node, where the configuration sets no bound."""
BESIDE_THE_POOL = 8
"""Connections to MySQL for long work, at once."""
OTHERS = 48
"""For the admin port, name look-ups, files that are read again, and the log."""


def reserved(config: Sections) -> int:
    """How many descriptors a worker keeps from its clients."""
    mysql = config.mysql.connections + BESIDE_THE_POOL + 2 * len(config.mysql.hosts)
    nodes = len(config.lookup.servers) * (config.lookup.server_connections or OF_A_NODE)
    return mysql + nodes + OTHERS


def of_clients(reserve: int) -> int:
    """The first descriptor that no client may have: the kernel gives the lowest that is free, so
    all below are taken.

    Where the limit is so low that little would be left, clients get half of it.
    """
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if limit == resource.RLIM_INFINITY:
        return 2**31
    return max(limit - reserve, limit // 2)
