"""`tapedeck partitions`: list, create, seal and prune the day partitions."""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable, Iterable
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from msgspec import structs

from cli.common import (
    DEFAULT_CONFIG,
    ConfigOption,
    JsonOption,
    Result,
    fail,
    print_json,
    print_table,
    run,
)
from cli.fleet import Fleet, answered, ask_each, asks_gateways, fail_for, with_urls
from config.load import load
from config.model import Sections

if TYPE_CHECKING:
    from sharding.partitions.pruner import Pruner
    from sharding.partitions.shown import Partition

app = typer.Typer(no_args_is_help=True, help="The day partitions in MySQL.")


@app.command("list")
def list_(config: ConfigOption = DEFAULT_CONFIG, as_json: JsonOption = False) -> None:
    """List the day partitions: rows, bytes, when each is dropped.

    For a sealed day the list has the size of its filter in bytes and, if the gateway answers at its
    admin port, how often the day was read in vain because the filter did not rule a key out.

    Foreign tables (they have a partition's name and are not Tapedeck's) are named on stderr, and
    with --json in `foreign` of each partition.

    Example: tapedeck partitions list --json
    """
    from sharding.partitions.calendar import parse_day
    from sharding.partitions.ownership import list_tables

    sections = load(config)

    async def look(pruner: Pruner) -> tuple[list[Partition], Iterable[str]]:
        return await pruner.partitions(), (await list_tables(pruner.primary.fetch)).foreign

    found, foreign = _with_pruner(sections, look)
    _warn(foreign)
    in_vain = _in_vain(config)
    if as_json:
        print_json([{**structs.asdict(one), "in_vain": in_vain.get(one.day)} for one in found])
        return
    rows = []
    for partition in found:
        vain = in_vain.get(partition.day)
        rows.append(
            (
                str(parse_day(partition.day)),
                f"{partition.rows:,}",
                f"{partition.bytes:,}",
                str(parse_day(partition.drops_on)),
                f"{partition.filter_bytes:,}" if partition.sealed else "not sealed",
                f"{vain:,}" if vain is not None else "",
            )
        )
    print_table(("day", "rows", "bytes", "dropped on", "filter bytes", "in vain"), rows)


@app.command()
def create(config: ConfigOption = DEFAULT_CONFIG, as_json: JsonOption = False) -> None:
    """Create today's and tomorrow's partitions if they are missing.

    The days are those of MySQL's clock. Gateways do so by themselves; use this to set up a
    database.

    Example: tapedeck partitions create
    """
    from sharding.partitions.calendar import tomorrow

    async def complete(pruner: Pruner) -> date:
        await pruner.days.complete()
        return pruner.days.today()

    today = _with_pruner(load(config), complete)
    days = (today, tomorrow(today))
    if as_json:
        print_json({"days": days})
    else:
        print(f"There are partitions for {days[0]} and {days[1]}.")


@app.command()
def seal(
    day: Annotated[
        str | None, typer.Argument(metavar="[DAY]", help="YYYYMMDD or YYYY-MM-DD; else all due.")
    ] = None,
    again: Annotated[
        bool,
        typer.Option("--again", help="Also if it is sealed: after a write into it by hand."),
    ] = False,
    config: ConfigOption = DEFAULT_CONFIG,
    as_json: JsonOption = False,
) -> None:
    """Seal days that are over.

    It makes a filter of their keys, so that other keys need no read. Gateways do so by themselves
    some minutes after midnight. The command fails (status 1) for a day that is not over by MySQL's
    clock, and while another process is sealing.

    Example: tapedeck partitions seal --again 20261019
    """
    from sharding.partitions.calendar import parse_day
    from sharding.partitions.sealing import CannotSeal, Outcome, Sealer

    sections = load(config)
    wanted = parse_day(day.replace("-", "")) if day is not None else None
    if day is not None and wanted is None:
        fail(f"{day} is no day: write it as YYYYMMDD or YYYY-MM-DD")
    if again and wanted is None:
        fail("--again needs a day")

    def carry_out(pruner: Pruner) -> Awaitable[Outcome]:
        sealer = Sealer(pruner.primary, pruner.days, sections.partitions)
        return sealer.seal(wanted, again=again)

    try:
        outcome = _with_pruner(sections, carry_out)
    except CannotSeal as error:
        fail(f"nothing was sealed: {error}")
    if as_json:
        failed = {f"{one:%Y%m%d}": why for one, why in outcome.failed.items()}
        print_json({"sealed": outcome.sealed, "failed": failed})
    else:
        for one in outcome.sealed:
            print(
                f"Sealed {one.day}: {one.keys:,} keys, a filter of {one.filter_bytes:,} bytes,"
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
    """Drop the partitions past retention. Gateways do it by themselves; this is for cron.

    The command fails (status 1) unless this machine's clock and MySQL's agree within an hour, and
    if it would drop more than a few partitions at once.

    Example: tapedeck partitions prune --dry-run
    """
    pruned = _with_pruner(load(config), lambda pruner: pruner.prune(dry_run=dry_run, force=force))
    _warn(pruned.foreign)
    if as_json:
        print_json(
            {
                "past_retention": pruned.plan.days,
                "dropped": pruned.dropped,
                "busy": pruned.busy,
                "refused": pruned.plan.refused or None,
                "dry_run": dry_run,
                "foreign": pruned.foreign,
            }
        )
    elif not pruned.plan.days and not pruned.elsewhere:
        print("No partition is past retention.")
    elif dry_run and not pruned.plan.refused:
        print(f"Would drop {_listed(pruned.plan.days)}.")
    elif pruned.dropped:
        print(f"Dropped {_listed(pruned.dropped)}.")
    if pruned.plan.refused:
        fail(f"nothing was dropped: {pruned.plan.refused}")
    if pruned.elsewhere:
        fail("nothing was dropped: another process is pruning at the moment; try again later")
    if pruned.busy:
        fail(
            f"not dropped, because it is still being read: {_listed(pruned.busy)}; try again later"
        )


@app.command("believe-clock")
@asks_gateways
def believe_clock(fleet: Fleet, as_json: JsonOption = False) -> None:
    """Tell gateways that doubt MySQL's clock that it is right.

    A gateway serves no request while MySQL's clock differs by more than an hour both from its
    machine's clock and from the time that it counted itself. If a clock is wrong, set it right
    instead: the gateway then continues by itself.

    Example: tapedeck partitions believe-clock
    """
    from sharding.partitions.shown import BelievedClock

    path = "/partitions/believe-clock"
    answers = ask_each(fleet.gateways(), lambda port: port.ask(path, BelievedClock, method="POST"))
    told = answered(answers)
    if as_json:
        print_json(with_urls(told))
    else:
        for url, clock in told:
            done = "trusted again" if clock.was_in_doubt else "not in doubt; nothing changed"
            print(f"{url}: MySQL's clock is {done}: {clock.mysql_time}.")
    fail_for(answers, "were not told")


def _warn(foreign: Iterable[str]) -> None:
    names = ", ".join(foreign)
    if names:
        typer.echo(f"not Tapedeck's, in spite of the name, and left alone: {names}", err=True)


def _listed(days: tuple[date, ...]) -> str:
    return ", ".join(str(day) for day in days)


def _with_pruner(sections: Sections, work: Callable[[Pruner], Awaitable[Result]]) -> Result:
    """Run `work` with a Pruner that is connected to MySQL."""
    from failover.mysql.primary import Primary
    from sharding.partitions.calendar import call_tables
    from sharding.partitions.days import Days
    from sharding.partitions.pruner import Pruner

    async def carry_out() -> Result:
        call_tables(sections.partitions.prefix)
        primary = Primary(sections.mysql, lambda status: days.observe(status.clock_ms))
        days = Days(primary, sections.partitions.retention_days)
        async with primary:
            return await work(Pruner(primary, days, sections.partitions))

    return run(carry_out())


def _in_vain(config: Path) -> dict[str, int]:
    """By day, what the gateways count together; empty where none answers."""
    from sharding.partitions.shown import Partition

    gateways = Fleet(config=config).gateways()
    counted = Counter[str]()
    for _, listed in answered(
        ask_each(gateways, lambda port: port.ask("/partitions", list[Partition]))
    ):
        counted.update({one.day: one.in_vain for one in listed})
    return counted
