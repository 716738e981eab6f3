"""A configuration as plain data: to pass it on, to show it, to compare it with another one."""

from __future__ import annotations

import hmac
from collections.abc import Callable, Mapping
from typing import Any

from pydantic import BaseModel, SecretStr


def plain(value: Any, of_secret: Callable[[str], Any] = str) -> Any:
    """Sections as dictionaries, tuples as lists.

    Args:
        of_secret: replaces each secret. By default the data contains the secrets themselves: pass
            it only to the gateway's own processes, never to a log.
    """
    if isinstance(value, SecretStr):
        return of_secret(value.get_secret_value())
    if isinstance(value, BaseModel):
        return {name: plain(getattr(value, name), of_secret) for name in type(value).model_fields}
    if isinstance(value, (list, tuple)):
        return [plain(part, of_secret) for part in value]
    return value


def masked(config: BaseModel) -> Any:
    """Plain data with `***` instead of secrets."""
    return plain(config, lambda secret: "***" if secret else "")


def veiled(config: BaseModel, nonce: str) -> Any:
    """Plain data with salted digests instead of secrets, to compare with secrets that one has."""

    def digest(secret: str) -> dict[str, str]:
        text = secret.encode("utf-8", "surrogateescape")
        return {"secret": hmac.new(nonce.encode(), text, "sha256").hexdigest() if secret else ""}

    return plain(config, digest)


def differences(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> list[str]:
    """The names (`section.key`) of the values that differ between two configurations."""
    found = []
    for section in {*ours, *theirs}:
        before, after = ours.get(section), theirs.get(section)
        if isinstance(before, dict) and isinstance(after, dict):
            keys = {*before, *after}
            found += [f"{section}.{key}" for key in keys if before.get(key) != after.get(key)]
        elif before != after:
            found.append(section)
    return sorted(found)
