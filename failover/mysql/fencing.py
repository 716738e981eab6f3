"""Which host is the primary: the decision alone, no I/O.

A host that answers and is writable claims to be the primary. Two may claim it: the old one was
frozen, replaced, and thawed. A replicated table, `tapedeck_generation`, holds the primary's
generation; whoever promotes a host raises it there, and where nobody did (a managed service), the
first gateway to adopt the new host does. The old primary cannot have that row, since it did not
take part in the replication that followed. So the highest generation wins, and a lower one than was
ever seen is never believed again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from failover.mysql.connection import Hello
from failover.mysql.engine import Redundancy


@dataclass(frozen=True, slots=True)
class View:
    """What one look at a host showed: its greeting, or why there is none.

    Attributes:
        silent: the look took too long.
        busy: it lives, but takes no more connections; that says nothing against it.
        ours: this machine could not ask it, for a reason of its own; that says nothing either.
        before: what it said last, where it is too busy to say it again, or could not be asked.
        denied: it turns this gateway's user away.
        redundancy: whether another host has what it commits; None where it was not asked.
    """

    address: str
    hello: Hello | None = None
    error: str = ""
    silent: bool = False
    busy: bool = False
    ours: bool = False
    denied: bool = False
    before: Hello | None = None
    redundancy: Redundancy | None = None

    def as_json(self, primary: str | None) -> dict[str, Any]:
        """The host as `/mysql` shows it.

        Args:
            primary: the address that is the primary now.
        """
        if self.hello is None:
            role = "unknown"
        elif self.address == primary:
            role = "primary"
        else:
            # Writable, and yet not the primary: an old one, or one of two.
            role = "standby" if self.hello.read_only else "fenced"
        return {
            "address": self.address,
            "role": role,
            "generation": self.hello.generation if self.hello is not None else None,
            "error": self.error or None,
        }


@dataclass(frozen=True, slots=True)
class Adopt:
    """This host is the primary.

    Attributes:
        raise_generation: it is a new one and nobody has raised the generation on it yet.
    """

    address: str
    hello: Hello
    raise_generation: bool


@dataclass(frozen=True, slots=True)
class Nobody:
    """No host can be the primary now."""

    reason: str


@dataclass(frozen=True, slots=True)
class Split:
    """Two hosts claim to be the primary with equal right: neither may be believed."""

    reason: str


Verdict: TypeAlias = Adopt | Nobody | Split


def decide(views: Sequence[View], seen: int, identity: str | None) -> Verdict:
    """Choose the primary.

    Args:
        views: one look at each configured host.
        seen: the highest generation ever seen.
        identity: the server that was the primary last, None before the first.
    """
    claims: dict[str, tuple[View, Hello]] = {}
    reasons = []
    for view in views:
        hello = view.hello or view.before
        if view.hello is None:
            reasons.append(f"{view.address}: {view.error}")
        elif view.hello.read_only:
            reasons.append(f"{view.address}: read-only")
        elif view.hello.generation < seen:
            reasons.append(
                f"{view.address}: writable, but of generation {view.hello.generation}, "
                f"and {seen} was seen: a replaced primary"
            )
        if hello is None or hello.read_only or hello.generation < seen:
            continue
        # Two names may lead to one server; the later look at it is the truer one.
        known = claims.get(hello.identity)
        if known is None or _weight(known[0], known[1]) < _weight(view, hello):
            claims[hello.identity] = (view, hello)
    highest = max((hello.generation for _, hello in claims.values()), default=0)
    best = [(view, hello) for view, hello in claims.values() if hello.generation == highest]
    if len(best) > 1:
        hosts = " and ".join(
            view.address + f" (not heard again: {view.error})" * (view.hello is None)
            for view, _ in best
        )
        return Split(f"{hosts} are both writable with generation {highest}")
    if not best or best[0][0].hello is None:
        # One that is busy, or could not be asked, is no news: whoever has it keeps it, and no
        # other host takes its place.
        return Nobody("; ".join(reasons) or "no hosts")
    view, hello = best[0]
    is_new = identity is not None and hello.identity != identity
    return Adopt(view.address, hello, raise_generation=is_new and hello.generation == seen)


def _weight(view: View, hello: Hello) -> tuple[int, bool]:
    return hello.generation, view.hello is not None
