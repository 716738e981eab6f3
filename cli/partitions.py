"""`tapedeck partitions`: list, create, seal and prune the day partitions."""

from __future__ import annotations

import contextlib
import time
from collections.abc import AsyncIterator, Iterable
from datetime import date
from typing import TYPE_CHECKING, Annotated

import typer

from cli.common import (
    DEFAULT_CONFIG,
    ConfigOption,
    JsonOption,
    fail,
    print_json,
    read_config,
    run,
)

if TYPE_CHECKING:
    from config.model import Sections
    from sharding.partitions.pruner import Janitor, Partition, Pruned
    from sharding.partitions.sealing import Outcome

app = typer.Typer(no_args_is_help=True, help="The day partitions in MySQL.")


@app.command("list")
def list_(config: ConfigOption = DEFAULT_CONFIG, as_json: JsonOption = False) -> None:
    """List the day partitions, with rows, bytes and the day that each is dropped on.

    A sealed day has a filter; the list says how many bytes it has, and, where the gateway answers
    at its admin port, how often it read the day in vain because the filter did not rule a key out.

    Tables that have a partition's name and are not Tapedeck's are no partitions: they are named on
    stderr, and with --json in `foreign` of each partition.

    Example: tapedeck partitions list --json
    """
    sections = read_config(config)
    found, foreign = run(_list(sections))
    _warn(foreign)
    in_vain = _in_vain(sections)
    if as_json:
        shown = [partition.as_json() for partition in found]
        print_json([{**one, "in_vain": in_vain.get(one["day"])} for one in shown])
        return
    from rich.console import Console
    from rich.table import Table

    table = Table("day", "rows", "bytes", "dropped on", "filter bytes", "in vain", box=None)
    for partition in found:
        vain = in_vain.get(f"{partition.day:%Y%m%d}")
        table.add_row(
            str(partition.day),
            f"{partition.rows:,}",
            f"{partition.bytes:,}",
            str(partition.drops_on),
            f"{partition.filter_bytes:,}" if partition.sealed else "not sealed",
            f"{vain:,}" if vain is not None else "",
        )
    Console().print(table)


@app.command()
def create(config: ConfigOption = DEFAULT_CONFIG, as_json: JsonOption = False) -> None:
    """Create today's and tomorrow's partitions (by MySQL's clock) where they are missing.

    The gateway does so by itself; this is for a database that is being set up.

    Example: tapedeck partitions create
    """
    sections = read_config(config)
    days = run(_create(sections))
    if as_json:
        print_json({"days": [f"{day:%Y%m%d}" for day in days]})
    else:
        print("There are partitions for " + " and ".join(str(day) for day in days) + ".")


@app.command()
def seal(
    day: Annotated[
        str | None, typer.Argument(metavar="[DAY]", help="YYYYMMDD; without it all that are due.")
    ] = None,
    again: Annotated[
        bool,
        typer.Option("--again", help="Also if it is sealed: after somebody wrote into it by hand."),
    ] = False,
    config: ConfigOption = DEFAULT_CONFIG,
    as_json: JsonOption = False,
) -> None:
    """Seal days that are over: make the filters that tell which keys are not in them.

    The gateways do so by themselves some minutes after midnight. Refused (status 1) for a day that
    is not over by MySQL's clock, and while another process is sealing.

    Example: tapedeck partitions seal --again 20261019
    """
    from sharding.partitions.calendar import parse_day
    from sharding.partitions.sealing import CannotSeal

    sections = read_config(config)
    wanted = parse_day(day) if day is not None else None
    if day is not None and wanted is None:
        fail(f"{day} is no day: write it as YYYYMMDD")
    if again and wanted is None:
        fail("--again needs a day")
    try:
        outcome = run(_seal(sections, wanted, again))
    except CannotSeal as error:
        fail(f"nothing was sealed: {error}")
    if as_json:
        print_json(
            {
                "sealed": [
                    {
                        "day": f"{one.day:%Y%m%d}",
                        "keys": one.keys,
                        "filter_bytes": one.bytes,
                        "seconds": one.seconds,
                    }
                    for one in outcome.sealed
                ],
                "failed": {f"{one:%Y%m%d}": why for one, why in outcome.failed.items()},
            }
        )
    else:
        for one in outcome.sealed:
            print(
                f"Sealed {one.day}: {one.keys:,} keys, a filter of {one.bytes:,} bytes,"
                f" {one.seconds:.1f} s."
            )
        if not outcome.sealed and not outcome.failed and not outcome.elsewhere:
            print("Nothing is due: what is over is sealed.")
    if outcome.elsewhere:
        fail("nothing was sealed: another process is sealing at the moment; try again later")
    if outcome.failed:
        fail("not sealed: " + "; ".join(f"{one}: {why}" for one, why in outcome.failed.items()))


@app.command()
def prune(
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only say what would be dropped.")
    ] = False,
    force: Annotated[
        bool,
        typer.Option("--force", help="Drop more than a few at once. Clocks that disagree refuse."),
    ] = False,
    config: ConfigOption = DEFAULT_CONFIG,
    as_json: JsonOption = False,
) -> None:
    """Drop the partitions past retention, whole. For cron; the gateway does it by itself too.

    Refused (status 1) unless this machine's clock and MySQL's agree within an hour, and when more
    than a few would go at once.

    Example: tapedeck partitions prune --dry-run
    """
    sections = read_config(config)
    pruned = run(_prune(sections, dry_run, force))
    _warn(pruned.foreign)
    if as_json:
        print_json(
            {
                "past_retention": [f"{day:%Y%m%d}" for day in pruned.plan.days],
                "dropped": [f"{day:%Y%m%d}" for day in pruned.dropped],
                "busy": [f"{day:%Y%m%d}" for day in pruned.busy],
                "refused": pruned.plan.refused or None,
                "dry_run": dry_run,
                "foreign": list(pruned.foreign),
            }
        )
    else:
        _say(pruned, dry_run)
    if pruned.plan.refused:
        fail(f"nothing was dropped: {pruned.plan.refused}")
    if pruned.elsewhere:
        fail("nothing was dropped: another process is pruning at the moment; try again later")
    if pruned.busy:
        days = ", ".join(str(day) for day in pruned.busy)
        fail(f"not dropped, because it is still being read: {days}; try again later")


@app.command("believe-clock")
def believe_clock(config: ConfigOption = DEFAULT_CONFIG, as_json: JsonOption = False) -> None:
    """Say that MySQL's clock is right, to a gateway that does not believe it.

    A gateway serves nothing while MySQL's clock contradicts both its machine's clock and what it
    counted itself, by more than an hour. If a clock is wrong, set that one right instead: the
    gateway then goes on by itself. Tell each gateway, at its own admin port.

    Example: tapedeck partitions believe-clock
    """
    from cli.admin import NoAnswer, admin_url, ask

    sections = read_config(config)
    try:
        told = ask(admin_url(sections), "/partitions/believe-clock", sections, {})
    except NoAnswer as error:
        fail(str(error))
    if as_json:
        print_json(told)
    elif told["was_in_doubt"]:
        print(f"The gateway believes MySQL's clock again: {told['mysql_time']}.")
    else:
        print(f"MySQL's clock was not in doubt; nothing changed: {told['mysql_time']}.")


def _warn(foreign: Iterable[str]) -> None:
    names = ", ".join(foreign)
    if names:
        typer.echo(f"not Tapedeck's, in spite of the name, and left alone: {names}", err=True)


def _say(pruned: Pruned, dry_run: bool) -> None:
    if not pruned.plan.days and not pruned.elsewhere:
        print("No partition is past retention.")
    elif dry_run and not pruned.plan.refused:
        print("Would drop " + _listed(pruned.plan.days) + ".")
    elif pruned.dropped:
        print("Dropped " + _listed(pruned.dropped) + ".")


def _listed(days: tuple[date, ...]) -> str:
    return ", ".join(str(day) for day in days)


@contextlib.asynccontextmanager
async def _janitor(sections: Sections) -> AsyncIterator[Janitor]:
    from failover.mysql.primary import Primary
    from sharding.partitions.calendar import call_tables
    from sharding.partitions.clock import Days
    from sharding.partitions.pruner import Janitor

    call_tables(sections.partitions.prefix)
    days = Days(sections.partitions.retention_days, time.monotonic)
    primary = Primary(sections.mysql, on_hello=days.greeted)
    days.attach(primary)
    await primary.start()
    try:
        yield Janitor(primary, days, sections.partitions)
    finally:
        await primary.close()


def _in_vain(sections: Sections) -> dict[str, int]:
    """By day, what the gateway says; empty where none answers."""
    from cli.admin import NoAnswer, admin_url, ask

    try:
        return {
            one["day"]: one["in_vain"] for one in ask(admin_url(sections), "/partitions", sections)
        }
    except NoAnswer:
        return {}


async def _seal(sections: Sections, day: date | None, again: bool) -> Outcome:
    from sharding.partitions.sealing import Sealer

    async with _janitor(sections) as janitor:
        sealer = Sealer(janitor.primary, janitor.days, sections.partitions)
        return await sealer.seal(day, again=again)


async def _list(sections: Sections) -> tuple[list[Partition], list[str]]:
    async with _janitor(sections) as janitor:
        return await janitor.partitions(), list((await janitor.look()).foreign)


async def _create(sections: Sections) -> tuple[date, date]:
    from sharding.partitions.calendar import tomorrow

    async with _janitor(sections) as janitor:
        await janitor.days.complete()
        today = janitor.days.today()
        return today, tomorrow(today)


async def _prune(sections: Sections, dry_run: bool, force: bool) -> Pruned:
    async with _janitor(sections) as janitor:
        return await janitor.prune(dry_run=dry_run, force=force)
