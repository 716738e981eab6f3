"""A reload, thought through before anything changes: what follows, what does not, what moves."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import hmac
from collections.abc import Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import msgspec
import structlog
from prometheus_client import Counter
from pydantic import BaseModel, SecretStr

from config.load import ConfigError
from config.model import Sections
from failover.aside import aside
from gateway.http.errors import Refusal
from gateway.reload.runtime_config import RuntimeConfig, Source, follows
from sharding.ring import placement
from sharding.ring.placement import Placement

RELOADS = Counter(
    "tapedeck_reloads",
    "Reloads of the configuration: applied, refused (it has problems), failed",
    ["result"],
)
_log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Step:
    """What a reload would do.

    Attributes:
        merged: the configuration that would hold.
        generation: of the ring: one more, if it is another one.
        outcome: the answer to who asked for it.
    """

    merged: Sections
    generation: int
    outcome: dict[str, Any]


class Question(msgspec.Struct):
    """The body of POST /reload/check: a configuration to compare with the one that holds.

    Attributes:
        config: as `veiled` makes it.
        nonce: with which it was made.
    """

    config: dict[str, Any]
    nonce: str


async def weigh(live: RuntimeConfig, generation: int, new: Sections) -> Step:
    """Think a reload through; changes nothing.

    Raises:
        ConfigError: no ring can be made of it.
    """
    merged, outcome = live.merged(new)
    before, after = Placement.of(live.config.lookup), Placement.of(merged.lookup)
    answer: dict[str, Any] = dict(outcome)
    if merged.lookup.mode == "ring" and before.fingerprint != after.fingerprint:
        generation += 1
        answer["ring"] = {"generation": generation, **await _ring(before, after)}
    return Step(merged, generation, answer)


async def compare(live: RuntimeConfig, body: bytes) -> dict[str, Any]:
    """What differs between a configuration that somebody asks about and the one that holds.

    Raises:
        Refusal: the question cannot be read.
        ConfigError: no ring can be made of the configuration.
    """
    try:
        question = msgspec.json.decode(body, type=Question)
        theirs = question.config
        ours = veiled(live.config, question.nonce)
        names = sorted(_differences(ours, theirs))
        before, after = Placement.of(live.config.lookup), Placement.from_json(theirs["lookup"])
    except (msgspec.DecodeError, KeyError, TypeError, ValueError, AttributeError):
        raise Refusal(400, "This is no configuration as tapedeck check-config sends it.") from None
    if not theirs.get("auth", {}).get("token_keys") and live.config.mode == "local":
        names = [name for name in names if name != "auth.token_keys"]  # the process makes one up
    answer: dict[str, Any] = {
        "changed": [n for n in names if follows(n, live.config) and n not in live.pinned],
        "needs_restart": [n for n in names if not follows(n, live.config) and n not in live.pinned],
        "overridden": [n for n in names if n in live.pinned],
        "values": {
            name: [_value(ours, name), _value(theirs, name)]
            for name in names
            if not _secret(ours, name) and not _secret(theirs, name)
        },
    }
    ring = live.config.lookup.mode == theirs["lookup"].get("mode") == "ring"
    if ring and before.fingerprint != after.fingerprint:
        answer["ring"] = await _ring(before, after)
    return answer


async def _ring(before: Placement, after: Placement) -> dict[str, Any]:
    try:
        # In a thread: it takes some hashing, and listeners wait for nothing.
        moved = await asyncio.to_thread(placement.moved, before, after)
    except ValueError as error:
        raise ConfigError("configuration", [f"lookup.servers: {error}"]) from None
    return {
        "moves": round(moved.share, 4),
        "ideal": round(moved.ideal, 4),
        "changes": placement.differences(before, after),
    }


@contextlib.contextmanager
def counted() -> Iterator[None]:
    """Count a reload by how it ends."""
    try:
        yield
    except ConfigError:
        RELOADS.labels("refused").inc()
        raise
    except BaseException:
        RELOADS.labels("failed").inc()
        raise
    RELOADS.labels("applied").inc()


async def reload_logged(reloading: Awaitable[object]) -> bool:
    """Await a reload that nobody waits for, as after SIGHUP: its problems go to the log.

    Returns:
        Whether it came to an end; False if the same reload may succeed later.
    """
    try:
        await reloading
    except ConfigError as error:
        _log.error("reload_refused", source=error.source, problems=error.problems)
    except Refusal as refusal:
        _log.error("reload_failed", reason=" ".join(refusal.sentences))
        return False
    except Exception:
        _log.exception("reload_failed")
    return True


async def watch(
    source: Source, live: RuntimeConfig, reload: Callable[[], Awaitable[object]]
) -> None:
    """While `reload.on_change` is set, reload whenever the file, or one that it names, has changed
    and stays the same for one look more: nobody reads half a file. Runs until it is cancelled."""
    known = pending = await aside("reload-watch", lambda: source.print_of(live.config))
    while True:
        await asyncio.sleep(live.config.reload.look_every)
        now = await aside("reload-watch", lambda: source.print_of(live.config))
        if not live.config.reload.on_change:
            known = pending = now
            continue
        if now == pending != known:
            _log.info("configuration_changed", file=str(source.path))
            if await reload_logged(reload()):
                known = now
        pending = now


def veiled(value: Any, nonce: str) -> Any:
    """Plain data in which secrets can be compared, by who has them, and not read."""
    if isinstance(value, SecretStr):
        text = value.get_secret_value()
        digest = hmac.new(nonce.encode(), text.encode("utf-8", "surrogateescape"), hashlib.sha256)
        return {"secret": digest.hexdigest() if text else ""}
    if isinstance(value, BaseModel):
        return {name: veiled(getattr(value, name), nonce) for name in type(value).model_fields}
    if isinstance(value, (list, tuple)):
        return [veiled(part, nonce) for part in value]
    return value


def _differences(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> Iterator[str]:
    for section in {*ours, *theirs}:
        before, after = ours.get(section), theirs.get(section)
        if not isinstance(before, dict) or not isinstance(after, dict):
            if before != after:
                yield section
            continue
        for key in {*before, *after}:
            if before.get(key) != after.get(key):
                yield f"{section}.{key}"


def _value(plain: Mapping[str, Any], name: str) -> Any:
    section, _, key = name.partition(".")
    value = plain.get(section)
    return value.get(key) if key and isinstance(value, dict) else value


def _secret(plain: Mapping[str, Any], name: str) -> bool:
    value = _value(plain, name)
    values = value if isinstance(value, list) else [value]
    return any(isinstance(part, dict) and "secret" in part for part in values)
