"""`tapedeck ring clean`: removing what nodes no longer own."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from tapedeck.cli.common import (
    DEFAULT_CONFIG,
    ConfigOption,
    JsonOption,
    fail,
    print_json,
    read_config,
    run,
)


def clean(
    config: ConfigOption = DEFAULT_CONFIG,
    node: Annotated[
        list[str] | None,
        typer.Option(
            "--node", metavar="HOST:PORT", help="A node that left the ring, to clean too; repeat."
        ),
    ] = None,
    flat: Annotated[
        bool,
        typer.Option(
            "--flat", help="Also in the flat layout, which others may read by their ring."
        ),
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would be removed; remove nothing.")
    ] = False,
    rate: Annotated[
        float, typer.Option("--rate", min=1, help="Entries a second that are looked at.")
    ] = 5_000,
    as_json: JsonOption = False,
) -> None:
    """Remove the entries that a node no longer owns, after a reload and the copying that follows.

    An entry goes only if the ring of the configuration gives it to another node and that node has
    it. Nothing else does: not what is no lookup entry, nor an entry that was not copied yet.

    Example: tapedeck ring clean --dry-run
    """
    from tapedeck.config.load import ConfigError, parse
    from tapedeck.sharding.cleaning import Cleaner, Unsafe

    sections = read_config(config)
    if sections.lookup.mode == "cluster":
        fail("a Redis Cluster moves and removes its keys itself")
    if sections.lookup.layout == "flat" and not flat:
        fail(
            "the layout is flat: an application on twemproxy may still read these entries by its "
            "own ring; say --flat if none does"
        )
    former = []
    for address in node or []:
        try:
            given = parse({"lookup": {"servers": [f"{address}:1 {address}"]}, "mysql": _NOWHERE})
        except ConfigError:
            fail(f"{address!r} is not HOST:PORT")
        former.append(given.lookup.servers[0])

    async def work() -> list[dict[str, Any]]:
        return await Cleaner(sections, former, rate=rate, dry_run=dry_run).run(_say_progress)

    try:
        cleaned = run(work())
    except Unsafe as error:
        fail(str(error))
    if as_json:
        print_json({"dry_run": dry_run, "nodes": cleaned})
        return
    verb = "would be removed" if dry_run else "removed"
    for one in cleaned:
        problem = f"; stopped: {one['problem']}" if one["problem"] else ""
        print(
            f"{one['address']}: {one['removed']:,} {verb} of {one['scanned']:,} entries,"
            f" {one['kept']:,} kept since their owner does not have them{problem}"
        )
    if any(one["problem"] for one in cleaned):
        raise typer.Exit(1)


_NOWHERE = {"hosts": ["127.0.0.1:1"], "user": "nobody"}


def _say_progress(text: str) -> None:
    typer.echo(text, err=True)
