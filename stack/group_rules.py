"""The state of a group, from what its members say, and what has to be done for it. No I/O.

MySQL expels a member that does not answer, elects the primary, and takes a member back. It begins
nothing: a started member has to be told to join, and if no group is left, the member with the most
transactions has to be told to found it again. That is safe only if every member can be asked what
it has, because any of them may be the only one with an acknowledged change.
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
        primary: the name of the member that it takes for the primary.
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
    """The state of the group.

    Attributes:
        exists: whether a member is in it and reaches more than half of it.
        primary: the name of the elected member; None while it is not known.
        online: the names of the members that are ONLINE.
        joining: the names of the members that have to be told to join.
        founding: whether it has to be founded again: no group is left, and all members answer.
    """

    exists: bool
    primary: str | None
    online: frozenset[str]
    joining: tuple[str, ...]
    founding: bool


def situation_of(views: Mapping[str, View | None]) -> Situation:
    """Combine what the members say.

    Args:
        views: by name; None for a member that does not run or does not answer.
    """
    deciding = {name: view for name, view in views.items() if view is not None and view.decides}
    # A primary that was frozen, expelled and thawed still says for some seconds that it is the
    # primary: the majority decides.
    votes = Counter(view.primary for view in deciding.values() if view.primary is not None)
    primary = votes.most_common(1)[0][0] if votes else None
    agreeing = [view for view in deciding.values() if view.primary == primary]
    online = {
        name
        for view in agreeing
        for name, state in view.members.items()
        if state == "ONLINE" and views.get(name) is not None
    }
    # An expelled member is in ERROR, and MySQL lets it join again by itself.
    out = [name for name, view in views.items() if view is not None and view.state == "OFFLINE"]
    return Situation(
        exists=bool(deciding),
        primary=primary,
        online=frozenset(online),
        joining=tuple(out) if deciding else (),
        founding=not deciding and all(view is not None for view in views.values()),
    )
