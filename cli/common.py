"""Shared by all commands: options, errors as one line, answers for people and for scripts.

It has only fast imports (the configuration is the slowest), for `tapedeck --help`.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
from collections.abc import Coroutine, Iterable, Iterator
from datetime import date
from pathlib import Path
from typing import Annotated, Any, NoReturn, TypeVar

import msgspec
import typer

from cli import end_at_once
from config.load import LOCAL_CONFIG

Result = TypeVar("Result")

ConfigOption = Annotated[
    Path, typer.Option("--config", help="The configuration file.", metavar="FILE")
]
AgainstOption = Annotated[
    str | None,
    typer.Option("--against", metavar="URL", help="The admin URL of a running gateway."),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Answer as JSON, for scripts.")]
INSTALLED_CONFIG = Path("/etc/tapedeck/tapedeck.yml")
"""Where deploy/ puts it: systemd, compose and Kubernetes alike."""
DEFAULT_CONFIG = (
    INSTALLED_CONFIG if INSTALLED_CONFIG.exists() and not LOCAL_CONFIG.exists() else LOCAL_CONFIG
)
"""Of the folder where it is typed, or else of the machine."""
NAMED = 10
"""Most ids that a sentence names."""


class Failed(Exception):
    """The command failed: it ends with status 1 and the reason as one line on stderr."""


def fail(reason: str) -> NoReturn:
    """End the command with status 1 and one line on stderr that says why."""
    raise Failed(reason)


def print_json(answer: Any) -> None:
    """Print an answer as JSON, with structs as objects; days are YYYYMMDD."""
    plain = msgspec.to_builtins(answer, builtin_types=(date,))
    typer.echo(json.dumps(plain, indent=2, ensure_ascii=False, default="{:%Y%m%d}".format))


def print_table(columns: Iterable[str], rows: Iterable[Iterable[str]]) -> None:
    """Print a table; it is not cut to the width of the terminal."""
    from rich.console import Console
    from rich.table import Table

    table = Table(*columns, box=None, pad_edge=False)
    for row in rows:
        table.add_row(*row)
    needed = Console(width=1000).measure(table).maximum
    Console(width=max(Console().width, needed), highlight=False).print(table)


def some(ids: list[int]) -> str:
    """The first `NAMED` ids, and how many more there are."""
    more = f" and {len(ids) - NAMED:,} more" if len(ids) > NAMED else ""
    return ", ".join(map(str, ids[:NAMED])) + more


@contextlib.contextmanager
def interruptible() -> Iterator[None]:
    """Within it a Ctrl-C raises KeyboardInterrupt instead of ending the process at once."""
    if signal.getsignal(signal.SIGINT) is not end_at_once:
        yield
        return
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, end_at_once)


def run(work: Coroutine[Any, Any, Result]) -> Result:
    """Run asynchronous work. After an error of MySQL the command fails; after a Ctrl-C the work is
    cancelled, so that it can close what it opened."""
    import structlog

    from failover.mysql.errors import MySQLError, PrimaryUnavailable

    # The command's output has no log lines.
    structlog.configure(logger_factory=structlog.ReturnLoggerFactory())
    try:
        with interruptible():
            return asyncio.run(work)
    except (MySQLError, PrimaryUnavailable) as error:
        raise Failed(str(error) if str(error).startswith("MySQL") else f"MySQL: {error}") from error
    except KeyboardInterrupt:
        typer.echo("tapedeck: interrupted", err=True)
        raise typer.Exit(128 + signal.SIGINT) from None
