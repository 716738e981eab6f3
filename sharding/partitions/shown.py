"""The partitions and MySQL's clock as the admin port and the commands show them."""

from __future__ import annotations

from typing import Annotated, TypeAlias

from msgspec import Meta, Struct

Count: TypeAlias = Annotated[int, Meta(ge=0)]
Day: TypeAlias = Annotated[str, Meta(pattern="^[0-9]{8}$")]


class Partition(Struct):
    day: Day
    rows: Annotated[int, Meta(ge=0, description="counted, or InnoDB's estimate if they are many")]
    bytes: Annotated[int, Meta(ge=0, description="data and indexes, InnoDB's estimate")]
    drops_on: Day
    sealed: Annotated[
        bool,
        Meta(description="its filter is there: loads read it only for keys that it may have"),
    ]
    sealing: Annotated[bool, Meta(description="a gateway is making its filter, or began to")]
    filter_bytes: Count
    foreign: Annotated[
        list[str],
        Meta(
            description="tables that have a partition's name and are not Tapedeck's: never read,"
            " written or dropped; the same list in each item"
        ),
    ]
    in_vain: Annotated[
        int,
        Meta(
            ge=0,
            description="how often this gateway read it for a key that was not there, because its"
            " filter did not rule the key out",
        ),
    ]


class BelievedClock(Struct):
    was_in_doubt: bool
    mysql_time: str
