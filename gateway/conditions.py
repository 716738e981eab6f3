"""Conditional requests: If-Match and If-None-Match, by RFC 9110, section 13.1.

A state's entity tag is its version, `"7"`. Tags are strong: a weak one matches nothing, and a
condition that cannot be read is an error rather than no condition, for it guards somebody's data.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from tapedeck.gateway.replies import Refusal

# RFC 9110, 8.8.3: entity-tag = [ weak ] opaque-tag; etagc = %x21 / %x23-7E / obs-text
_TAG = re.compile(r'(W/)?"([\x21\x23-\x7E\x80-\U0010FFFF]*)"')


@dataclass(frozen=True, slots=True)
class Tags:
    """The right side of a condition.

    Attributes:
        anything: it is `*`: any state that exists.
        strong: the tags without W/.
    """

    anything: bool
    strong: frozenset[str]

    def match(self, version: int | None) -> bool:
        """Whether the state of this version is meant; None stands for no state."""
        if version is None:
            return False
        return self.anything or str(version) in self.strong


def read_tags(values: list[str], header: str) -> Tags | None:
    """What all lines of one header say together; None where there are none.

    Raises:
        Refusal: 400, it is neither `*` nor a list of entity tags.
    """
    if not values:
        return None
    text = ",".join(values)
    if text.strip(" \t") == "*":
        return Tags(True, frozenset())
    strong: set[str] = set()
    tags = 0
    for element in _elements(text, header):
        tags += 1
        if element[1] is None:
            strong.add(element[2])
    if not tags:
        raise _malformed(header)
    return Tags(False, frozenset(strong))


def _elements(text: str, header: str) -> Iterator[re.Match[str]]:
    """The tags of a list, in which empty elements count for nothing (RFC 9110, 5.6.1.2)."""
    at, separated = 0, True
    while at < len(text):
        if text[at] in " \t,":
            separated = separated or text[at] == ","
            at += 1
            continue
        tag = _TAG.match(text, at)
        if tag is None or not separated:
            raise _malformed(header)
        yield tag
        at, separated = tag.end(), False


def _malformed(header: str) -> Refusal:
    return Refusal(400, f'{header} must be * or entity tags such as "7", in double quotes.')


@dataclass(frozen=True, slots=True)
class Conditions:
    """Both headers of a request; at most one of them is given."""

    if_match: Tags | None
    if_none_match: Tags | None


def read_conditions(if_match: list[str], if_none_match: list[str]) -> Conditions:
    """The conditions of a request, from the lines of each header.

    Raises:
        Refusal: 400, one is malformed or both are given.
    """
    if if_match and if_none_match:
        raise Refusal(400, "If-Match and If-None-Match cannot be used together here.")
    return Conditions(read_tags(if_match, "If-Match"), read_tags(if_none_match, "If-None-Match"))
