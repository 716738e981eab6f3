"""The descriptors that are reserved for MySQL, the lookup nodes and operators."""

from __future__ import annotations

import resource

from config.model import Sections

OF_A_NODE = 16
"""Connections to one lookup node, if the configuration sets no limit."""
BESIDE_THE_POOL = 8
"""Connections to MySQL for long work."""
OTHERS = 48
"""Descriptors for the admin port, name look-ups, files that are read again, and the log."""


def reserved(config: Sections) -> int:
    """How many descriptors a worker reserves."""
    mysql = config.mysql.connections + BESIDE_THE_POOL + 2 * len(config.mysql.hosts)
    nodes = len(config.lookup.servers) * (config.lookup.server_connections or OF_A_NODE)
    return mysql + nodes + OTHERS


def of_clients(reserve: int) -> int:
    """The first descriptor that no client may have. (The kernel returns the lowest free one.)

    If the system's limit is very low, clients get half of it.
    """
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if limit == resource.RLIM_INFINITY:
        return 2**31
    return max(limit - reserve, limit // 2)
