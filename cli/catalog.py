"""`tapedeck catalog`: bring mixes into MySQL."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Annotated, BinaryIO, Literal

import typer

from cli.common import (
    DEFAULT_CONFIG,
    ConfigOption,
    JsonOption,
    fail,
    print_json,
    run,
)
from config.load import load
from config.model import MySQL

if TYPE_CHECKING:
    from gateway.catalog.importer import Format, Summary

app = typer.Typer(no_args_is_help=True, help="The mixes and their tracks in MySQL.")

SHOWN = 20
"""Most bad lines that are printed; `--json` has all of them."""


@app.callback()
def catalog() -> None:
    """The mixes and their tracks in MySQL."""


@app.command("import")
def import_(
    file: Annotated[
        typer.FileBinaryRead, typer.Argument(metavar="FILE", help="The catalog; - reads stdin.")
    ],
    file_format: Annotated[
        Literal["jsonl", "csv"] | None,
        typer.Option("--format", help="Where the name's ending (.jsonl, .csv) does not tell."),
    ] = None,
    skip_bad: Annotated[
        bool, typer.Option("--skip-bad", help="Import the good mixes even if lines are bad.")
    ] = False,
    config: ConfigOption = DEFAULT_CONFIG,
    as_json: JsonOption = False,
) -> None:
    """Import mixes with their tracks.

    If any line is bad, nothing is imported (but see --skip-bad). A mix that is there already is
    replaced: importing twice is harmless. Running gateways notice within a minute
    (catalog.max_age).

    JSON lines, one mix a line. path, description, tag_list_cache,
    cover_url, release_name, year and url may be missing or null:

    \b
      {"id": 7, "name": "Rags", "slug": "rags", "path": "/ann/rags",
       "description": "Slow ones.", "tag_list_cache": "ragtime, piano",
       "cover_url": "https://.../{size}.jpg",
       "user": {"id": 3, "login": "ann", "slug": "ann"},
       "tracks": [{"id": 70, "name": "Maple Leaf Rag", "year": 1970,
                   "performer": "Joshua Rifkin", "play_duration": 193,
                   "release_name": "Piano Rags", "url": "https://...",
                   "track_file_stream_url": "https://..."}]}

    CSV, one track a row, the rows of a mix together; the columns:

    \b
      id,name,slug,path,description,tag_list_cache,cover_url,user.id,
      user.login,user.slug,track.id,track.name,track.performer,track.release_name,
      track.year,track.url,track.track_file_stream_url,track.play_duration

    Example: tapedeck catalog import mixes.csv --skip-bad
    """
    from gateway.catalog.importer import format_of

    chosen = file_format or format_of(file.name)
    if chosen is None:
        raise typer.BadParameter(
            f"{file.name!r} ends neither in .jsonl nor in .csv: say --format jsonl or csv"
        )
    summary = run(_import(file, chosen, skip_bad, load(config).mysql))
    if as_json:
        print_json(
            {
                "imported": summary.imported,
                "mixes": summary.mixes if summary.imported else 0,
                "tracks": summary.tracks if summary.imported else 0,
                "bad": [{"line": bad.number, "reason": bad.reason} for bad in summary.bad],
            }
        )
    else:
        for bad in summary.bad[:SHOWN]:
            print(f"line {bad.number}: {bad.reason}")
        if len(summary.bad) > SHOWN:
            print(f"... and {len(summary.bad) - SHOWN} more bad lines")
        if summary.imported:
            print(f"Imported {summary.mixes:,} mixes with {summary.tracks:,} tracks.")
    if not summary.imported:
        fail(f"{file.name}: nothing was imported: {_why(summary)}")


def _why(summary: Summary) -> str:
    if not summary.bad:
        return "the file holds no mix"
    first = summary.bad[0]
    lines = "1 line is bad" if len(summary.bad) == 1 else f"{len(summary.bad)} lines are bad"
    way = "mend them or use --skip-bad" if summary.mixes else "and no mix is good"
    return f"{lines} (line {first.number}: {first.reason}); {way}"


async def _import(file: BinaryIO, file_format: Format, skip_bad: bool, mysql: MySQL) -> Summary:
    from rich.console import Console
    from rich.progress import wrap_file

    from failover.mysql.primary import Primary
    from gateway.catalog.csv_file import UnreadableFile
    from gateway.catalog.importer import import_mixes, read

    console, size = Console(stderr=True), os.fstat(file.fileno()).st_size  # 0: it is a pipe
    bar = wrap_file(
        file,
        size,
        description="importing",
        console=console,
        transient=True,
        disable=not (console.is_terminal and size),
    )
    try:
        async with Primary(mysql) as primary:
            with bar as lines:
                return await import_mixes(primary, read(lines, file_format), skip_bad=skip_bad)
    except UnreadableFile as error:
        fail(f"{file.name}: nothing was imported: {error}")
    except OSError as error:
        fail(f"{file.name}: cannot be read: {error}")
