"""The present configuration, and which values may change while the process runs.

Handlers read `RuntimeConfig` at each request, so a reload is one assignment. Values that sockets,
pools and threads were built from stay until a restart; a reload names them.
"""

from __future__ import annotations

import hashlib
import os
import secrets
import socket
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from pydantic import SecretStr

from config.load import load, named_files
from config.mistakes import PREFIX
from config.model import Sections
from config.reading import Unreadable, read_text
from config.values import join_address
from gateway import logs
from gateway.auth.bearer import carries_key, digest_of
from gateway.auth.tokens import TokenKeys

NEEDS_RESTART = frozenset(
    {
        "mode",
        "admin.host",
        "admin.port",
        "catalog.max_age",
        "catalog.max_mixes",
        "gateway.host",
        "gateway.port",
        "gateway.workers",
        # The parser and the keep-alive timer of each connection are created with these.
        "limits.header_bytes",
        "limits.headers",
        "limits.keepalive_seconds",
        "lookup.mode",
        "lookup.preconnect",
        "lookup.redis_db",
        "mysql.connections",
        "mysql.database",
        "mysql.hosts",
        "mysql.public_key",
        "partitions.prefix",
    }
)
"""Values that sockets, pools and threads were built from. A reload applies all others of a ring."""
_DAY = 86_400


@dataclass(frozen=True, slots=True)
class Source:
    """The sources of the configuration, to read it again in the same way.

    Attributes:
        path: the file.
        overrides: the command line's values, as `TAPEDECK_...` variables; they override all others.
        own_key: signs play tokens if the configuration has no key (local mode): such tokens are
            valid until this process ends.
    """

    path: Path
    overrides: Mapping[str, str]
    own_key: str = field(default_factory=lambda: secrets.token_hex(32), repr=False)

    def load(self) -> Sections:
        """Read the configuration. A ConfigError has every problem."""
        return with_token_keys(load(self.path, {**os.environ, **self.overrides}), self.own_key)

    def uses_own_key(self, config: Sections) -> bool:
        """Whether play tokens are signed with `own_key`."""
        return [key.get_secret_value() for key in config.auth.token_keys] == [self.own_key]

    @property
    def pinned(self) -> frozenset[str]:
        """The names, `section.key`, of values that the environment or the command line sets: the
        file cannot change them."""
        variables = {**os.environ, **self.overrides}
        names = (name.removeprefix(PREFIX).lower() for name in variables if name.startswith(PREFIX))
        return frozenset(name.replace("__", ".", 1) for name in names)

    def fingerprint(self) -> bytes:
        """A fingerprint of the file, and of the files that it or the environment names."""
        text = _text_or_why_not(self.path)  # a sentence of why not names no files
        named = named_files(self.path, text, {**os.environ, **self.overrides})
        return hashlib.sha256(repr([text, *map(_text_or_why_not, named)]).encode()).digest()


class RuntimeConfig:
    """The present configuration, for handlers. It must have token keys.

    Attributes:
        tokens: signs and verifies play tokens.
        followers: called with the configuration after each reload, even if no value changed: the
            contents of files that it names may have.
    """

    def __init__(self, config: Sections, pinned: frozenset[str] = frozenset()) -> None:
        self.followers: list[Callable[[Sections], None]] = []
        self.pinned = pinned
        self._set(config)

    @property
    def name(self) -> str:
        """What other gateways and people call this one: `host:port` of its own port."""
        gateway = self.config.gateway
        host = socket.gethostname() if gateway.host in ("0.0.0.0", "::") else gateway.host  # noqa: S104
        return join_address(host, gateway.port)

    def replace(self, config: Sections) -> None:
        self._set(config)
        logs.set_level(config.log.level)
        for follow in self.followers:
            follow(config)

    def _set(self, config: Sections) -> None:
        self.config = config
        self.tokens = TokenKeys(
            [key.get_secret_value().encode() for key in config.auth.token_keys],
            config.auth.token_days * _DAY,
            adopt=config.auth.adopt_tokens,
        )
        self._service_keys = [digest_of(key.get_secret_value()) for key in config.auth.service_keys]

    def is_service(self, authorization: str | None) -> bool:
        return carries_key(authorization, self._service_keys)


def _text_or_why_not(path: Path) -> str:
    try:
        return read_text(path)
    except Unreadable as error:
        return str(error)


def can_reload(name: str, config: Sections) -> bool:
    """Whether a reload applies a value, `section.key`. A cluster's client gets its limits once."""
    if name.startswith("lookup.") and config.lookup.mode == "cluster":
        return name == "lookup.capacity_every"
    return name not in NEEDS_RESTART


def with_token_keys(config: Sections, key: str) -> Sections:
    """`config`, with `key` for signing play tokens if it has none (local mode)."""
    if config.auth.token_keys:
        return config
    auth = config.auth.model_copy(update={"token_keys": (SecretStr(key),)})
    return config.model_copy(update={"auth": auth})
