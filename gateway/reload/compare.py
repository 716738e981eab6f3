"""A configuration in a question, as `tapedeck check-config --against` sends it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec
from msgspec import Struct

from config.plain import differences, veiled
from gateway.http.errors import Refusal
from gateway.reload.outcome import Outcome, ring_change
from gateway.reload.runtime_config import RuntimeConfig, can_follow
from sharding.ring.placement import Placement


class Question(Struct):
    """The body of POST /reload/check: a configuration to compare with the one that holds.

    Attributes:
        config: as `config.plain.veiled` makes it.
        nonce: with which it was made.
    """

    config: dict[str, Any]
    nonce: str


class Comparison(Outcome, kw_only=True):
    """How it differs.

    Attributes:
        overridden: what differs, but is said by the environment or command line of the gateway.
        values: old and new of what is no secret.
    """

    overridden: list[str]
    values: dict[str, list[Any]]


async def compare(live: RuntimeConfig, body: bytes) -> Comparison:
    """What differs between the configuration in a question and the one that holds.

    Raises:
        Refusal: the question cannot be read.
        ConfigError: no ring can be made of the configuration.
    """
    try:
        question = msgspec.json.decode(body, type=Question)
        theirs = question.config
        ours = veiled(live.config, question.nonce)
        names = differences(ours, theirs)
        before, after = Placement.of(live.config.lookup), Placement.from_json(theirs["lookup"])
    except (msgspec.DecodeError, KeyError, TypeError, ValueError, AttributeError):
        raise Refusal(400, "This is no configuration as tapedeck check-config sends it.") from None
    if not theirs.get("auth", {}).get("token_keys") and live.config.mode == "local":
        names = [name for name in names if name != "auth.token_keys"]  # the process makes one up
    free = [name for name in names if name not in live.pinned]
    answer = Comparison(
        changed=[name for name in free if can_follow(name, live.config)],
        needs_restart=[name for name in free if not can_follow(name, live.config)],
        overridden=[name for name in names if name in live.pinned],
        values={
            name: [_value(ours, name), _value(theirs, name)]
            for name in names
            if not _is_secret(_value(ours, name)) and not _is_secret(_value(theirs, name))
        },
    )
    ring = live.config.lookup.mode == theirs["lookup"].get("mode") == "ring"
    if ring and before.fingerprint != after.fingerprint:
        answer.ring = await ring_change(before, after)
    return answer


def _value(plain_config: Mapping[str, Any], name: str) -> Any:
    section, _, key = name.partition(".")
    value = plain_config.get(section)
    return value.get(key) if key and isinstance(value, dict) else value


def _is_secret(value: Any) -> bool:
    values = value if isinstance(value, list) else [value]
    return any(isinstance(part, dict) and "secret" in part for part in values)
