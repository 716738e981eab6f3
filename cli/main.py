"""The `tapedeck` command. Each group of commands is a file beside this one.

Exit status: 0, 1 (it failed; one line on stderr says why), 2 (usage).
"""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from cli import (
    catalog,
    check_config,
    drain,
    drill,
    events,
    importing,
    partitions,
    reload,
    ring,
    serve,
    stack,
    status,
    up,
)
from cli.common import Failed
from config.load import ConfigError

app = typer.Typer(
    name="tapedeck",
    help="Keeps the place of every listener in every playlist.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for _command in (up.up, serve.serve, drill.drill, importing.export):
    app.command()(_command)
for _remote in (status.status, status.metrics, events.events, reload.reload, drain.drain):
    app.command()(_remote)
app.command("import")(importing.import_)
app.command("check-config")(check_config.check_config)
for _group in (stack, catalog, ring, partitions):
    app.add_typer(_group.app, name=_group.__name__.removeprefix("cli."))


def _show_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        typer.echo(f"tapedeck {version('tapedeck-player-gateway')}")
        raise typer.Exit


@app.callback()
def tapedeck(
    _version: Annotated[
        bool,
        typer.Option("--version", help="Say which version this is.", callback=_show_version),
    ] = False,
) -> None:
    """Keeps the place of every listener in every playlist."""


def main() -> None:
    """Entry point of the `tapedeck` command."""
    try:
        app()
    except (Failed, ConfigError, OSError) as error:
        said = str(error)
        if isinstance(error, OSError):
            if error.filename is None:
                raise  # a fault of ours: those of the network are caught where they arise
            said = f"{error.filename}: {error.strerror}"
        print(f"tapedeck: {' '.join(said.split())}", file=sys.stderr)
        sys.exit(1)
