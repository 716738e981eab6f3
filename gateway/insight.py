"""What the admin port and the dashboard show: of one process, or of all that a supervisor has."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from prometheus_client.core import Metric

from gateway.peers import Peers
from sharding.state import Key
from sharding.verdict import Verdict


@dataclass(frozen=True, slots=True)
class Snapshot:
    """One look.

    Attributes:
        at: this machine's clock, seconds since 1970.
        status: as `/readyz` says it.
        reasons: likewise.
        ring: as `/ring`; None if no worker could say. With several workers each node has `out_in`,
            the numbers of the workers that have it ejected.
        mysql: as `/mysql`; None if no worker could say.
        families: what `/metrics` would show, with a `worker` label where there are several.
        workers: by number, where there are several: the status of each that answers.
        missing: the numbers of those that do not.
    """

    at: float
    status: str
    reasons: Sequence[str]
    ring: dict[str, Any] | None
    mysql: dict[str, Any] | None
    families: Sequence[Metric]
    workers: Mapping[int, str] = field(default_factory=dict)
    missing: Sequence[int] = ()


class Insight(Protocol):
    """What the admin port shows and does.

    Attributes:
        peers: the other gateways.
    """

    peers: Peers

    async def readiness(self) -> Verdict:
        """How it is; `ready` and `degraded` mean that it serves."""
        ...

    async def ring(self) -> dict[str, Any]: ...

    async def outline(self) -> dict[str, Any]:
        """The ring's circle: whose each of `OUTLINE_PARTS` places is, and who serves it."""
        ...

    async def mysql(self) -> dict[str, Any]: ...

    async def where(self, key: Key) -> dict[str, Any]:
        """Where one state lies."""
        ...

    async def observe(self) -> Snapshot:
        """Everything at one moment, for the dashboard."""
        ...

    async def partitions(self) -> list[dict[str, Any]]: ...

    async def believe_clock(self) -> dict[str, Any]:
        """Believe MySQL's clock, if it is in doubt: an operator says that it is right."""
        ...

    async def stats(self) -> dict[str, Any]: ...

    async def metrics(self) -> bytes: ...
