"""`tapedeck drill`: faults under load, and whether the promises held."""

from __future__ import annotations

import asyncio
import signal
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cli.common import Failed, fail, print_json

if TYPE_CHECKING:
    from rich.console import Console

    from drills.drill import Options
    from drills.result import Result
    from drills.scene import Scenario

REPORTS = Path(".tapedeck/drills")


def drill(
    names: Annotated[
        list[str] | None, typer.Argument(metavar="[NAME]...", show_default=False)
    ] = None,
    list_them: Annotated[bool, typer.Option("--list", help="Say which drills there are.")] = False,
    run_all: Annotated[bool, typer.Option("--all", help="Run every drill.")] = False,
    short: Annotated[bool, typer.Option("--short", help="About 15 s each, not a minute.")] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Answer as JSON, for scripts; progress goes to stderr.")
    ] = False,
    out: Annotated[
        Path, typer.Option("--out", metavar="DIR", help="Where reports are written.")
    ] = REPORTS,
    config: Annotated[
        list[Path] | None,
        typer.Option(
            "--config",
            metavar="FILE",
            help="Of a stack that runs: break that one. Again for each more gateway of it.",
        ),
    ] = None,
    seconds: Annotated[
        float | None, typer.Option("--seconds", min=1, help="How long by-hand goes on.")
    ] = None,
    rate: Annotated[
        float | None,
        typer.Option("--rate", min=1, max=5000, help="Steps a second; the drill's own if not set."),
    ] = None,
    seed: Annotated[
        int | None, typer.Option("--seed", help="Of the load's choices; a new one if not set.")
    ] = None,
) -> None:
    """Break something under load, repair it, and check whether the promises held.

    Each drill starts its own servers and gateways, on free ports, and leaves only its report. With
    --config it uses a running stack: it breaks a local stack's servers and brings them back; with
    `by-hand` you break something yourself. The drill's states stay in that stack until their
    retention ends. Exit status 0 only if every promise held.

    Example: tapedeck drill lookup-frozen mysql-primary-killed --short

    Example: tapedeck drill by-hand --config .tapedeck/tapedeck.yml --seconds 60
    """
    from rich.console import Console

    from drills.attached import unsuited
    from drills.by_hand import NAME as BY_HAND
    from drills.by_hand import by_hand
    from drills.drill import Options
    from drills.scenarios import DRILLS

    known = {**DRILLS, BY_HAND: by_hand(seconds)}
    if list_them:
        _list(list(known.values()), as_json)
        return
    chosen = list(names or [])
    if run_all:
        # All suitable ones: some need what a running stack does not have.
        chosen = [n for n, d in DRILLS.items() if not config or not unsuited(d.plan, local=True)]
    unknown = [name for name in chosen if name not in known]
    if unknown:
        raise typer.BadParameter(f"there is no drill {unknown[0]!r}; see --list")
    if not chosen:
        raise typer.BadParameter("name a drill, or say --all; see --list")
    if BY_HAND in chosen and not config:
        raise typer.BadParameter("by-hand needs --config FILE: of the stack that you break")
    console = Console(stderr=as_json, highlight=False)
    if not config and any(known[name].plan.named for name in chosen):
        _take_rights()
    options = Options(long=not short, rate=rate, seed=seed, configs=config or ())
    outcomes = [_one(console, known[name], options, out) for name in chosen]
    held = all(outcome["held"] for outcome in outcomes)
    if as_json:
        print_json({"held": held, "drills": outcomes})
    elif len(outcomes) > 1:
        _summary(console, outcomes)
    if not held:
        broken = [outcome["drill"] for outcome in outcomes if not outcome["held"]]
        fail(f"{len(broken)} of {len(outcomes)} drills did not hold: {', '.join(broken)}")


def _take_rights() -> None:
    """Run this command again with the rights for a drill's DNS server, if one is needed."""
    from drills.dns import in_namespaces
    from stack.process import ServerFailed

    try:
        in_namespaces([sys.executable, *sys.orig_argv[1:]])
    except ServerFailed as error:
        fail(str(error))


def _list(drills: list[Scenario], as_json: bool) -> None:
    if as_json:
        print_json(
            [{"drill": d.name, "about": d.about, "promises": d.promise.sentences} for d in drills]
        )
        return
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    table.add_column("drill", no_wrap=True)
    table.add_column("what happens", overflow="fold")
    for one in drills:
        allowed = " and ".join(sorted(met.value for met in one.promise.errors))
        table.add_row(one.name, one.about + (f" (allowed: {allowed})" if allowed else ""))
    Console(highlight=False).print(table)


def _one(console: Console, scenario: Scenario, options: Options, out: Path) -> dict[str, Any]:
    """Run one drill, print it and write its report; return its outcome for --json."""
    from drills.report import write
    from drills.toxiproxy import InjectorFailed
    from stack.control import NotRunning
    from stack.process import ServerFailed

    console.print(f"[bold]{scenario.name}[/]: {scenario.about}")
    try:
        result = _run(console, scenario, options)
    except (ServerFailed, InjectorFailed, NotRunning, OSError) as error:
        console.print(f"  [red]could not be run:[/] {error}", soft_wrap=True)
        return {"drill": scenario.name, "held": False, "failed": str(error)}
    folder = out / f"{scenario.name}-{datetime.now(UTC):%Y%m%d-%H%M%S}"
    page = write(result, folder)
    _show(console, result)
    console.print(f"  report: {page}\n", soft_wrap=True)
    return {**result.as_json(), "report": str(page)}


def _run(console: Console, scenario: Scenario, options: Options) -> Result:
    from dataclasses import replace

    import uvloop

    from drills.drill import run
    from drills.progress import Progress

    # SIGTERM ends a drill like Ctrl-C: with all its servers.
    previous = signal.signal(signal.SIGTERM, signal.getsignal(signal.SIGINT))
    try:
        with Progress(console) as progress:
            watched = replace(options, watch=progress.watch)
            return uvloop.run(run(scenario, watched, progress.tell))
    except (KeyboardInterrupt, asyncio.CancelledError):
        raise Failed("interrupted; nothing is left running") from None
    finally:
        signal.signal(signal.SIGTERM, previous)


def _show(console: Console, result: Result) -> None:
    for finding in result.findings:
        mark = "[green]held  [/]" if finding.held else "[red]BROKEN[/]"
        console.print(f"  {mark} {finding.promise}: {finding.measured}", soft_wrap=True)
    for breach in result.verdict.breaches[:10]:
        console.print(f"    [red]{breach.wrong.name.lower()}[/] {breach.key}: {breach.text}")
    for text in result.surprises[:5]:
        console.print(f"    [red]unexpected[/] {text}", markup=True)
    before, during, after = (result.windows[name] for name in ("before", "during", "after"))
    console.print(
        f"  p99 before {before.p99:g} ms, during {during.p99:g} ms, after {after.p99:g} ms; "
        f"worst gap without an answer {result.worst_gap:.2f} s; "
        f"{result.verdict.acknowledged} changes acknowledged, {len(result.tries)} requests",
        soft_wrap=True,
    )


def _summary(console: Console, outcomes: list[dict[str, Any]]) -> None:
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for column in ("drill", "", "requests", "errors", "wrong", "worst gap", "recovery"):
        table.add_column(column, justify="left" if column in ("drill", "") else "right")
    for one in outcomes:
        mark = "[green]held[/]" if one["held"] else "[red]BROKEN[/]"
        if "failed" in one:
            table.add_row(one["drill"], mark)
            continue
        fine = sum(one["met"].get(name, 0) for name in ("ok", "conflict", "rerouted"))
        recovery = one["recovery_seconds"]
        table.add_row(
            one["drill"],
            mark,
            str(one["requests"]),
            str(one["requests"] - fine),
            str(sum(one["wrong"].values())),
            f"{one['worst_gap_seconds']:.2f} s",
            "never" if recovery is None else f"{recovery:.2f} s",
        )
    console.print(table)
