"""The result of a load, and the plan of a save."""

from __future__ import annotations

from datetime import date

from msgspec import Struct

from sharding.filters.filters import FilterSet
from sharding.partitions.sql import NewRow, Row
from sharding.state import Key

_NO_FILTERS = FilterSet()


class Loaded(Struct, frozen=True, gc=False):
    """What a load found for a key.

    Attributes:
        row: the row, tombstones included; None if none was found.
        whole: whether every partition that may have the key was read.
        filters: the filters before the read.
        opening: of the read, the same as that of the list of partitions (see `import_opening`).
    """

    row: Row | None
    whole: bool = True
    filters: FilterSet = _NO_FILTERS
    opening: int = 0


class Plan(Struct, frozen=True):
    """One save, ready to be written.

    Attributes:
        base: the row that it was made from; None creates the key.
        day: W, of the partition to write into: the newer of today and the base's.
        row: the row to write.
        others: the other workers' part of its operations.
        changes: how many members' changes it contains.
        alone: whether it goes into no batch, because it delayed one before.
        yesterday_sealed: for a create: whether the worker had the filter of W-1 before the load,
            so that no other gateway can have put the key there since.
        generation: of the primary that `base` was read from. Another primary may lack the base,
            and have another row of the same version.
        opening: for a create, that of the load (see `import_opening`).
        first: whether it is a create that was made before any load (rule S5).
    """

    base: Row | None
    day: date
    row: NewRow
    others: bytes = b""
    changes: int = 1
    alone: bool = False
    yesterday_sealed: bool = False
    generation: int = 0
    opening: int = 0
    first: bool = False

    @property
    def key(self) -> Key:
        return self.row.key

    @property
    def kind(self) -> str:
        """Its label in the metrics: create, in_place or move."""
        if self.base is None:
            return "create"
        return "in_place" if self.base.day == self.day else "move"

    @property
    def days(self) -> tuple[date, ...]:
        base = () if self.base is None else (self.base.day,)
        return (self.day, *base)

    @property
    def size(self) -> int:
        """Most bytes of the statements that save it: two for each byte of the body and the log, and
        its key in up to eight places."""
        return 2 * (len(self.row.body) + len(self.row.operations)) + 700

    @property
    def in_place(self) -> bool:
        return self.base is not None and self.base.day == self.day
