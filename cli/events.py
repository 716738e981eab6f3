"""`tapedeck events`: what happened to gateways lately."""

from __future__ import annotations

import contextlib
import json
import time
from datetime import UTC, datetime
from typing import Annotated, Any

import typer

from cli.admin import AdminPort, NoAnswer
from cli.common import JsonOption, interruptible, print_json
from cli.fleet import Fleet, ask_each, asks_gateways, fail_for

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
    """Say what happened to each gateway in the last hour, oldest first, in UTC.

    Nodes that left the ring, failovers, reloads, workers that died, drains: the dashboard shows the
    same. With --follow and --json it prints an object a line.

    Example: tapedeck events --follow
    """
    gateways = fleet.gateways()
    answers = ask_each(gateways, _ask)
    found = _merged(answers)
    if as_json and not follow:
        print_json(found)
    else:
        _print(found, as_json)
        if not found and not follow:
            typer.echo("Nothing happened in the last hour.")
    if not follow or all(isinstance(answer, NoAnswer) for _, answer in answers):
        fail_for(answers, "did not answer")
        return
    known = {_name(one): one["until"] for one in found}
    with contextlib.suppress(KeyboardInterrupt), interruptible():
        while True:
            time.sleep(EVERY)
            # One that does not answer now may again.
            found = _merged(ask_each(gateways, _ask))
            _print([one for one in found if known.get(_name(one), -1) != one["until"]], as_json)
            known |= {_name(one): one["until"] for one in found}


def _ask(port: AdminPort) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = port.ask("/events")
    return found


def _merged(
    answers: list[tuple[AdminPort, list[dict[str, Any]] | NoAnswer]],
) -> list[dict[str, Any]]:
    found = [
        {"url": port.url, **one}
        for port, answer in answers
        if not isinstance(answer, NoAnswer)
        for one in answer
    ]
    return sorted(found, key=lambda one: float(one["at"]))


def _name(one: dict[str, Any]) -> tuple[Any, ...]:
    return one["url"], one["id"], one["at"]


def _print(found: list[dict[str, Any]], as_json: bool) -> None:
    for one in found:
        if as_json:
            typer.echo(json.dumps(one, ensure_ascii=False))
            continue
        when = datetime.fromtimestamp(one["at"], UTC)
        lasted = (one["until"] or 0) - one["at"]
        length = (
            " (goes on)" if one["until"] is None else f" (for {lasted:.1f} s)" if lasted else ""
        )
        typer.echo(f"{when:%Y-%m-%d %H:%M:%S}  {one['url']}  {one['text']}{length}")
