"""Values of earlier versions that were removed: refused by name, with what to do instead."""

from __future__ import annotations

_NO_LIMIT = "a load without a hint needs no limit any more"

GONE = {
    "lookup.move_rate": "a reload copies no entries any more",
    "lookup.on_lookup_failure": "a load without a hint always reads what MySQL has",
    "lookup.probe_rate": _NO_LIMIT,
    "lookup.probe_burst": _NO_LIMIT,
    "lookup.probe_overload": _NO_LIMIT,
}
"""Why each was removed, by `section.key`."""


def refusal(name: str) -> str | None:
    """The sentence that refuses a value which is gone, without its name; None for any other.

    Args:
        name: `section.key`.

    >>> refusal("lookup.probe_rate")
    'is gone (a load without a hint needs no limit any more); remove it'
    """
    why = GONE.get(name)
    return None if why is None else f"is gone ({why}); remove it"
