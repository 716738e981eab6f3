"""Whether a stack is well before a drill breaks it: only then does what comes after tell anything.

No I/O."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from drills.client import Readyz
from drills.measure import FINE, Met, Try
from drills.scene import Finding

PROMISE = "steady before the fault"


class NotSteady(Exception):
    """The stack was not well before the fault, so that none was made.

    Attributes:
        finding: what was wrong.
    """

    def __init__(self, finding: Finding) -> None:
        super().__init__(finding.measured)
        self.finding = finding


def parts(readyz: Sequence[Readyz], gateways: int) -> Finding:
    """Whether every gateway is ready and misses no part, by the last /readyz of each."""
    last = {answer.gateway: answer for answer in readyz}
    wrong = []
    for number in range(gateways):
        answer = last.get(number)
        if answer is None or not answer.status:
            wrong.append(f"gateway {number + 1} does not answer /readyz")
        elif answer.status != 200 or answer.reasons:
            reasons = "; ".join(answer.reasons) or f"/readyz answers {answer.status}"
            wrong.append(f"gateway {number + 1}: {reasons}")
    return Finding(PROMISE, not wrong, "; ".join(wrong))


def served(tries: Sequence[Try], begin: float, end: float, within: float) -> Finding:
    """Whether clients were served as the objective says: what was due from `begin` to `end`.

    Args:
        within: seconds in which 99 % of the requests are to be answered.
    """
    due = [t for t in tries if begin <= t.due < end]
    failed = Counter(t.met for t in due if t.met not in FINE)
    slow = sum(t.ended - t.due > within for t in due)
    seconds = f"in {end - begin:.1f} s"
    if not due:
        return Finding(PROMISE, False, f"no request was answered {seconds}")
    if failed:
        kinds = ", ".join(f"{count} x {met.value}" for met, count in failed.most_common())
        text = f"{failed.total()} of {len(due)} requests failed {seconds}: {kinds}"
        return Finding(PROMISE, False, text, timing=set(failed) == {Met.SHED})
    return Finding(
        PROMISE,
        slow * 100 <= len(due),
        f"{slow} of {len(due)} requests took longer than {within * 1000:.0f} ms {seconds}",
        timing=True,
    )
