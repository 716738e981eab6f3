"""The MySQL hosts as the admin port shows them (`/mysql`)."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta, Struct


class Host(Struct):
    address: str
    role: Literal["primary", "standby", "fenced", "unknown"]
    generation: int | None
    error: str | None


class MySQL(Struct):
    primary: str | None
    generation: Annotated[int, Meta(ge=0)]
    engine: Annotated[str | None, Meta(description="the primary's, with its version")]
    redundant: Annotated[
        bool | None,
        Meta(description="whether another host has what is acknowledged; null: not known"),
    ]
    redundancy: Annotated[str | None, Meta(description="why")]
    split: bool
    lost_for: Annotated[float | None, Meta(description="seconds")]
    committed: Annotated[
        float | None,
        Meta(description="seconds since a commit was last acknowledged; null: not known"),
    ]
    problem: str | None
    waiting: Annotated[int, Meta(ge=0)]
    hosts: list[Host]
