"""Drills of sealing: whatever happens to it, no state is taken for absent that is there."""

from __future__ import annotations

import asyncio
import subprocess
from collections.abc import Sequence
from datetime import date

import aiohttp

from drills.midnight import DAY, before_midnight, shift_to_midnight
from drills.scene import Promise, Scenario, Scene
from drills.stage import Plan
from sharding.partitions.calendar import table, utc_day, yesterday
from sharding.partitions.sql import create_table
from sharding.state import Owner

_FIRST_USER = 1_000_000_000_000_000
_STATES = 20_000
"""Of yesterday, which the load leaves alone: each must be found after the day was sealed."""
_SEAL_SECONDS = 60.0


def _yesterday(scene: Scene) -> date:
    today = scene.stage.query("SELECT UTC_DATE()")[0][0]
    assert isinstance(today, date)
    return yesterday(today)


def _seal(scene: Scene, *words: str) -> subprocess.Popen[str]:
    """Begin to seal yesterday, as an operator does."""
    stage, day = scene.stage, f"{_yesterday(scene):%Y%m%d}"
    return stage.gateways[0].begin("partitions", "seal", day, *words, env=stage.clock_shift())


async def _sealed(scene: Scene) -> None:
    """Seal yesterday, and have every gateway use its filter."""
    said = ""

    def seal() -> bool:
        nonlocal said
        with _seal(scene) as sealing:
            said = sealing.communicate(timeout=_SEAL_SECONDS)[0].strip()
        return sealing.returncode == 0

    done = await scene.until(seal, _SEAL_SECONDS)
    scene.expect("yesterday is sealed", done, said[-200:])
    for gateway in scene.stage.gateways:
        await scene.do(gateway.reload, "partitions")
    wanted = len(scene.stage.gateways)
    known = await scene.until(lambda: scene.stage.metric("tapedeck_filter_days") >= wanted, 20)
    scene.expect("every gateway has the filter", known, f"{wanted} gateways")
    scene.mark("yesterday is sealed, and every gateway has its filter")


def _keys(scene: Scene, name: str) -> set[tuple[int, int]]:
    return {
        (user, mix) for user, mix in scene.stage.query(f"SELECT user_id, playlist_id FROM {name}")
    }


async def _past_midnight(scene: Scene) -> None:
    midnight = await scene.do(shift_to_midnight, scene, 1.5)
    await asyncio.sleep(midnight - scene.client.now())
    scene.mark("midnight, UTC")
    await scene.wait(1, 5)


async def _clock_back(scene: Scene) -> None:
    await _past_midnight(scene)
    await _sealed(scene)
    today = utc_day(scene.stage.clock_now())
    sealed = table(yesterday(today))
    before = await scene.do(_keys, scene, sealed)
    new_before = await scene.do(_keys, scene, table(today))
    back = scene.pick(5, 20)

    def step_back() -> None:
        scene.stage.shift_clock(-(scene.stage.clock_now() % DAY) - back)

    await scene.inject(f"MySQL's clock steps back to {back:g} s before midnight", step_back)
    await asyncio.sleep(back - 1)
    after = await scene.do(_keys, scene, sealed)
    new = await scene.do(_keys, scene, table(today)) - new_before
    await asyncio.sleep(2)
    await scene.heal("it is past midnight again", lambda: None)
    scene.expect(
        "no state gets into the sealed day; new ones are made in the day after it",
        after <= before and bool(new),
        f"new in {sealed}: {len(after - before)}, in {table(today)}: {len(new)}",
    )


async def _sealer_killed(scene: Scene) -> None:
    await _past_midnight(scene)
    kills = int(scene.pick(5, 20))
    for number in range(kills):
        with _seal(scene, "--again") as sealing:
            # From before its first statement to its last one: a run takes about two seconds.
            await asyncio.sleep(0.4 + 2.0 * number / kills)
            await scene.inject("the process that seals is killed", sealing.kill)
    await scene.heal("it is started again", lambda: None)
    await _sealed(scene)


def _yesterdays_states(scene: Scene) -> None:
    day = _yesterday(scene)
    primary = scene.stage.primary
    with primary.connect("tapedeck", timeout=20) as connection:
        cursor = connection.cursor()
        cursor.execute(create_table(day))
        for begin in range(0, _STATES, 1000):
            values = ",".join(
                f"({_FIRST_USER + user},1,1,{int(Owner.STATES_API)},'{{}}','')"
                for user in range(begin, begin + 1000)
            )
            cursor.execute(
                f"INSERT INTO {table(day)} (user_id,playlist_id,version,owner,state,operations)"
                f" VALUES {values}"
            )
        connection.commit()


async def _with_yesterday(scene: Scene) -> None:
    """A partition of yesterday, with states of listeners who do nothing now."""
    await scene.do(_yesterdays_states, scene)
    for gateway in scene.stage.gateways:
        await scene.do(gateway.reload, "partitions")


async def _all_found(scene: Scene) -> None:
    """Read every state of yesterday, at all gateways in turn."""
    targets = scene.stage.targets
    headers = {"Authorization": f"Bearer {scene.stage.key}"}
    statuses: list[int] = []

    async def read(session: aiohttp.ClientSession, users: Sequence[int]) -> None:
        for user in users:
            url = f"{targets[user % len(targets)].url}/states/{_FIRST_USER + user}/1"
            async with session.get(url, headers=headers) as answer:
                statuses.append(answer.status)

    async with aiohttp.ClientSession() as session:
        await asyncio.gather(*(read(session, range(n, _STATES, 32)) for n in range(32)))
    found = statuses.count(200)
    scene.expect(
        "every state of the sealed day is found", found == _STATES, f"{found} of {_STATES}"
    )


async def _failover(scene: Scene) -> None:
    pair = scene.stage.pair
    assert pair is not None
    old = pair.primary
    with _seal(scene) as sealing:
        await scene.wait(1.5, 1.5)
        await scene.inject(f"{old.name}, the primary, is killed during a seal", old.kill)
        came = await scene.until(lambda: pair.primary.name != old.name, 20)
        scene.outage_over(f"{pair.primary.name} is the primary")
        said = (await scene.do(sealing.communicate))[0].strip()
        scene.mark(f"the command says: {said[-120:]}")
    scene.expect("the standby is promoted", came, f"the primary is {pair.primary.name}")
    await scene.heal(f"{old.name} is started again", lambda: pair.start_server(old.name))
    await _sealed(scene)
    await _all_found(scene)


_CALENDAR = {"seal": False, "seal_rate": 200}
"""The drills seal by hand, so slowly that something can happen meanwhile."""

SEAL_DRILLS = (
    Scenario(
        "sealed-clock-back",
        "MySQL's clock steps back over midnight after the day was sealed",
        Promise(),
        _clock_back,
        Plan(
            clock="before midnight",
            config={"partitions": {"seal": False}, "sessions": {"enabled": False}},
        ),
        prepare=before_midnight,
    ),
    Scenario(
        "sealing-killed",
        "what seals the day is killed at every step of it",
        Promise(),
        _sealer_killed,
        Plan(
            clock="before midnight",
            config={"partitions": _CALENDAR, "sessions": {"enabled": False}},
        ),
        prepare=before_midnight,
    ),
    Scenario(
        "sealing-failover",
        "the MySQL primary is killed while yesterday is sealed",
        Promise(latency="outage"),
        _failover,
        Plan(mysql="pair", config={"partitions": {"seal": False, "seal_rate": 4000}}),
        prepare=_with_yesterday,
    ),
)
