"""`tapedeck check-config`: print the complete configuration, or all its problems."""

from __future__ import annotations

import asyncio
import json
import secrets
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
import typer
import yaml

from cli.common import (
    DEFAULT_CONFIG,
    AgainstOption,
    ConfigOption,
    JsonOption,
    fail,
    print_json,
    run,
)
from cli.fleet import Fleet
from cli.reload import ring_changes
from config.load import ConfigError, load
from config.model import Lookup, Sections
from config.nutcracker import read_pool
from config.plain import masked, veiled

if TYPE_CHECKING:
    from gateway.reload.compare import Comparison


def check_config(
    file: Annotated[
        Path | None, typer.Argument(metavar="[FILE]", help="The configuration to check.")
    ] = None,
    config: ConfigOption = DEFAULT_CONFIG,
    against: AgainstOption = None,
    as_json: JsonOption = False,
) -> None:
    """Check a configuration, and print what it became.

    The environment's TAPEDECK_<SECTION>__<KEY> override the file. Defaults are printed too, and
    secrets as ***; or every problem, a line each. Lookup nodes are asked, and MySQL is signed in
    at: what does not work from here is a warning.
    What `lookup.nutcracker` names is read too, with a remark where twemproxy means something else.

    With --against it prints what a reload of that gateway would change, and which share of the
    keys would move. Nothing is changed, and no secret is sent.

    Example: tapedeck check-config tapedeck.yml --against http://127.0.0.1:8081
    """
    path = file or config
    try:
        sections = load(path)
    except ConfigError as error:
        if as_json:
            print_json({"source": str(path), "problems": error.problems})
        else:
            for sentence in error.sentences:
                typer.echo(sentence)
        number = len(error.problems)
        fail(f"{path}: {number} problem{'s' if number > 1 else ''}")
    warnings = run(_try(sections))
    shown = masked(sections)
    notes = _notes(sections.lookup)
    try:
        if against is not None:
            _compare(sections, path, against, as_json)
        elif as_json:
            print_json({"source": str(path), "config": shown, "notes": [*notes, *warnings]})
        else:
            for note in notes:
                typer.echo(f"# {note}")
            typer.echo(yaml.safe_dump(shown, sort_keys=False, allow_unicode=True), nl=False)
    finally:
        # Last, where the long text before them does not hide them.
        for warning in warnings:
            typer.echo(f"warning: {warning}", err=True)


async def _try(sections: Sections) -> list[str]:
    """What does not work from this machine: lookup nodes of a ring, signing in at MySQL."""
    from failover.mysql import sign_in_trial
    from failover.redis import node_trials

    lookup = sections.lookup
    servers = lookup.servers if lookup.mode == "ring" else ()
    problems, hosts = await asyncio.gather(
        node_trials.problems(servers, lookup), sign_in_trial.problems(sections.mysql)
    )
    nodes = [
        f"lookup.servers: {server.name} ({server}) does not answer from here: {problem}; a reload"
        " refuses it if it is new"
        for server, problem in problems
    ]
    return nodes + [f"mysql.hosts: {problem}" for problem in hosts]


def _notes(lookup: Lookup) -> list[str]:
    """Notes on the nutcracker.yml that `lookup` names."""
    if lookup.nutcracker is None:
        return []
    pool = read_pool(Path(lookup.nutcracker), lookup.pool)
    notes = [
        f"{word}: {note}"
        for word, note in pool.notes.items()
        # Values of the section that override the pool's need no note.
        if word not in pool.words or getattr(lookup, word) == pool.words[word]
    ]
    if lookup.layout != "flat":
        notes.append(
            f"layout: {lookup.layout}; an application that goes through nutcracker cannot read"
            " these entries (layout: flat is the original's)"
        )
    return notes


def ask_what_differs(sections: Sections, path: Path, against: str | None) -> Comparison:
    """What a reload of a running gateway with this configuration would change.

    Args:
        path: of the configuration, whose admin token is shown.
        against: its admin URL; by default the first gateway of the fleet, or the configuration's.

    Raises:
        NoAnswer: it does not say.
    """
    from gateway.reload.compare import Comparison, Question

    nonce = secrets.token_hex(16)
    question = Question(veiled(sections, nonce), nonce)
    gateway = Fleet([against] if against else None, config=path).gateways()[0]
    return gateway.ask("/reload/check", Comparison, question)


def _compare(sections: Sections, path: Path, against: str, as_json: bool) -> None:
    answer = ask_what_differs(sections, path, against)
    if as_json:
        print_json({"source": str(path), "against": against, **msgspec.to_builtins(answer)})
        return
    lines = [
        f"{title}: {name}{_values(answer.values.get(name))}"
        for title, names in (
            ("changes", answer.changed),
            ("needs a restart", answer.needs_restart),
            ("overridden where the gateway runs", answer.overridden),
        )
        for name in names
    ]
    lines += ring_changes(answer)
    typer.echo("\n".join(lines or ["nothing differs"]))


def _values(values: list[Any] | None) -> str:
    """The old and the new value, if they fit on a line."""
    if values is None:
        return ""
    old, new = (json.dumps(value) for value in values)
    return f": {old} -> {new}" if len(old) + len(new) < 70 else ""
