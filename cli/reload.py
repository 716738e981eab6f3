"""`tapedeck reload`: gateways read their configuration again."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from cli.admin import AdminPort, NoAnswer
from cli.common import JsonOption, print_json
from cli.fleet import Fleet, ask_each, asks_gateways, fail_for

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
            help="Also where a new lookup node, or MySQL by a new sign-in, does not work.",
        ),
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Make each gateway read its own configuration again, and print what changed.

    A configuration with problems changes nothing in that gateway; the problems are printed, and the
    status is 1. Values that need a restart are named.

    Example: tapedeck reload --dry-run

    Example: tapedeck reload --fleet /etc/tapedeck/fleet
    """
    gateways = fleet.gateways()
    path = "/reload/check" if dry_run else "/reload?force=1" if force else "/reload"
    answers = ask_each(gateways, lambda port: _reload(port, path))
    if as_json:
        print_json([_told(port, answer) for port, answer in answers])
    else:
        for port, answer in answers:
            if not isinstance(answer, NoAnswer):
                for line in changes(answer) or [
                    "nothing differs" if dry_run else "nothing changed"
                ]:
                    typer.echo(f"{port.url}: {line}")
    fail_for(answers, "were not reloaded")


def changes(answer: dict[str, Any]) -> list[str]:
    """A line for each change of a reload."""
    lines: list[str] = []
    for title, key in (("changed", "changed"), ("needs a restart", "needs_restart")):
        if names := answer.get(key):
            lines.append(f"{title}: {', '.join(names)}")
    if ring := answer.get("ring"):
        lines += [f"ring: {change}" for change in ring["changes"]]
        lines.append(f"ring: {ring['moved']:.1%} of the keys move to another node")
    lines += [f"warning: {warning}" for warning in answer.get("warnings", ())]
    return lines


def _reload(port: AdminPort, path: str) -> dict[str, Any]:
    answer: dict[str, Any] = port.ask(path, method="POST", seconds=SECONDS)
    return answer


def _told(port: AdminPort, answer: dict[str, Any] | NoAnswer) -> dict[str, Any]:
    if isinstance(answer, NoAnswer):
        return {"url": port.url, "problem": str(answer)}
    return {"url": port.url, **answer}
