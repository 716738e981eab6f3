"""`tapedeck reload`: gateways read their configuration again."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from cli.admin import NoAnswer
from cli.common import JsonOption, print_json
from cli.fleet import Fleet, answered, ask_each, asks_gateways, fail_for, with_urls

if TYPE_CHECKING:
    from gateway.reload.compare import Outcome

SECONDS = 30.0
"""Seconds that a gateway has: it reads files, and asks each worker twice."""


@asks_gateways
def reload(
    fleet: Fleet,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would change.")] = False,
    force: Annotated[
        bool,
        typer.Option(
            "--force",
            help="Also where a new lookup node, or a new sign-in, does not work.",
        ),
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Make each gateway read its own configuration again.

    It prints what changed. A configuration with problems changes nothing in that gateway; the
    problems are printed, and the status is 1. Values that need a restart are named.

    Example: tapedeck reload --dry-run

    Example: tapedeck reload --fleet /etc/tapedeck/fleet
    """
    from gateway.reload.compare import Outcome

    path = "/reload/check" if dry_run else "/reload?force=1" if force else "/reload"
    answers = ask_each(
        fleet.gateways(), lambda port: port.ask(path, Outcome, method="POST", seconds=SECONDS)
    )
    if as_json:
        shown = (
            (port.url, {"problem": str(one)} if isinstance(one, NoAnswer) else one)
            for port, one in answers
        )
        print_json(with_urls(shown))
    else:
        for url, outcome in answered(answers):
            for line in changes(outcome) or ["nothing differs" if dry_run else "nothing changed"]:
                typer.echo(f"{url}: {line}")
    fail_for(answers, "were not reloaded")


def changes(outcome: Outcome) -> list[str]:
    """A line for each change of a reload."""
    named = (("changed", outcome.changed), ("needs a restart", outcome.needs_restart))
    return [
        *(f"{title}: {', '.join(names)}" for title, names in named if names),
        *ring_changes(outcome),
        *(f"warning: {warning}" for warning in outcome.warnings or ()),
    ]


def ring_changes(outcome: Outcome) -> list[str]:
    """A line for each change of the ring, and one for the keys that move."""
    if not (ring := outcome.ring):
        return []
    moved = f"{ring.moved:.1%} of the keys move to another node"
    return [f"ring: {line}" for line in (*ring.changes, moved)]
