"""Visit every state of a model, breadth first, until an invariant breaks or nothing is left."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

from protocol_model import Model
from protocol_words import State


@dataclass(frozen=True, slots=True)
class Exploration:
    """The result of a search. `trace` is a shortest way to the violation, one line a step."""

    states: int
    steps: int
    depth: int
    seconds: float
    complete: bool
    violation: str = ""
    trace: tuple[str, ...] = ()

    def __str__(self) -> str:
        head = (
            f"{self.states:,} states, {self.steps:,} steps, depth {self.depth}, "
            f"{self.seconds:.1f} s{'' if self.complete else ', not complete'}"
        )
        if not self.violation:
            return head
        return "\n".join([f"{self.violation} ({head})", *self.trace])


def explore(
    model: Model,
    *,
    ignore: tuple[str, ...] = (),
    limit: int | None = None,
    progress: Callable[[str], None] | None = None,
) -> Exploration:
    """Explore `model`. Violations that start with one of `ignore` do not count.

    Stops after `limit` states (the result is then not `complete`). `progress` is told about every
    level of the search.
    """
    begun = time.perf_counter()
    parent: dict[State, State | None] = {}
    shared: dict[object, object] = {}
    share = shared.setdefault
    level = []
    for first in model.initial():
        parent[first] = None
        level.append(first)
    count = depth = 0

    def result(violation: str = "", trace: tuple[str, ...] = (), done: bool = True) -> Exploration:
        seconds = time.perf_counter() - begun
        return Exploration(len(parent), count, depth, seconds, done, violation, trace)

    while level:
        following = []
        for state in level:
            for label, after, violation in model.steps(state):
                count += 1
                if violation and not violation.startswith(ignore or ("-",)):
                    return result(violation, (*_trace(model, parent, state), _line(label)))
                if after not in parent:
                    # States have most of their parts in common: keep each part once.
                    kept = State(
                        *after[:4],
                        share(after.rows, after.rows),  # type: ignore[arg-type]
                        share(after.log, after.log),  # type: ignore[arg-type]
                        tuple([share(w, w) for w in after.workers]),  # type: ignore[misc]
                        share(after.late, after.late),  # type: ignore[arg-type]
                        share(after.past, after.past),  # type: ignore[arg-type]
                        share(after.seal, after.seal),  # type: ignore[arg-type]
                        share(after.importing, after.importing),  # type: ignore[arg-type]
                    )
                    parent[kept] = state
                    following.append(kept)
        level = following
        depth += 1
        if progress:
            seconds = time.perf_counter() - begun
            progress(f"depth {depth}: {len(parent):,} states, {len(level):,} new, {seconds:.0f} s")
        if limit is not None and len(parent) > limit and level:
            return result(done=False)
    return result()


def _trace(model: Model, parent: dict[State, State | None], state: State) -> list[str]:
    path = [state]
    while (before := parent[path[-1]]) is not None:
        path.append(before)
    path.reverse()
    lines = ["start: " + _rows(path[0])]
    for here, there in pairwise(path):
        label = next(label for label, after, _ in model.steps(here) if after == there)
        changed = f"   [{_rows(there)}]" if there.rows != here.rows else ""
        lines.append(_line(label) + changed)
    return lines


def _rows(state: State) -> str:
    rows = [
        f"day {p}: version {r.version} {list(r.content) if r.live else 'tombstone'}"
        for p, r in enumerate(state.rows)
        if r
    ]
    return "; ".join(rows) or "no row"


def _line(label: tuple[object, ...]) -> str:
    who = f"worker {label[0]}:" if isinstance(label[0], int) else str(label[0])
    return " ".join([who, *(_brief(part) for part in label[1:])])


def _brief(part: object) -> str:
    if part == ():
        return "nothing"
    if isinstance(part, tuple) and len(part) == 4:
        return f"version {part[0]}"
    if isinstance(part, tuple) and len(part) == 2 and isinstance(part[0], int):
        return f"(day {part[0]}, {_brief(part[1])})"
    if isinstance(part, tuple):
        return ", ".join(_brief(each) for each in part)
    return str(part)
