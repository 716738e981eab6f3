"""The `tapedeck` command. Each group of commands has a file of its own beside this one.

Exit status: 0, 1 (it failed; one line on stderr says why), 2 (usage).
"""

from __future__ import annotations

import importlib
import sys
from importlib.util import find_spec
from typing import Annotated

import typer

from cli.check_config import check_config
from cli.common import Failed
from cli.importing import export, import_
from cli.serve import serve

app = typer.Typer(
    name="tapedeck",
    help="Keeps the place of every listener in every playlist.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command()(serve)
app.command("check-config")(check_config)

# A module is either a group (it has `app`) or one command (a function of its name).
for _name in ("up", "stack", "catalog", "ring", "partitions", "drill"):
    if find_spec(f"cli.{_name}") is not None:
        _module = importlib.import_module(f"cli.{_name}")
        if hasattr(_module, "app"):
            app.add_typer(_module.app, name=_name)
        else:
            app.command(_name)(getattr(_module, _name))


app.command("import")(import_)
app.command()(export)


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
    except Failed as error:
        _fail(str(error))
    except Exception as error:
        # By name: importing the class would load pydantic before anybody asked for it.
        if type(error).__name__ != "ConfigError":
            raise
        _fail(str(error))


def _fail(reason: str) -> None:
    print(f"tapedeck: {' '.join(reason.split())}", file=sys.stderr)
    sys.exit(1)
