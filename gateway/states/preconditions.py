"""Conditional requests: If-Match and If-None-Match, by RFC 9110, section 13.1.

A state's entity tag is its version, such as `"7"`, a strong tag. If-Match compares strongly: a weak
tag never matches. If-None-Match compares weakly, since a proxy that compresses makes tags weak
(13.1.2, 8.8.3.2). A malformed condition is an error, and not ignored, because it protects a
caller's data.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from gateway.http.errors import Refusal

# RFC 9110, 8.8.3: entity-tag = [ weak ] opaque-tag; etagc = %x21 / %x23-7E / obs-text
_TAG = r'(W/)?"([\x21\x23-\x7E\x80-\U0010FFFF]*)"'
# Empty elements of a list are ignored (RFC 9110, 5.6.1.2).
_TAGS = re.compile(rf"[ \t,]*(?:{_TAG}[ \t]*(?:,[ \t,]*|\Z))+")


@dataclass(frozen=True, slots=True)
class Tags:
    """The value of a condition: `*` (`anything`), or tags, without W/ and with it.

    A version of None stands for no state: it matches nothing.
    """

    anything: bool
    strong: frozenset[str] = frozenset()
    weak: frozenset[str] = frozenset()

    def match(self, version: int | None) -> bool:
        return version is not None and (self.anything or str(version) in self.strong)

    def match_weakly(self, version: int | None) -> bool:
        return self.match(version) or (version is not None and str(version) in self.weak)


def read_tags(values: list[str], header: str) -> Tags | None:
    """The tags in all lines of one header; None without a line. Refuses with 400 what is neither
    `*` nor a list of entity tags.
    """
    if not values:
        return None
    text = ",".join(values)
    if text.strip(" \t") == "*":
        return Tags(True)
    if not _TAGS.fullmatch(text):
        raise Refusal(400, f'{header} must be * or entity tags such as "7", in double quotes.')
    found = re.findall(_TAG, text)
    strong = frozenset(tag for weak, tag in found if not weak)
    return Tags(False, strong, frozenset(tag for weak, tag in found if weak))


@dataclass(frozen=True, slots=True)
class Conditions:
    """Both headers of a request. If-Match is checked first (RFC 9110, 13.2.2)."""

    if_match: Tags | None
    if_none_match: Tags | None

    def require(self, version: int | None) -> None:
        """Refuse a change of the present state that a condition does not allow: 412, with the
        present version.
        """
        self.require_match(version)
        if self.if_none_match is not None and self.if_none_match.match_weakly(version):
            raise _failed(version)

    def require_match(self, version: int | None) -> None:
        """The same for a read, by If-Match only."""
        if self.if_match is not None and not self.if_match.match(version):
            raise _failed(version, weak=self.if_match.match_weakly(version))

    def is_unchanged(self, version: int) -> bool:
        """Whether If-None-Match has this version, so that a read is answered with 304."""
        return self.if_none_match is not None and self.if_none_match.match_weakly(version)


def _failed(version: int | None, *, weak: bool = False) -> Refusal:
    if version is None:
        return Refusal(412, "There is no state of this user in this playlist.")
    etag = {"ETag": f'"{version}"'}
    if weak:
        return Refusal(
            412,
            f'If-Match: W/"{version}" never matches, because a weak tag does not say that two '
            f'states are the same (RFC 9110, 13.1.1): send "{version}". A proxy that compresses '
            "answers (as nginx with gzip on) makes tags weak.",
            headers=etag,
        )
    sentence = f"The state exists with another version than the condition allows: {version}."
    return Refusal(412, sentence, headers=etag)


def read_conditions(if_match: list[str], if_none_match: list[str]) -> Conditions:
    """The conditions of a request, from the lines of each header; 400 if one is malformed."""
    return Conditions(read_tags(if_match, "If-Match"), read_tags(if_none_match, "If-None-Match"))
