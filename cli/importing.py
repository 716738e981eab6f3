"""`tapedeck import` and `tapedeck export`: listeners' places from another system, and back."""

from __future__ import annotations

import atexit
import contextlib
import gc
import os
import sys
from datetime import UTC, date, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cli.common import DEFAULT_CONFIG, ConfigOption, JsonOption, fail, print_json, run, some
from config.load import load

if TYPE_CHECKING:
    from cli.import_verify import Found
    from config.model import Sections
    from failover.mysql.primary import Primary
    from sharding.importing.exporting import Written
    from sharding.importing.mapping import Map
    from sharding.importing.run import Run
    from sharding.importing.sources import Source

AT_ONCE = 1000
"""Mixes that the catalog is asked for by one statement."""

FromOption = Annotated[
    str,
    typer.Option("--from", help="mysql:// or redis:// address, or a .csv or .jsonl file."),
]
MapOption = Annotated[Path, typer.Option("--map", help="The map file.", metavar="FILE")]
TablesOption = Annotated[
    str, typer.Option("--tables", help="Tables' names, as player_data_%Y%m%d, or one name.")
]
SinceOption = Annotated[
    str | None,
    typer.Option(
        "--since", help="Only what changed since: YYYY-MM-DD, or YYYY-MM-DDTHH:MM:SS (UTC)."
    ),
]
UserOption = Annotated[
    list[int] | None, typer.Option("--user", help="Only this user's states; several times.")
]


def import_(
    source: FromOption,
    map_file: MapOption,
    tables: TablesOption = "",
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Write nothing; say what would be done.")
    ] = False,
    verify: Annotated[
        bool, typer.Option("--verify", help="Write nothing; compare with what a gateway answers.")
    ] = False,
    url: Annotated[
        str, typer.Option("--url", help="With --verify: the gateway; else the configuration's.")
    ] = "",
    sample: Annotated[
        int, typer.Option(min=1, help="With --verify: about one state of so many.")
    ] = 1,
    since: SinceOption = None,
    user: UserOption = None,
    rate: Annotated[float, typer.Option(min=0, help="Rows a second at most; 0: no bound.")] = 0,
    leave_open: Annotated[
        bool,
        typer.Option("--leave-open", help="Days stay open for the next import, and unsealed."),
    ] = False,
    config: ConfigOption = DEFAULT_CONFIG,
    as_json: JsonOption = False,
) -> None:
    """Import listeners' places from another system.

    Each goes into the partition of its own day. A state that Tapedeck has changed since stays as it
    is, so the command may be repeated: it continues an interrupted run, and a later run imports
    what is new. Bad rows are added to MAP.rejects. After 10,000 rows, a run over everything takes
    only CPU that no other process wants. With --user the days that it writes into stay open, as
    with --leave-open.

    A map gives the column, SQL expression or field for each meaning:

    \b
      user: user_id
      playlist: playlist_id
      day: updated_at         # unless the table's name says it
      updated: updated_at     # for --since
      player:                 # or `body:`, a JSON object for the states API
        played: tracks_played # ids, as a JSON list or with commas
        skips: skipped_at     # times, likewise
        at_end: ended
        listened: listened
        reported: reported?   # a field that some records lack (files and Redis)

    Example: tapedeck import --from mysql://app@db/app --tables 'player_%Y%m%d' --map map.yml
    """
    from sharding.importing.sources import BadSource
    from sharding.importing.target import Refused
    from sharding.partitions.sealing import CannotSeal

    sections = load(config)
    reading, said = _source(source, tables, map_file, since, user)
    os.nice(10)  # a gateway on this machine comes first
    rejects = map_file.with_name(map_file.name + ".rejects")
    work = _run(sections, reading, rate, rejects)
    try:
        if verify:
            found = run(_verify(sections, work, url, sample))
        else:
            lacking = _carry_out(sections, work, map_file, said, dry_run, leave_open or bool(user))
    except (BadSource, Refused, CannotSeal) as error:
        begun = any(work.counts.values()) and not (dry_run or verify)
        fail(f"{error}{'; the same command continues where this one ended' * begun}")
    if verify:
        _tell_differences(work, found, as_json)
        return
    if as_json:
        sampled = [_shown(step) for step in work.sample]
        print_json({**work.counts, "sample": sampled, "mixes_not_in_catalog": lacking})
    else:
        for step in work.sample if dry_run else ():
            print(_line(step))
        print(("Would be: " if dry_run else "") + _counted(work) + ".")
        if lacking:
            mixes = "1 mix" if len(lacking) == 1 else f"{len(lacking):,} mixes"
            print(
                f"The catalog lacks {mixes} ({some(lacking)}): until they are there, the Player"
                " answers 404 for these places."
            )
    if work.rejected:
        left = "1 bad row was" if work.rejected == 1 else f"{work.rejected:,} bad rows were"
        fail(
            f"{left} left out: the end of {rejects} names {'it' if work.rejected == 1 else 'them'}."
            f" The first: {work.first_rejected}"
        )


def _source(
    source: str, tables: str, map_file: Path, since: str | None, users: list[int] | None
) -> tuple[Source, str]:
    from sharding.importing.sources import BadSource, open_source

    mapped = _map(map_file)
    when = _time(since)
    try:
        found = open_source(source, tables, mapped, when, tuple(users or ()))
    except (BadSource, ValueError) as error:
        fail(f"--from: {error}")
    return found, f"{source} {tables} {map_file.read_text()}"


def _time(since: str | None) -> datetime | None:
    """The time of --since, in UTC."""
    try:
        when = datetime.fromisoformat(since) if since else None
    except ValueError:
        fail(f"--since {since}: write it as YYYY-MM-DD, or YYYY-MM-DDTHH:MM:SS")
    if when is None or when.tzinfo is None:
        return when and when.replace(tzinfo=UTC)
    return when.astimezone(UTC)


def _map(path: Path) -> Map:
    from config.reading import Unreadable, read_text
    from sharding.importing.mapping import BadMap, read_map

    try:
        return read_map(read_text(path))
    except (Unreadable, BadMap) as error:
        fail(f"{path}: {error}")


def _run(sections: Sections, source: Source, rate: float, rejects: Path) -> Run:
    from gateway.player.rules import body_of
    from sharding.importing.run import Run

    def tell(line: str) -> None:
        print(line, file=sys.stderr, flush=True)

    def reject(line: str) -> None:  # another run with this map may be adding lines too
        with rejects.open("a", encoding="utf-8") as file:
            file.write(line)

    # A run with --since or --user is what listeners wait for.
    waited_for = source.since is not None or source.users
    give_way = (lambda: None) if waited_for else _give_way
    return Run(source, body_of, rate, reject, tell, sections.states.max_bytes, give_way)


AUTOGROUP = Path("/proc/self/autogroup")
"""The niceness of this process's session beside other sessions: sched(7), "The autogroup
feature"."""


def _give_way() -> None:
    """From now on this process takes only CPU that no other process on its machine wants, and
    collects garbage more seldom.

    Linux compares sessions before it compares their processes, so the session is made the nicest
    too, until this process ends.
    """
    gc.freeze()
    gc.set_threshold(20_000, 20, 50)
    if sys.platform == "linux":
        with contextlib.suppress(OSError):  # this kernel does not group by session
            atexit.register(_set_session_niceness, AUTOGROUP.read_text().split()[-1])
            _set_session_niceness("19")
        for thread in os.listdir("/proc/self/task"):
            with contextlib.suppress(OSError):  # it has ended meanwhile, or a sandbox forbids it
                os.sched_setscheduler(int(thread), os.SCHED_IDLE, os.sched_param(0))


def _set_session_niceness(niceness: str) -> None:
    with contextlib.suppress(OSError):  # a sandbox forbids it
        AUTOGROUP.write_text(niceness)


def _carry_out(
    sections: Sections, work: Run, map_file: Path, said: str, dry: bool, leave_open: bool
) -> list[int]:
    """Import; return the mixes that the catalog lacks."""
    from sharding.importing.run import Done

    whole = not dry and work.source.since is None and not work.source.users
    done = Done(map_file.with_name(map_file.name + ".progress"), said) if whole else None
    lacking = run(_import(sections, work, done, dry, not leave_open))
    if done is not None:
        done.over()
    return lacking


async def _import(sections: Sections, work: Run, done: Any, dry: bool, close: bool) -> list[int]:
    from failover.mysql.primary import Primary
    from sharding.partitions.calendar import call_tables

    call_tables(sections.partitions.prefix)
    async with Primary(sections.mysql) as primary:
        retention = sections.partitions.retention_days
        await work.into(primary, retention, done, dry=dry, close=close)
        return await _lacking(primary, sorted(work.mixes))


async def _lacking(primary: Primary, mixes: list[int]) -> list[int]:
    """Which of these mixes the catalog lacks."""
    from failover.mysql.errors import Fault, MySQLError
    from gateway.catalog.tables import read_ids

    there: set[int] = set()
    try:
        for first in range(0, len(mixes), AT_ONCE):
            asked = mixes[first : first + AT_ONCE]
            there.update([int(row[0]) for row in await primary.fetch(read_ids(len(asked)), asked)])
    except MySQLError as error:
        if error.fault is not Fault.NO_TABLE:
            raise
    return [mix for mix in mixes if mix not in there]


async def _verify(sections: Sections, work: Run, url: str, sample: int) -> Found:
    from cli.import_verify import Asking, differences
    from sharding.backend import Backend

    async with (
        await Backend.open(sections, prune=False) as backend,
        Asking(sections, url) as asking,
    ):
        return await differences(work, backend, asking, sample)


def _tell_differences(work: Run, found: Found, as_json: bool) -> None:
    differing, lacking = found.differences, found.lacking
    if as_json:
        told = {"differences": differing, "lacking": lacking}
        print_json({"compared": dict(work.counts), **told})
    else:
        for one in differing + lacking:
            print(f"user {one['user']}, playlist {one['playlist']}: {one['what']}")
        print(f"Compared: {_counted(work)}.")
    problems = []
    if differing:
        states = "1 state differs" if len(differing) == 1 else f"{len(differing):,} states differ"
        problems.append(f"{states} from what the source says")
    if lacking:
        states = "1 state is" if len(lacking) == 1 else f"{len(lacking):,} states are"
        problems.append(
            f"{states} as in the source, but the catalog lacks mixes or tracks of places:"
            " bring them with tapedeck catalog import"
        )
    if problems:
        fail("; ".join(problems))


def _counted(work: Run) -> str:
    said = [
        f"{n:,} {'bad row' if (what, n) == ('bad rows', 1) else what}"
        for what, n in sorted(work.counts.items())
    ]
    return ", ".join(said) or "0 rows"


def _shown(step: Any) -> dict[str, Any]:
    """A record as the Player or the states API will read it."""
    import msgspec

    record, state = step.record, msgspec.json.decode(step.record.body)
    shown = {
        "user": record.key.user_id,
        "playlist": record.key.playlist_id,
        "partition": f"{record.day:%Y%m%d}",
        "outcome": step.outcome,
    }
    if record.owner != 1:
        return {**shown, "body": state}
    played = state.get("played", [])
    at_end = state.get("at_end", False)
    return {
        **shown,
        "track": None if at_end or not played else played[-1],
        "at_end": at_end,
        "tracks_played": played,
        "skips": [
            datetime.fromtimestamp(one, UTC).isoformat(timespec="seconds")
            for one in state.get("skips", [])
        ],
        "listened": state.get("listened", False),
    }


def _line(step: Any) -> str:
    shown = _shown(step)
    where = f"user {shown['user']}, playlist {shown['playlist']}, partition {shown['partition']}"
    if "body" in shown:
        return f"{where}: {shown['outcome']}"
    at = "at the end" if shown["at_end"] else f"track {shown['track']}"
    return (
        f"{where}: {at}, {len(shown['tracks_played'])} played, {len(shown['skips'])} skips"
        f" ({shown['outcome']})"
    )


def export(
    to: Annotated[Path, typer.Option("--to", help="A .sql, .csv or .jsonl file.")],
    map_file: MapOption,
    tables: TablesOption = "",
    since: SinceOption = None,
    user: UserOption = None,
    config: ConfigOption = DEFAULT_CONFIG,
) -> None:
    """Write the states as the system that they came from has them.

    Columns have the names in the map; for an expression, the name of its meaning. A .sql file has
    statements that insert or change rows in the tables of the states' days. A map with `player:`
    exports the Player's states, one with `body:` the states API's. --since writes only the days
    from then on, which have every later change.

    Example: tapedeck export --to back.sql --tables 'player_%Y%m%d' --map map.yml
    """
    from sharding.importing.exporting import KINDS, write

    mapped = _map(map_file)
    if to.suffix not in KINDS:
        fail(f"--to {to}: its name ends in .sql, .csv or .jsonl")
    if to.suffix == ".sql" and not tables:
        fail("say for which tables the statements are: --tables 'player_data_%Y%m%d'")
    when = _time(since)
    first = when.date() if when else None
    sections = load(config)
    with to.open("w", encoding="utf-8", newline="") as file:
        count = run(_export(sections, file, write, to.suffix, mapped, tables, first, user))
    print(f"Wrote {_states(count.states)} to {to}.")
    if count.left_out:
        whose, other = "the Player", "player"
        if "body" not in mapped.columns:
            whose, other = "the states API", "body"
        print(
            f"Left out {_states(count.left_out)} of {whose}, for which this map has no column:"
            f" export them with a map that has `{other}:`."
        )


def _states(number: int) -> str:
    return "1 state" if number == 1 else f"{number:,} states"


async def _export(
    sections: Sections,
    file: Any,
    write: Any,
    kind: str,
    mapped: Map,
    tables: str,
    first: date | None,
    user: list[int] | None,
) -> Written:
    from sharding.backend import Backend

    backend = Backend(sections)

    async def days() -> list[date]:
        await backend.days.refresh()
        return [day for day in backend.days.readable() if first is None or day >= first]

    async with backend.primary as primary:
        users = tuple(user or ())
        count: Written = await write(file, primary.fetch, kind, mapped, tables, days, users)
    return count
