"""The rules of a managed database: when to promote the standby, when to go on without one.

No I/O: `decide` takes what was observed and returns what to do next. One fact keeps acknowledged
changes safe, *redundant*: the standby has every commit that was acknowledged. It becomes true when
the primary waits for the standby at each commit and the standby has received all that was committed
until then. It becomes false when the standby ends or is linked anew (its relay log may be lost with
it), and before the primary stops waiting for it. The primary's death does not change it. A
promotion without an order needs it, so a second failure never loses a change in silence.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

FROZEN_AFTER = 2.0
"""Seconds without an answer after which a process that is stopped (SIGSTOP) counts as frozen."""
HUNG_AFTER = 6.0
"""The same for a process that is not stopped: on a busy machine it may be slow for a while."""
ALONE_AFTER = 5.0
"""Seconds that commits wait for a lost standby; then the pair continues without it."""
NEAR = 2_000
"""How many transactions the standby may still lack when commits begin to wait for it. They wait
until it has received them; else a standby might never catch up with a primary at full load."""


class Action(Enum):
    """What to do next."""

    PROMOTE = "end the primary, if it is frozen, and promote the standby"
    REFUSE = "say that the primary is lost and nothing is promoted"
    NOT_REDUNDANT = "write down that the standby may lack acknowledged commits"
    RESTART_STANDBY = "end the standby, if it is frozen, and start it"
    LINK = "have the standby follow the primary from where it is"
    COPY = "give the standby a new copy of the primary's data"
    GO_ALONE = "stop waiting for a standby at each commit"
    WAIT_FOR_STANDBY = "wait for the standby at each commit"
    REDUNDANT = "write down that the standby has every acknowledged commit"


@dataclass(frozen=True)
class Host:
    """One of the two servers.

    Attributes:
        running: its process exists.
        stopped: it is stopped by SIGSTOP.
        silent: seconds since its last answer (or since it is running).
        wanted: False after an order to stop it, or after a failover that left it dead.
    """

    running: bool = True
    stopped: bool = False
    silent: float = 0.0
    wanted: bool = True

    @property
    def frozen(self) -> bool:
        """It exists and will not answer."""
        return self.running and self.silent >= (FROZEN_AFTER if self.stopped else HUNG_AFTER)

    @property
    def lost(self) -> bool:
        """Dead or frozen."""
        return not self.running or self.frozen


@dataclass(frozen=True)
class Situation:
    """What is seen of the pair.

    Attributes:
        primary: the server with that role, whatever its health.
        standby: likewise.
        redundant: see the module's text.
        waits: the primary waits for the standby at each commit (semi-sync is on).
        following: the standby follows the primary, which knows it as one that acknowledges.
        hopeless: the standby can follow no more without a new copy.
        linking: the standby was told to follow and has not failed at it.
        behind: transactions committed until a moment ago, after `waits` was seen, that it has not
            received.
        unlinked: seconds since it last followed.
    """

    primary: Host = Host()
    standby: Host = Host()
    redundant: bool = True
    waits: bool = True
    following: bool = True
    hopeless: bool = False
    linking: bool = True
    behind: int = 0
    unlinked: float = 0.0


def decide(seen: Situation) -> list[Action]:
    """The next actions, in order; none if all is well, or if waiting is all that can be done."""
    standby_lost = seen.standby.lost
    restart = [Action.RESTART_STANDBY] if standby_lost and seen.standby.wanted else []
    if seen.primary.lost:
        if seen.redundant and not standby_lost:
            return [Action.PROMOTE]
        return [*_no_longer_redundant(seen), Action.REFUSE, *restart]
    if seen.primary.silent:
        return []  # it is not known yet whether it is slow or frozen, and the rest was seen before
    alone = seen.waits and not seen.following and seen.unlinked >= ALONE_AFTER
    actions = _no_longer_redundant(seen) if standby_lost or alone else []
    if alone:
        actions.append(Action.GO_ALONE)
    if standby_lost:
        return actions + restart
    if seen.hopeless:
        return [*actions, Action.COPY]
    if not seen.following:
        if seen.linking:
            return actions
        # Linking discards what the standby received and has not applied.
        return [*(actions or _no_longer_redundant(seen)), Action.LINK]
    if not seen.waits and seen.behind <= NEAR:
        actions.append(Action.WAIT_FOR_STANDBY)
    elif seen.waits and not seen.redundant and not seen.behind:
        actions.append(Action.REDUNDANT)
    return actions


def _no_longer_redundant(seen: Situation) -> list[Action]:
    return [Action.NOT_REDUNDANT] if seen.redundant else []
