"""`tapedeck events`: what happened to gateways lately."""

from __future__ import annotations

import contextlib
import json
import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated

import typer

from cli.admin import AdminPort, NoAnswer
from cli.common import JsonOption, interruptible, print_json
from cli.fleet import Fleet, answered, ask_each, asks_gateways, fail_for, with_urls

if TYPE_CHECKING:
    from gateway.api.admin_bodies import Happened

EVERY = 1.0
"""Seconds between two questions with --follow."""


@asks_gateways
def events(
    fleet: Fleet,
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Go on, until Ctrl-C, with what happens.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Say what happened to each gateway in the last hour, in UTC.

    The oldest comes first. Nodes that left the ring, failovers, reloads, workers that died, drains:
    the dashboard shows the same. With --follow and --json it prints an object a line.

    Example: tapedeck events --follow
    """
    gateways = fleet.gateways()
    answers = ask_each(gateways, _ask)
    found = _merged(answers)
    if as_json and not follow:
        print_json(with_urls(found))
    else:
        _print(found, as_json)
        if not found and not follow:
            typer.echo("Nothing happened in the last hour.")
    if not follow or not answered(answers):
        fail_for(answers, "did not answer")
        return
    known = {_name(*one): one[1].until for one in found}
    with contextlib.suppress(KeyboardInterrupt), interruptible():
        while True:
            time.sleep(EVERY)
            # One that does not answer now may again.
            found = _merged(ask_each(gateways, _ask))
            _print([one for one in found if known.get(_name(*one), -1) != one[1].until], as_json)
            known |= {_name(*one): one[1].until for one in found}


def _ask(port: AdminPort) -> list[Happened]:
    from gateway.api.admin_bodies import Happened

    return port.ask("/events", list[Happened])


def _merged(
    answers: list[tuple[AdminPort, list[Happened] | NoAnswer]],
) -> list[tuple[str, Happened]]:
    """All events in the order of time, each with the URL of its gateway."""
    found = [(url, one) for url, listed in answered(answers) for one in listed]
    return sorted(found, key=lambda one: one[1].at)


def _name(url: str, one: Happened) -> tuple[str, int, float]:
    return url, one.id, one.at


def _print(found: list[tuple[str, Happened]], as_json: bool) -> None:
    if as_json:
        for shown in with_urls(found):
            typer.echo(json.dumps(shown, ensure_ascii=False))
        return
    for url, one in found:
        when = datetime.fromtimestamp(one.at, UTC)
        if one.until is None:
            length = " (goes on)"
        else:
            length = f" (for {one.until - one.at:.1f} s)" if one.until > one.at else ""
        typer.echo(f"{when:%Y-%m-%d %H:%M:%S}  {url}  {one.text}{length}")
