"""What a reload changes, and how a configuration that `tapedeck check-config --against` sends
differs from the present one."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

import msgspec
from msgspec import UNSET, Struct, UnsetType

from config.model import Lookup
from config.plain import differences, veiled
from gateway.http.errors import Refusal
from gateway.reload.runtime_config import RuntimeConfig, can_reload
from sharding.ring import placement
from sharding.ring.placement import PLACING, alike


class RingChange(Struct):
    """A change of the ring: the share of the keys that move, by `placement.moved`, and a phrase for
    each change of a node.
    """

    moved: float
    changes: list[str]
    generation: int | UnsetType = UNSET


class Outcome(Struct):
    """What a reload changes: the names of values, `section.key`, and the ring.

    Attributes:
        warnings: what does not work and was taken all the same, since the reload was forced.
    """

    changed: list[str]
    needs_restart: list[str]
    ring: RingChange | UnsetType = UNSET
    warnings: list[str] | UnsetType = UNSET


async def ring_change(before: Lookup, after: Lookup) -> RingChange:
    """What a change of placement does to the keys."""
    # In a thread: it hashes for a while, and listeners must not wait.
    share = await asyncio.to_thread(placement.moved, before, after)
    return RingChange(round(share, 4), placement.differences(before, after))


class Question(Struct):
    """The body of POST /reload/check: a configuration to compare with the present one, as
    `config.plain.veiled` returned it for this `nonce`.
    """

    config: dict[str, Any]
    nonce: str


class Comparison(Outcome, kw_only=True):
    """The differences; `overridden` ones are set by the gateway's environment or command line.
    `values` has old and new values that are not secret.
    """

    overridden: list[str]
    values: dict[str, list[Any]]


async def compare(live: RuntimeConfig, body: bytes) -> Comparison:
    """Compare the configuration in a request's body with the present one. Refuses with 400 a body
    that is no configuration.
    """
    try:
        question = msgspec.json.decode(body, type=Question)
        theirs = question.config
        ours = veiled(live.config, question.nonce)
        names = differences(ours, theirs)
        before, lookup = live.config.lookup, theirs["lookup"]
        after = Lookup.model_validate({word: lookup[word] for word in PLACING})
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError):
        raise Refusal(400, "This is no configuration as tapedeck check-config sends it.") from None
    if not theirs.get("auth", {}).get("token_keys") and live.config.mode == "local":
        names = [name for name in names if name != "auth.token_keys"]  # each process has its own
    free = [name for name in names if name not in live.pinned]
    answer = Comparison(
        changed=[name for name in free if can_reload(name, live.config)],
        needs_restart=[name for name in free if not can_reload(name, live.config)],
        overridden=[name for name in names if name in live.pinned],
        values={
            name: [_value(ours, name), _value(theirs, name)]
            for name in names
            if not _is_secret(_value(ours, name)) and not _is_secret(_value(theirs, name))
        },
    )
    ring = live.config.lookup.mode == theirs["lookup"].get("mode") == "ring"
    if ring and not alike(before, after):
        answer.ring = await ring_change(before, after)
    return answer


def _value(plain_config: Mapping[str, Any], name: str) -> Any:
    section, _, key = name.partition(".")
    value = plain_config.get(section)
    return value.get(key) if key and isinstance(value, dict) else value


def _is_secret(value: Any) -> bool:
    values = value if isinstance(value, list) else [value]
    return any(isinstance(part, dict) and "secret" in part for part in values)
