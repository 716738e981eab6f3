"""A reload, from the request to the last worker. Read it from top to bottom.

1. Read the file, the environment and the command line again.
2. Weigh: values that may change while the process runs (`runtime_config.py`) are merged into the
   present configuration; the others are named in the answer. If keys move, the ring gets a new
   generation.
3. Ask all parts whether they can apply the merged configuration, reach its new lookup nodes, and
   sign in at MySQL if that changes. Nothing has changed so far: a problem ends the reload.
4. Tell all parts to apply it. This cannot fail; a worker that does not apply it is replaced.

A process without workers asks its own parts (`OwnParts`). A supervisor asks its workers
(`Workers`), and each of them asks its own parts (`WorkerReload`).
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
import structlog
from msgspec import UNSET, Struct, UnsetType
from pydantic import ValidationError

from config.load import ConfigError
from config.model import Sections
from config.plain import differences, plain
from failover.blocking_calls import in_thread
from gateway import metrics
from gateway.http.errors import Refusal, encode
from gateway.reload.compare import Outcome, compare, ring_change
from gateway.reload.runtime_config import RuntimeConfig, Source, can_reload
from sharding.backend import Backend
from sharding.ring.placement import alike

_log = structlog.get_logger()


class Step(Struct):
    """The result of weighing: the configuration to apply, its ring's generation, and the answer to
    the request. `force`: apply also what fails now, new lookup nodes or another sign-in at MySQL.
    """

    merged: Sections
    generation: int
    outcome: Outcome
    force: bool = False


class Reload:
    """The procedure, one at a time. Of the parts `ask` changes nothing, and `tell` cannot fail."""

    def __init__(self, live: RuntimeConfig, source: Source, parts: OwnParts | Workers) -> None:
        self._live = live
        self._source = source
        self._parts = parts
        self._one_at_a_time = asyncio.Lock()

    async def reload(self, body: bytes = b"", *, force: bool = False) -> Outcome:
        """Read, weigh, ask, tell.

        Args:
            body: of the request; ignored.
            force: as of Step.

        Raises:
            ConfigError: the configuration has problems; nothing changed.
            Refusal: a worker does not answer; nothing changed.
        """
        async with self._one_at_a_time:
            with _counted():
                step = await self._weighed()
                step.force = force
                await self._parts.ask(step)
                await self._parts.tell(step)
        _log.info("configuration reloaded", **msgspec.to_builtins(step.outcome))
        return step.outcome

    async def check(self, body: bytes) -> Outcome:
        """What a reload of the file, or of the configuration in `body`, would change.

        Raises:
            ConfigError: the configuration has problems; of the file: a reload would be refused.
            Refusal: the body is not a configuration, or a worker does not answer.
        """
        if body:
            return await compare(self._live, body)
        step = await self._weighed()
        await self._parts.ask(step)
        return step.outcome

    async def _weighed(self) -> Step:
        new = await in_thread("reload", self._source.load)
        return await weigh(self._live.config, self._parts.generation, new)

    async def reload_logged(self) -> bool:
        """Reload without a request, such as after SIGHUP: problems go to the log.

        Returns False if the same reload may succeed later.
        """
        try:
            await self.reload()
        except ConfigError:
            pass  # it was logged where it was counted
        except Refusal as refusal:
            _log.error("reload failed", reason=" ".join(refusal.sentences))
            return False
        except Exception:
            _log.exception("reload failed")
        return True

    async def watch(self) -> None:
        """While `reload.on_change` is set, reload after the file, or one that it names, changed.

        A change must be the same in two checks in a row, so that half a file is never read. Runs
        until it is cancelled.
        """
        live, source = self._live, self._source
        known = pending = await in_thread("reload-watch", source.fingerprint)
        while True:
            await asyncio.sleep(live.config.reload.look_every)
            now = await in_thread("reload-watch", source.fingerprint)
            if not live.config.reload.on_change:
                known = pending = now
                continue
            if now == pending != known:
                _log.info("configuration file changed", file=str(source.path))
                if await self.reload_logged():
                    known = now
            pending = now


@contextlib.contextmanager
def _counted() -> Iterator[None]:
    try:
        yield
    except ConfigError as error:
        metrics.RELOADS.labels("refused").inc()
        _log.error("reload refused", source=error.source, problems=error.problems)
        raise
    except BaseException:
        metrics.RELOADS.labels("failed").inc()
        raise
    metrics.RELOADS.labels("applied").inc()


async def weigh(config: Sections, generation: int, new: Sections) -> Step:
    """What a reload would do; changes nothing. `generation` is that of the present ring.

    Raises:
        ConfigError: the new configuration breaks a rule together with values that need a restart.
    """
    names = differences(plain(config), plain(new))
    outcome = Outcome([], [])
    merged = config
    for name in names:
        if not can_reload(name, config):
            outcome.needs_restart.append(name)
            continue
        outcome.changed.append(name)
        section, _, key = name.partition(".")
        value = getattr(getattr(new, section), key)
        part = getattr(merged, section).model_copy(update={key: value})
        merged = merged.model_copy(update={section: part})
    try:
        # New values beside old ones may break a rule that neither configuration breaks.
        Sections.model_validate(plain(merged))
    except ValidationError as error:
        stays = f"(until a restart, this stays as it is: {', '.join(outcome.needs_restart)})"
        sentences = [problem["msg"].removeprefix("Value error, ") for problem in error.errors()]
        raise ConfigError("configuration", [f"{what} {stays}" for what in sentences]) from None
    if merged.lookup.mode == "ring" and not alike(config.lookup, merged.lookup):
        generation += 1
        outcome.ring = await ring_change(config.lookup, merged.lookup)
        outcome.ring.generation = generation
    return Step(merged, generation, outcome)


@dataclass
class OwnParts:
    """The parts of this process: the backend, and the configuration that handlers read."""

    backend: Backend
    live: RuntimeConfig

    @property
    def generation(self) -> int:
        return self.backend.generation

    async def ask(self, step: Step) -> None:
        """Check whether the parts can apply it. Raises ConfigError if something new does not work;
        if the reload is forced, that becomes the outcome's warnings.
        """
        problems = await self.backend.trials(step.merged)
        if problems and step.force:
            step.outcome.warnings = problems
        elif problems:
            hint = (
                "nothing changed. Mend that and reload again, or use `tapedeck reload --force`"
                " (POST /reload?force=1)"
            )
            raise ConfigError("configuration", [f"{problem}; {hint}" for problem in problems])

    async def tell(self, step: Step) -> None:
        """Apply it from the next request on. Requests under way end with the old configuration."""
        self.backend.reload(step.merged, self.backend.plan(step.merged), step.generation)
        self.live.replace(step.merged)
        await self.backend.days.relist()


class Order(Struct):
    """What a supervisor sends to `/reload` of its workers: first it asks all (`apply` is False),
    then it tells all. It contains secrets.
    """

    config: dict[str, Any]
    generation: int
    apply: bool
    force: bool = False


class Taken(Struct, omit_defaults=True):
    """A worker's answer to an order. If `taken` is UNSET it cannot apply the configuration, and
    `errors` say why.
    """

    taken: bool | UnsetType = UNSET
    warnings: Sequence[str] = ()
    errors: Sequence[str] = ("it does not say why",)


@dataclass
class Workers:
    """A supervisor's workers, who start with the configuration of `live`. `send` returns their
    answers by number; `replace` puts a new process in the place of one.
    """

    live: RuntimeConfig
    numbers: Sequence[int]
    send: Callable[[bytes], Awaitable[Mapping[int, Taken]]]
    replace: Callable[[int], None]
    generation: int = 1

    async def ask(self, step: Step) -> None:
        """Check whether all workers can apply it. Raises ConfigError if one cannot, and refuses
        with 503 if one does not answer.
        """
        answers = await self._send_order(step, apply=False)
        for number in self.numbers:
            answer = answers.get(number)
            if answer is None:
                raise Refusal(503, f"Nothing changed: worker {number} does not answer; try again.")
            if answer.taken is UNSET:
                sentences = [one.removeprefix("configuration: ") for one in answer.errors]
                raise ConfigError(f"worker {number}", sentences)
            if answer.warnings:
                step.outcome.warnings = list(answer.warnings)

    async def tell(self, step: Step) -> None:
        """Apply it in all workers, and in those that start from now on."""
        self.live.replace(step.merged)
        self.generation = step.generation
        answers = await self._send_order(step, apply=True)
        for number in self.numbers:
            if number not in answers or answers[number].taken is not True:
                self.replace(number)

    async def _send_order(self, step: Step, *, apply: bool) -> Mapping[int, Taken]:
        order = Order(plain(step.merged), step.generation, apply, step.force)
        return await self.send(encode(order))


@dataclass
class WorkerReload:
    """A worker's part of a reload: it carries out its supervisor's order."""

    parts: OwnParts

    async def reload(self, body: bytes, *, force: bool = False) -> Taken:
        """Carry out the order in `body`; it has `force` too. Raises ConfigError if it cannot."""
        order = msgspec.json.decode(body, type=Order)
        config = Sections.model_validate(order.config)
        step = Step(config, order.generation, Outcome([], []), order.force)
        if order.apply:
            await self.parts.tell(step)
        else:
            await self.parts.ask(step)
        return Taken(order.apply, step.outcome.warnings or ())

    async def check(self, body: bytes) -> Outcome:
        """Refused: only the supervisor has the file."""
        raise Refusal(404, "Ask the supervisor.")
