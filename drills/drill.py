"""One drill from its start to its verdict: the stage, the load, the fault, the checker."""

from __future__ import annotations

import asyncio
import json
import random
import secrets
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from drills import verdicts
from drills.attached import Attached
from drills.by_hand import NAME as BY_HAND
from drills.client import Client
from drills.gateway import SERVE
from drills.load import Load
from drills.noise import Heartbeat
from drills.result import Result
from drills.scene import Mark, Scenario, Scene
from drills.stage import Stage

Tell = Callable[[str], None]


@dataclass(frozen=True)
class Options:
    """How a drill is run.

    Attributes:
        long: at length.
        rate: steps a second; None: the scenario's.
        seed: of the load's choices; None: a new one.
        commands: see Stage.
        configs: of the gateways of a stack that runs already; without one the drill sets a stage
            of its own.
        watch: is given the client once the load begins, to show its numbers while it runs.
    """

    long: bool = False
    rate: float | None = None
    seed: int | None = None
    commands: Sequence[Sequence[str]] = (SERVE,)
    configs: Sequence[Path] = ()
    watch: Callable[[Client], None] = lambda _: None


async def run(scenario: Scenario, options: Options, tell: Tell) -> Result:
    """Run a drill. Whatever happens, its servers are gone afterwards.

    Args:
        tell: is told what happens, one sentence each; called from several threads.

    Raises:
        ServerFailed: the stage could not be set, or a step of the drill failed.
        ConfigError: a configuration of `options.configs` cannot be used.
    """
    folder = Path(tempfile.gettempdir()) / f"tapedeck-drill-{secrets.token_hex(4)}"
    keeper: list[tuple[float, str]] = []

    def said(text: str) -> None:
        keeper.append((time.monotonic(), text))
        tell(text)

    if options.configs:
        stage: Stage = Attached(
            options.configs, None if scenario.name == BY_HAND else scenario.plan, said
        )
        tell(f"the stage is what runs at {stage.targets[0].url}")
    else:
        stage = Stage(folder, scenario.plan, said, options.commands)
        tell("the stage is set: servers and gateways start")
    try:
        # Shielded: a Ctrl-C in the middle must not leave half a stage behind.
        starting = asyncio.create_task(asyncio.to_thread(stage.start))
        try:
            await asyncio.shield(starting)
        except asyncio.CancelledError:
            await asyncio.wait([starting])
            raise
        return await _on_stage(stage, scenario, options, tell, keeper)
    finally:
        await asyncio.shield(asyncio.to_thread(stage.stop))


async def _on_stage(
    stage: Stage,
    scenario: Scenario,
    options: Options,
    tell: Tell,
    keeper: list[tuple[float, str]],
) -> Result:
    seed = secrets.randbits(32) if options.seed is None else options.seed
    rate = scenario.rate if options.rate is None else options.rate
    began = datetime.now(UTC)
    async with Client(stage.targets, random.Random(seed)) as client:  # noqa: S311
        start = time.monotonic() - client.now()
        load = Load(client, stage.mixes, stage.key, rate, seed, steps=150 if options.long else 40)
        options.watch(client)
        scene = Scene(stage, client, options.long, tell)
        stop = asyncio.Event()
        tell(f"listeners and writers begin: {rate:g} steps a second")
        loading = asyncio.create_task(load.run(stop))
        playing = asyncio.create_task(_play(scenario, scene))
        heartbeat = Heartbeat(stage.folder, client.now)
        heartbeat.start()
        try:
            await asyncio.wait([loading, playing], return_when=asyncio.FIRST_COMPLETED)
            if loading.done():
                await loading  # it ends before the play only by a fault of its own
            calm = await playing
            stop.set()
            end = client.now()
            await loading
            tell("every state is read back")
            verdict = await load.judge(stage.rows)
        finally:
            for task in (loading, playing):
                task.cancel()
            await asyncio.gather(loading, playing, return_exceptions=True)
            await asyncio.to_thread(heartbeat.stop)
        scene.marks += [Mark(at - start, text) for at, text in keeper if at >= start]
        scene.marks.sort()
        return verdicts.build(
            scene,
            scenario,
            verdict,
            calm=calm,
            end=end,
            began=began,
            seed=seed,
            rate=rate,
            dropped=load.dropped,
            log_errors=log_errors(stage),
            beats=heartbeat.beats,
        )


async def _play(scenario: Scenario, scene: Scene) -> float:
    """The acts: warm-up, calm, the fault, and after. Returns when the calm began."""
    await scene.wait(1.5, 4)
    if scenario.prepare is not None:
        await scenario.prepare(scene)
    calm = scene.client.now()
    scene.mark("calm: what comes now is what it is compared with")
    await scene.wait(2, 15)
    await scenario.steps(scene)
    await scene.wait(2.5, 15)
    return calm


def log_errors(stage: Stage) -> dict[str, int]:
    """The events that gateways logged as errors, and how often."""
    found: Counter[str] = Counter()
    for gateway in stage.gateways:
        for line in gateway.log.read_text(errors="replace").splitlines():
            if '"error"' not in line and "Traceback" not in line:
                continue
            try:
                entry = json.loads(line)
            except ValueError:
                found[line.strip()[:100]] += 1
                continue
            if entry.get("level") in ("error", "critical"):
                found[str(entry.get("event"))] += 1
    return dict(found)
