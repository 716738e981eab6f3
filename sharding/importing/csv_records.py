"""The records of a CSV file, of which a quote that is not closed takes only its own line."""

from __future__ import annotations

import csv
from collections import deque
from collections.abc import Iterable, Iterator
from typing import NamedTuple


class CsvRecord(NamedTuple):
    """A record of a CSV file, or a line that is none.

    Attributes:
        first, last: its lines, from 1.
        cells: the fields; none for an empty line.
        bad: what is wrong with it; empty if nothing is.
    """

    first: int
    last: int
    cells: list[str]
    bad: str = ""

    @property
    def name(self) -> str:
        """How reports name it: `line 7`, or `lines 7 to 9`."""
        one = self.first == self.last
        return f"line {self.first}" if one else f"lines {self.first} to {self.last}"


def csv_records(lines: Iterable[str]) -> Iterator[CsvRecord]:
    """The records of RFC 4180; all must have as many fields as the first one.

    A quote that is not closed reaches to the next quote, or to the end of the file. So of a bad
    record that has several lines only the first line is bad: the next one is read by itself.
    """
    rest, again, taken = iter(lines), deque[str](), list[str]()

    def feed() -> Iterator[str]:
        while (line := again.popleft() if again else next(rest, None)) is not None:
            taken.append(line)
            yield line

    reader, first, width = csv.reader(feed(), strict=True), 1, 0
    while True:
        taken.clear()
        try:
            cells = next(reader, None)
        except csv.Error as error:
            cells, bad = [], f"is no CSV: {error}"
        else:
            if cells is None:
                return
            width, bad = width or len(cells), ""
            if cells and len(cells) != width:
                bad = f"has {len(cells)} fields, and the first line {width}"
        if bad:
            if len(taken) > 1:
                bad = "has a quote that is not closed"
            again.extendleft(reversed(taken[1:]))
            del taken[1:]
            reader = csv.reader(feed(), strict=True)
            cells = cells or [taken[0].rstrip("\r\n")]
        yield CsvRecord(first, first + len(taken) - 1, cells, bad)
        first += len(taken)
