"""The bodies of the admin port that are made in `gateway`. Their schemas are made from these."""

from __future__ import annotations

from typing import Annotated, Literal, TypeAlias

from msgspec import Meta, Struct

from sharding.health_verdict import Kind, Status
from sharding.partitions.shown import Count
from sharding.shown import Id

Rate: TypeAlias = Annotated[float, Meta(description="a second")]


class Readiness(Struct, forbid_unknown_fields=True):
    status: Status
    reasons: list[str]
    causes: list[Kind]
    ages: Annotated[
        list[float],
        Meta(
            description="seconds for which each of them has held; of the cause `unknown`,"
            " for which it is not known"
        ),
    ]


class Overview(Struct):
    at: float
    gateway: str
    version: str
    status: Status
    since: float | None
    reasons: list[str]
    workers: Count
    requests: Rate
    failing: Rate
    latency: Annotated[list[float | None], Meta(description="median, p95 and p99, milliseconds")]
    out: list[str]
    generation: int | None
    primary: str | None


class Drained(Struct):
    draining: Annotated[bool, Meta(description="/readyz says 503, and connections are ended")]
    in_flight: Annotated[Count, Meta(description="requests")]
    connections: Annotated[Count, Meta(description="of listeners and services")]
    empty: Annotated[
        bool, Meta(description="none was open, and none came, for the last seconds of the drain")
    ]


class Happened(Struct):
    # One that ends keeps its id.
    id: Id
    at: Annotated[float, Meta(description="seconds since 1970")]
    until: Annotated[float | None, Meta(description="null while it lasts; `at` for a moment")]
    level: Annotated[
        Literal["bad", "warn", "note"],
        Meta(description="`bad` stops requests, a `note` is no fault"),
    ]
    # The cause of a reason, or `promoted`, `reload`, `worker`, `ring`.
    kind: str
    text: str
