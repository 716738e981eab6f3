"""The result of a load, the plan of a save, and the statements that write plans."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date

from msgspec import Struct

from sharding.filters.filters import FilterSet
from sharding.partitions import sql
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
        return "in_place" if self.in_place else "move"

    @property
    def days(self) -> tuple[date, ...]:
        return (self.day,) if self.base is None else (self.day, self.base.day)

    @property
    def size(self) -> int:
        """Most bytes of the statements that save it: two for each byte of the body and the log, and
        its key in up to eight places."""
        return 2 * (len(self.row.body) + len(self.row.operations)) + 700

    @property
    def in_place(self) -> bool:
        return self.base is not None and self.base.day == self.day


def statements(plans: Sequence[Plan]) -> list[str]:
    """The statements that write plans, of one transaction. A requirement fails (see `sql.require`)
    if the row of a plan in place, or one that is to leave its partition, has another version.

    Rows are locked in the same order everywhere, by day and key, so that transactions of one day
    cannot deadlock.
    """
    plans = sorted(plans, key=lambda plan: (plan.day, plan.key))
    script: list[str] = []
    moved: dict[date, dict[Key, int]] = {}
    for day in sorted({plan.day for plan in plans}):
        mine = [plan for plan in plans if plan.day == day]
        stay = [plan.row for plan in mine if plan.in_place]
        come = [plan.row for plan in mine if not plan.in_place]
        if stay:
            script += [sql.upsert(day, stay), sql.require(2 * len(stay))]
        if come:
            script.append(sql.insert(day, come))
    for plan in plans:
        if plan.base is not None and not plan.in_place:
            moved.setdefault(plan.base.day, {})[plan.key] = plan.base.version
    for day, versions in sorted(moved.items()):
        script += [sql.delete(day, versions), sql.require(len(versions))]
    return script
