"""Fencing: the rule that decides which host is the primary. No I/O.

A host that answers and is writable claims to be the primary. Two hosts may claim it: an old primary
was frozen, replaced, and thawed. The replicated table `tapedeck_generation` has the primary's
generation. A promotion raises it on the new host; if it was not raised (a managed service), the
first gateway that adopts the new host raises it. The old primary does not get this change, since it
no longer takes part in the replication. So the highest generation wins, and a host with a lower
generation than the highest ever seen is never adopted.

The old primary of a group that is cut off from the other members stays writable, with the
generation that the elected one still has. It commits nothing, so it is no primary; nor is it read,
since another may be elected where this gateway cannot see it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

from failover.mysql.connection import HostStatus
from failover.mysql.engine import Redundancy
from failover.mysql.shown import Host


@dataclass(frozen=True, slots=True)
class View:
    """The result of one check of a host: its status, or why there is none.

    Attributes:
        silent: the check timed out.
        busy: the host lives, but accepts no more connections; it may still be the primary.
        ours: this machine could not ask, for a reason of its own; it may still be the primary.
        before: the last status, if the host is busy or could not be asked.
        denied: the host refuses this gateway's user.
        redundancy: whether another host has what it commits, as it last said; None if it was never
            asked.
    """

    address: str
    status: HostStatus | None = None
    error: str = ""
    silent: bool = False
    busy: bool = False
    ours: bool = False
    denied: bool = False
    before: HostStatus | None = None
    redundancy: Redundancy | None = None

    @property
    def why_powerless(self) -> str:
        """Why it commits nothing, although it is writable; empty if it does, as far as is known."""
        said = self.redundancy
        return said.reason if said is not None and said.powerless else ""

    def shown(self, primary: str | None) -> Host:
        """The host as `/mysql` shows it.

        Args:
            primary: the address that is the primary now.
        """
        status, error = self.status, self.error or None
        if status is None:
            return Host(self.address, "unknown", None, error)
        if self.address == primary:
            return Host(self.address, "primary", status.generation, error)
        # Writable, and yet not the primary: an old primary, or one of two claimants.
        role: Literal["standby", "fenced"] = "standby" if status.read_only else "fenced"
        return Host(self.address, role, status.generation, error)


@dataclass(frozen=True, slots=True)
class Adopt:
    """This host is the primary.

    Attributes:
        raise_generation: it is a new primary, and its generation was not raised yet.
    """

    address: str
    status: HostStatus
    raise_generation: bool


@dataclass(frozen=True, slots=True)
class NoneToAdopt:
    """These checks name no host to adopt. A primary that is only busy or silent is kept.

    Attributes:
        split: two hosts claim to be the primary with the same generation: neither is used.
    """

    reason: str
    split: bool = False


Verdict: TypeAlias = Adopt | NoneToAdopt


def decide(views: Sequence[View], seen: int, identity: str | None) -> Verdict:
    """Choose the primary.

    Args:
        views: one check of each configured host.
        seen: the highest generation ever seen.
        identity: of the last primary; None before the first.
    """
    claims: dict[str, tuple[View, HostStatus]] = {}
    reasons = []
    for view in views:
        status = view.status or view.before
        if view.status is None:
            reasons.append(f"{view.address}: {view.error}")
        elif view.status.read_only:
            reasons.append(f"{view.address}: read-only")
        elif view.status.generation < seen:
            reasons.append(
                f"{view.address}: writable, but of generation {view.status.generation}, "
                f"and {seen} was seen: a replaced primary"
            )
        elif view.why_powerless:
            reasons.append(f"{view.address}: it commits nothing, {view.why_powerless}")
        if status is None or status.read_only or status.generation < seen or view.why_powerless:
            continue
        # Two names may lead to one server; its later check counts.
        known = claims.get(status.identity)
        if known is None or _weight(known[0], known[1]) < _weight(view, status):
            claims[status.identity] = (view, status)
    highest = max((status.generation for _, status in claims.values()), default=0)
    best = [(view, status) for view, status in claims.values() if status.generation == highest]
    if len(best) > 1:
        hosts = " and ".join(
            sorted(
                view.address + f" (not heard again: {view.error})" * (view.status is None)
                for view, _ in best
            )
        )
        return NoneToAdopt(f"{hosts} are both writable with generation {highest}", split=True)
    if not best or best[0][0].status is None:
        # A host that is busy, or could not be asked, stays the primary, and no other host takes
        # its place.
        return NoneToAdopt("; ".join(sorted(reasons)) or "no hosts")
    view, status = best[0]
    is_new = identity is not None and status.identity != identity
    return Adopt(view.address, status, raise_generation=is_new and status.generation == seen)


def _weight(view: View, status: HostStatus) -> tuple[int, bool]:
    return status.generation, view.status is not None
