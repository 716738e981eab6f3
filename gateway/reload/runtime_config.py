"""The configuration as it holds right now, and what of it may change while the process runs.

Handlers ask `RuntimeConfig` at each request, so a reload is one assignment. What sockets, pools and
threads were built from cannot follow; a reload names it instead, and it goes on as it was.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import structlog
from pydantic import BaseModel, SecretStr

from config.load import PREFIX, load
from config.model import ClientTls, Limits, Lookup, Sections, ServerTls
from gateway import logs
from gateway.auth.bearer import carries_key, digest_of
from gateway.auth.tokens import TokenKeys

_OF_THE_START = {"mode", "redis_db", "preconnect"}
_OF_A_CLUSTER = {"capacity_every"}
# The parser of each connection is made with these; keep-alive's timer too.
_PARSER = frozenset({"header_bytes", "headers", "keepalive_seconds"})
RELOADABLE = frozenset(
    {
        "admin.allowed_hosts",
        "admin.peers",
        *(f"admin.peers_{key}" for key in ClientTls.model_fields if key != "tls"),
        "admin.token",
        "admin.token_file",
        "auth.service_keys",
        "auth.service_keys_file",
        "auth.token_days",
        "auth.token_keys",
        "auth.token_keys_file",
        "gateway.drain_seconds",
        "gateway.max_requests",
        "log.level",
        *(f"limits.{key}" for key in Limits.model_fields if key not in _PARSER),
        "log.requests",
        *(f"lookup.{name}" for name in Lookup.model_fields if name not in _OF_THE_START),
        "mysql.batch",
        "mysql.connect_timeout",
        "mysql.deadline",
        "mysql.password",
        "mysql.password_file",
        "mysql.statement_timeout",
        "mysql.user",
        "mysql.waiting",
        "partitions.drop_after",
        "partitions.drop_at_most",
        "partitions.filter_bytes",
        "partitions.filter_folder",
        "partitions.prune",
        "partitions.prune_every",
        "partitions.retention_days",
        "partitions.seal",
        "partitions.seal_after",
        "partitions.seal_rate",
        "player.skip_limit",
        "player.skip_window",
        "reload.look_every",
        "reload.on_change",
        "sessions.enabled",
        "sessions.max_bytes",
        "sessions.max_entries",
        "states.max_bytes",
        *(f"{section}.{key}" for section in ("gateway", "admin") for key in ServerTls.model_fields),
        *(f"mysql.{key}" for key in ClientTls.model_fields),
    }
)
"""What a reload applies, for a ring. Everything else needs a restart."""

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
            config.load.ConfigError: with every problem.
        """
        return load(self.path, {**os.environ, **self.overrides})

    @property
    def pinned(self) -> frozenset[str]:
        """The values, `section.key`, that the environment or the command line says: no file
        changes them."""
        variables = {**os.environ, **self.overrides}
        names = (name.removeprefix(PREFIX).lower() for name in variables if name.startswith(PREFIX))
        return frozenset(name.replace("__", ".", 1) for name in names)

    def print_of(self, config: Sections) -> bytes:
        """A fingerprint of the file, and of the files with secrets that `config` names."""
        digest = hashlib.sha256()
        named = (
            value
            for section in Sections.model_fields
            if isinstance(part := getattr(config, section), BaseModel)
            for key in type(part).model_fields
            if (key.endswith("_file") or key == "nutcracker") and (value := getattr(part, key))
        )
        for path in (self.path, *(self.path.parent / name for name in named)):
            try:
                digest.update(path.read_bytes())
            except OSError as error:
                digest.update(repr(error.errno).encode())
        return digest.digest()


class RuntimeConfig:
    """What handlers look at.

    Args:
        config: the configuration at the start; its token keys must be filled in.
        pinned: see Source.

    Attributes:
        config: as it holds now.
        tokens: signs and verifies play tokens.
        followers: called with the configuration after each reload, also one that changed no value:
            the files that it names may hold something else.
    """

    def __init__(self, config: Sections, pinned: frozenset[str] = frozenset()) -> None:
        self.followers: list[Callable[[Sections], None]] = []
        self.pinned = pinned
        self._set(config)

    def take(self, config: Sections) -> None:
        """From now on this holds."""
        self._set(config)
        logs.set_level(config.log.level)
        for follow in self.followers:
            follow(config)

    def _set(self, config: Sections) -> None:
        self.config = config
        self.tokens = TokenKeys(
            [key.get_secret_value().encode() for key in config.auth.token_keys],
            config.auth.token_days * _DAY,
        )
        self._service_keys = [digest_of(key.get_secret_value()) for key in config.auth.service_keys]

    def is_service(self, authorization: str | None) -> bool:
        """Whether the Authorization header carries one of the service keys."""
        return carries_key(authorization, self._service_keys)

    def merged(self, new: Sections) -> tuple[Sections, dict[str, list[str]]]:
        """The configuration that holds, with what of `new` can follow; changes nothing.

        Args:
            new: valid, and filled in like the first one.

        Returns:
            It, and: `changed`, the names of what is new in it; `needs_restart`, of what differs
            still.
        """
        names = sorted(differences(self.config, new))
        changed = [name for name in names if follows(name, self.config)]
        merged = self.config
        for name in changed:
            section, _, key = name.partition(".")
            part = getattr(merged, section)
            value = getattr(getattr(new, section), key)
            merged = merged.model_copy(update={section: part.model_copy(update={key: value})})
        return merged, {
            "changed": changed,
            "needs_restart": [name for name in names if name not in changed],
        }


def follows(name: str, config: Sections) -> bool:
    """Whether a reload applies a value, `section.key`; a cluster is given its limits once."""
    section, _, key = name.partition(".")
    if section == "lookup" and config.lookup.mode == "cluster":
        return key in _OF_A_CLUSTER
    return name in RELOADABLE


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
