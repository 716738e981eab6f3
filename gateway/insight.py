"""What the dashboard looks at: everything the gateway says of itself at one moment."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from prometheus_client.core import Metric


@dataclass(frozen=True, slots=True)
class Snapshot:
    """One look.

    Attributes:
        at: this machine's clock, seconds since 1970.
        status: as `/readyz` says it.
        reasons: likewise.
        ring: as `/ring`; None where nobody could say. With several workers each node has `out_in`,
            the numbers of the workers that have it ejected.
        mysql: as `/mysql`; None where nobody could say.
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
