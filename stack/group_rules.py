"""The state of a group from what its members say, and what MySQL itself does not do for it.

No I/O. MySQL expels a member that does not answer, elects the primary, and takes a member back.
It does not begin: a member that was started has to be told to join, and when no group
is left, one member has to be told to found it again, the one with the most transactions. Founding
is safe only while every member can be asked what it has: any of them may be the only one that holds
an acknowledged change.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

_IN_GROUP = ("ONLINE", "RECOVERING")
_OUT = ("OFFLINE", "ERROR")


@dataclass(frozen=True)
class View:
    """The group, as one member sees it.

    Attributes:
        state: the member's own: ONLINE, RECOVERING, OFFLINE, ERROR.
        members: the state of each member that it knows, itself too, by name.
        primary: the name of the one that it holds for the primary.
    """

    state: str = "OFFLINE"
    members: Mapping[str, str] = field(default_factory=dict)
    primary: str | None = None

    @property
    def decides(self) -> bool:
        """Whether it is in the group, and reaches more than half of it."""
        reached = sum(state in _IN_GROUP for state in self.members.values())
        return self.state in _IN_GROUP and 2 * reached > len(self.members)


@dataclass(frozen=True)
class Situation:
    """The group, as far as it can be told.

    Attributes:
        exists: some member is in it and can decide.
        primary: who was elected; None while that is not known.
        online: the names of those that are ONLINE.
        joining: those that are to be told to join.
        founding: no group is left, and all members can be asked: it is to be founded again.
    """

    exists: bool
    primary: str | None
    online: frozenset[str]
    joining: tuple[str, ...]
    founding: bool


def situation_of(views: Mapping[str, View | None]) -> Situation:
    """Combine what the members say.

    Args:
        views: by name; None of a member that does not run, or does not answer.
    """
    deciding = {name: view for name, view in views.items() if view is not None and view.decides}
    # A primary that was frozen, expelled and thawed believes for some seconds that nothing
    # happened: what most of them say counts.
    votes = Counter(view.primary for view in deciding.values() if view.primary is not None)
    primary = votes.most_common(1)[0][0] if votes else None
    agreeing = [view for view in deciding.values() if view.primary == primary]
    online = {
        name
        for view in agreeing
        for name, state in view.members.items()
        if state == "ONLINE" and views.get(name) is not None
    }
    # (MySQL itself has one that was expelled, ERROR, rejoin.)
    out = [name for name, view in views.items() if view is not None and view.state == "OFFLINE"]
    return Situation(
        exists=bool(deciding),
        primary=primary,
        online=frozenset(online),
        joining=tuple(out) if deciding else (),
        founding=not deciding and all(view is not None for view in views.values()),
    )
