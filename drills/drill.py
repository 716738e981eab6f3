"""One drill from its start to its verdict: the stage, the load, the fault, the checker."""

from __future__ import annotations

import asyncio
import json
import random
import secrets
import tempfile
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from drills import circumstances, verdicts
from drills.attached import Attached
from drills.by_hand import NAME as BY_HAND
from drills.checker import Verdict
from drills.client import Client
from drills.gateway import SERVE
from drills.load import Load
from drills.noise import Heartbeat, p99
from drills.result import INTERRUPTED, NOT_STEADY, Result
from drills.scene import Finding, Scenario, Scene
from drills.stage import Stage
from drills.steady import NotSteady, parts, served
from drills.story import Mark, Story


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


class _Interrupted(Exception):
    """A signal asks the drill to end."""


async def run(
    scenario: Scenario,
    options: Options,
    tell: Callable[[Mark], None],
    stop: asyncio.Event | None = None,
) -> Result:
    """Run a drill. Whatever happens, its servers are gone afterwards.

    Args:
        tell: is told what happens, one sentence each; called from several threads.
        stop: once it is set the drill ends as soon as all is mended, without a verdict.

    Raises:
        ServerFailed: the stage could not be set, or a step of the drill failed.
        ConfigError: a configuration of `options.configs` cannot be used.
    """
    stop = stop or asyncio.Event()
    story = Story(tell)
    folder = Path(tempfile.gettempdir()) / f"tapedeck-drill-{secrets.token_hex(4)}"
    machine = circumstances.machine()
    if options.configs:
        plan = None if scenario.name == BY_HAND else scenario.plan
        stage: Stage = Attached(options.configs, plan, story.say)
        story.say(f"the stage is what runs at {stage.targets[0].url}")
    else:
        stage = Stage(folder, scenario.plan, story.say, options.commands)
        story.say("the stage is set: servers and gateways start")
    try:
        # Shielded: a Ctrl-C in the middle must not leave half of the servers running.
        starting = asyncio.create_task(asyncio.to_thread(stage.start))
        try:
            await asyncio.shield(starting)
        except asyncio.CancelledError:
            await asyncio.wait([starting])
            raise
        result = await _on_stage(stage, scenario, options, story, stop)
        found = await asyncio.to_thread(circumstances.versions, stage)
        result.circumstances = {**found, **machine}
        return result
    finally:
        await asyncio.shield(asyncio.to_thread(stage.stop))


async def _on_stage(
    stage: Stage, scenario: Scenario, options: Options, story: Story, stop: asyncio.Event
) -> Result:
    seed = secrets.randbits(32) if options.seed is None else options.seed
    rate = scenario.rate if options.rate is None else options.rate
    async with Client(stage.targets, random.Random(seed), story.now) as client:  # noqa: S311
        steps = 150 if options.long else 40
        load = Load(client, stage.mixes, stage.key, rate, seed, steps, player=stage.player)
        options.watch(client)
        heartbeat = Heartbeat(stage.folder, client.now)
        scene = Scene(stage, client, options.long, story, heartbeat.beats)
        enough = asyncio.Event()
        begin = story.now()
        story.say(f"listeners and writers begin: {rate:g} steps a second")
        loading = asyncio.create_task(load.run(enough))
        playing = asyncio.create_task(_play(scenario, scene, begin))
        heartbeat.start()
        ended: str | None = None
        verdict: Verdict | None = None
        findings: list[Finding] = []
        end: float | None = None
        try:
            await _unless(stop, loading, playing)
            if loading.done():
                await loading  # it ends before the play only by a fault of its own
            await playing
            enough.set()
            end = story.now()
            await _unless(stop, loading)
            await loading
            story.say("every state is read back")
            reading = asyncio.create_task(load.read_back(stage.rows))
            await _unless(stop, reading)
            verdict = await reading
        except NotSteady as error:
            ended, findings = NOT_STEADY, [error.finding]
            story.say(f"not steady, so that nothing is broken: {error}")
        except _Interrupted:
            ended = INTERRUPTED
            story.say("interrupted: the load ends, and what was broken is mended")
        finally:
            for task in (loading, playing):
                task.cancel()
            await asyncio.gather(loading, playing, return_exceptions=True)
            await scene.calls_ended()
            await asyncio.to_thread(heartbeat.stop)
        again = circumstances.command(
            scenario, options.long, rate, seed, [str(path) for path in options.configs]
        )
        return verdicts.build(
            scene,
            Result(
                scenario=scenario,
                command=again,
                began=story.began,
                seed=seed,
                rate=rate,
                begin=begin,
                end=end or story.now(),
                marks=story.marks,
                ended=ended,
                verdict=verdict or Verdict(),
                findings=findings,
                operations=load.operations,
                dropped=load.dropped,
                log_errors=log_errors(stage),
                beats=heartbeat.beats,
            ),
        )


async def _unless(stop: asyncio.Event, *work: asyncio.Task[Any]) -> None:
    """Wait for the first of these to end.

    Raises:
        _Interrupted: the drill is to end before that.
    """
    stopping = asyncio.create_task(stop.wait())
    try:
        await asyncio.wait([*work, stopping], return_when=asyncio.FIRST_COMPLETED)
    finally:
        stopping.cancel()
    if stop.is_set():
        raise _Interrupted


async def _play(scenario: Scenario, scene: Scene, begin: float) -> None:
    """The acts: until all is well, calm, the fault, and after.

    Raises:
        NotSteady: it was not well before the fault.
    """
    client = scene.client
    await scene.wait(1, 4)

    def trouble() -> Finding | None:
        found = (parts(client.readyz, len(client.targets)), _served(scene, begin, 1))
        return next((finding for finding in found if not finding.held), None)

    await scene.until(lambda: trouble() is None, scene.stage.steady_seconds)
    if finding := trouble():
        raise NotSteady(finding)
    if scenario.prepare is not None:
        await scenario.prepare(scene)
    last = client.now() + scene.stage.steady_seconds
    while True:
        scene.calm = client.now()
        scene.mark("calm: what comes now is what it is compared with")
        await scene.wait(2, 15)
        finding = _served(scene, scene.calm, 60)
        if finding.held:
            break
        if not finding.timing or client.now() > last:
            raise NotSteady(finding)
    await scenario.steps(scene)
    await scene.wait(2.5, 15)


def _served(scene: Scene, begin: float, seconds: float) -> Finding:
    """Whether the load was served well in so many seconds up to now, but not before `begin`.

    What the machine itself took is no fault of the stack: see `noise`.
    """
    client, end = scene.client, scene.client.now()
    begin = max(begin, end - seconds)
    readyz = [answer for answer in client.readyz if answer.status]
    machine = p99(readyz, begin, end) + 2 * p99(scene.beats, begin, end)
    return served(client.tries, begin, end, scene.stage.objective_seconds + machine)


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
