"""`tapedeck stack`: show the running local stack, stop and start its servers."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from cli.common import ConfigOption, JsonOption, fail, print_json, print_table
from config.load import LOCAL_CONFIG

app = typer.Typer(no_args_is_help=True, help="The servers of the stack that `tapedeck up` runs.")


Name = Literal["lookup1", "lookup2", "lookup3", "mysql1", "mysql2", "mysql3", "gateway"]
ServerName = Annotated[Name, typer.Argument(help="The server.", show_default=False)]


@app.command()
def status(config: ConfigOption = LOCAL_CONFIG, as_json: JsonOption = False) -> None:
    """Show the servers, which one is primary, and its standby.

    A server is running, frozen (by SIGSTOP), stopped (by `tapedeck stack stop`), or dead: it ended
    otherwise.

    Example: tapedeck stack status --json
    """
    answer = _ask(config, do="status")
    if as_json:
        print_json(answer)
        return
    rows = []
    for name, server in answer["servers"].items():
        colour = "green" if server["state"] == "running" else "red"
        words = (server["pid"] or "-", server["port"], server.get("role", ""))
        rows.append((name, f"[{colour}]{server['state']}[/]", *(str(word) for word in words)))
    print_table(("server", "state", "pid", "port", "role"), rows)
    mysql = answer["mysql"]
    said = [
        f"{mysql['engine']}: {mysql['primary']} is the primary (generation {mysql['generation']})",
        "redundant" if mysql["redundant"] else "[red]NOT redundant[/]",
    ]
    if "online" in mysql:
        said.append(f"members online: {mysql['online']}")
    else:
        said.append(f"semi-sync {'on' if mysql['semi_sync'] else 'OFF'}")
        said.append(f"standby: {mysql['standby']}")
    from rich.console import Console

    Console(highlight=False).print(f"\n{'; '.join(said)}", soft_wrap=True)


@app.command()
def stop(
    name: ServerName, config: ConfigOption = LOCAL_CONFIG, as_json: JsonOption = False
) -> None:
    """Stop a server; it stays stopped. For the primary another one takes over.

    Example: tapedeck stack stop lookup2
    """
    _order(config, as_json, do="stop", name=name)


@app.command()
def start(
    name: ServerName, config: ConfigOption = LOCAL_CONFIG, as_json: JsonOption = False
) -> None:
    """Start a stopped or killed server. An old primary becomes a standby, or a secondary.

    Example: tapedeck stack start mysql1
    """
    _order(config, as_json, do="start", name=name)


@app.command()
def promote(
    force: Annotated[
        bool,
        typer.Option("--force", help="Also if changes that were acknowledged are lost by it."),
    ] = False,
    config: ConfigOption = LOCAL_CONFIG,
    as_json: JsonOption = False,
) -> None:
    """Make the standby, or another member of the group, the primary.

    The old primary, if it runs, becomes the standby.

    Example: tapedeck stack promote
    """
    _order(config, as_json, do="promote", force=force)


def _order(config: Path, as_json: bool, **request: object) -> None:
    done = _ask(config, **request)
    if as_json:
        print_json({"done": done})
    else:
        typer.echo(done)


def _ask(config: Path, **request: object) -> Any:
    from stack.control import NotRunning, ask
    from stack.process import ServerFailed

    try:
        return ask(config.parent / "run", lambda line: typer.echo(f"  {line}", err=True), **request)
    except NotRunning:
        fail(f"no local stack runs in {config.parent}: `tapedeck up` (or `make run`) starts one")
    except ServerFailed as error:
        fail(str(error))
