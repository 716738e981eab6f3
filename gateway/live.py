"""The configuration as it holds right now, and what of it may change while the process runs.

Handlers ask `Live` at each request, so a reload is one assignment. What sockets, pools and threads
were built from cannot follow; a reload names it instead, and it goes on as it was.
"""

from __future__ import annotations

import hashlib
import hmac
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import structlog
from pydantic import BaseModel, SecretStr

from tapedeck.config.load import load
from tapedeck.config.model import Sections
from tapedeck.gateway import logs
from tapedeck.gateway.tokens import TokenKeys

FOLLOWS = frozenset(
    {
        "auth.service_keys",
        "auth.service_keys_file",
        "auth.token_days",
        "auth.token_keys",
        "auth.token_keys_file",
        "gateway.drain_seconds",
        "gateway.max_requests",
        "log.level",
        "log.requests",
        "player.skip_limit",
        "player.skip_window",
        "states.max_bytes",
    }
)
"""What a reload applies. Everything else needs a restart."""

_DAY = 86_400
_log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Source:
    """Where the configuration comes from, so that it can be read again the same way.

    Attributes:
        path: the file.
        overrides: what the command line said, as `TAPEDECK_...` variables; laid over everything.
    """

    path: Path
    overrides: Mapping[str, str]

    def load(self) -> Sections:
        """Read it.

        Raises:
            tapedeck.config.load.ConfigError: with every problem.
        """
        return load(self.path, {**os.environ, **self.overrides})


class Live:
    """What handlers look at.

    Args:
        config: the configuration at the start; its token keys must be filled in.

    Attributes:
        config: as it holds now.
        tokens: signs and verifies play tokens.
    """

    def __init__(self, config: Sections) -> None:
        self._set(config)

    def _set(self, config: Sections) -> None:
        self.config = config
        self.tokens = TokenKeys(
            [key.get_secret_value().encode() for key in config.auth.token_keys],
            config.auth.token_days * _DAY,
        )
        self._service_keys = [_digest(key.get_secret_value()) for key in config.auth.service_keys]

    def is_service(self, authorization: str | None) -> bool:
        """Whether the Authorization header carries one of the service keys."""
        return bearer_matches(authorization, self._service_keys)

    def reload(self, new: Sections, *, apply: bool = True) -> dict[str, list[str]]:
        """Take over from `new` what can follow.

        Args:
            new: valid, and filled in like the first one.
            apply: False only says what would happen.

        Returns:
            `changed`: the names of what holds from now on; `needs_restart`: of what differs still.
        """
        names = sorted(differences(self.config, new))
        changed = [name for name in names if name in FOLLOWS]
        if apply and changed:
            merged = self.config
            for name in changed:
                section, _, key = name.partition(".")
                part = getattr(merged, section)
                value = getattr(getattr(new, section), key)
                merged = merged.model_copy(update={section: part.model_copy(update={key: value})})
            self._set(merged)
            logs.set_level(merged.log.level)
        return {
            "changed": changed,
            "needs_restart": [name for name in names if name not in FOLLOWS],
        }


def differences(old: Sections, new: Sections) -> set[str]:
    """The names, `section.key`, of values that differ."""
    found = set()
    for section in Sections.model_fields:
        before, after = getattr(old, section), getattr(new, section)
        if not isinstance(before, BaseModel):
            if before != after:
                found.add(section)
            continue
        for key in type(before).model_fields:
            if getattr(before, key) != getattr(after, key):
                found.add(f"{section}.{key}")
    return found


def with_token_keys(config: Sections, key: str) -> Sections:
    """`config`, with `key` for signing play tokens where it has none (local mode)."""
    if config.auth.token_keys:
        return config
    auth = config.auth.model_copy(update={"token_keys": (SecretStr(key),)})
    return config.model_copy(update={"auth": auth})


def revealed(value: Any) -> Any:
    """Plain data with the secrets in it, to hand to a process of our own; never to a log."""
    if isinstance(value, SecretStr):
        return value.get_secret_value()
    if isinstance(value, BaseModel):
        return {name: revealed(getattr(value, name)) for name in type(value).model_fields}
    if isinstance(value, (list, tuple)):
        return [revealed(part) for part in value]
    return value


def masked(value: Any) -> Any:
    """Plain data with `***` in the place of secrets."""
    if isinstance(value, SecretStr):
        return "***" if value.get_secret_value() else ""
    if isinstance(value, BaseModel):
        return {name: masked(getattr(value, name)) for name in type(value).model_fields}
    if isinstance(value, (list, tuple)):
        return [masked(part) for part in value]
    return value


def bearer_matches(authorization: str | None, digests: list[bytes]) -> bool:
    """Whether `Authorization: Bearer KEY` carries a key with one of these digests.

    The time that it takes depends on the number of keys alone.
    """
    scheme, _, key = (authorization or "").partition(" ")
    if scheme.lower() != "bearer":
        return False
    given = _digest(key.strip())
    found = False
    for digest in digests:
        found |= hmac.compare_digest(given, digest)
    return found


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).digest()


bearer_digest = _digest
