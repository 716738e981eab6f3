"""`tapedeck drill`: faults under load, and whether the promises held."""

from __future__ import annotations

import asyncio
import signal
import sys
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cli.common import fail, print_json
from config.load import load

if TYPE_CHECKING:
    from rich.console import Console

    from drills.drill import Options
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
        float | None, typer.Option("--seconds", min=1, help="How long by-hand lasts.")
    ] = None,
    rate: Annotated[
        float | None,
        typer.Option("--rate", min=1, max=5000, help="Steps a second; the drill's own if not set."),
    ] = None,
    seed: Annotated[
        int | None, typer.Option("--seed", help="Of the load's choices; a new one if not set.")
    ] = None,
    history: Annotated[
        Path | None,
        typer.Option(
            "--history",
            metavar="FILE",
            help="Write each operation of the load, as JSON lines, for other checkers.",
        ),
    ] = None,
) -> None:
    """Break something under load, repair it, check the promises.

    Each drill starts its own servers and gateways, on free ports, and leaves only its report. With
    --config it uses a running stack: it breaks a local stack's servers and brings them back; with
    `by-hand` you break something yourself. The drill's states stay in that stack until their
    retention ends. Ctrl-C ends a drill; everything is repaired first. Exit status 0 only if every
    promise held, 130 after Ctrl-C.

    Example: tapedeck drill lookup-frozen mysql-primary-killed --short

    Example: tapedeck drill by-hand --config .tapedeck/tapedeck.yml --seconds 60
    """
    from rich.console import Console

    from drills.attached import servers_of, unsuited
    from drills.by_hand import NAME as BY_HAND
    from drills.by_hand import by_hand
    from drills.drill import Options
    from drills.scenarios import DRILLS

    known = {**DRILLS, BY_HAND: by_hand(seconds)}
    if list_them:
        _list(list(known.values()), as_json)
        return
    if run_all and names:
        raise typer.BadParameter("--all runs every drill: name none beside it")
    chosen = list(names or [])
    if run_all:
        # All suitable ones: some need what a running stack does not have.
        chosen = list(DRILLS)
    if run_all and config:
        local = servers_of(config[0].parent / "run") is not None
        chosen = [n for n in chosen if not unsuited(DRILLS[n].plan, local=local)]
        if not chosen:
            load(config[0])
            fail(
                f"drills break servers, and those of {config[0]} are no local stack's: `by-hand`"
                " checks a load while you break things"
            )
    for name in chosen:
        if name not in known:
            near = get_close_matches(name, known, 1)
            hint = f"did you mean {near[0]!r}?" if near else "see --list"
            raise typer.BadParameter(f"there is no drill {name!r}: {hint}")
    if not chosen:
        raise typer.BadParameter("name a drill, or say --all; see --list")
    if history is not None and len(chosen) != 1:
        raise typer.BadParameter("--history is the file of one drill: name one")
    if seconds is not None and BY_HAND not in chosen:
        raise typer.BadParameter("--seconds is for by-hand: other drills have their own length")
    if BY_HAND in chosen and not config:
        raise typer.BadParameter("by-hand needs --config FILE: of the stack that you break")
    console = Console(stderr=as_json, highlight=False)
    if not config and any(known[name].plan.named for name in chosen):
        _take_rights()
    options = Options(long=not short, rate=rate, seed=seed, configs=config or ())

    import structlog
    import uvloop

    from drills.terminal import show_summary

    # Log lines of the parts that a drill uses stay out of its output.
    structlog.configure(logger_factory=structlog.ReturnLoggerFactory())

    outcomes, number = uvloop.run(
        _all(console, [known[name] for name in chosen], options, out, history)
    )
    held = all(outcome["held"] for outcome in outcomes)
    if as_json:
        print_json({"held": held, "drills": outcomes})
    elif len(chosen) > 1:
        show_summary(console, outcomes)
    if number:
        raise typer.Exit(128 + number)
    if not held:
        broken = sum(not outcome["held"] for outcome in outcomes)
        fail(f"{broken} of {len(outcomes)} drills did not hold")


def _take_rights() -> None:
    """Run this command again with the rights for a drill's DNS server, if one is needed."""
    from drills.dns import in_namespaces
    from stack.process import ServerFailed

    try:
        in_namespaces([sys.executable, *sys.orig_argv[1:]])
    except ServerFailed as error:
        fail(str(error))


def _list(drills: list[Scenario], as_json: bool) -> None:
    from drills.terminal import show_list

    if as_json:
        print_json(
            [{"drill": d.name, "about": d.about, "promises": d.promise.sentences} for d in drills]
        )
    else:
        show_list(drills)


async def _all(
    console: Console, drills: list[Scenario], options: Options, out: Path, history: Path | None
) -> tuple[list[dict[str, Any]], int]:
    """Run drills one after the other, until a signal comes.

    Returns:
        The outcome of each drill for --json; the number of the signal, or 0.
    """
    stop = asyncio.Event()
    came: list[int] = []

    def end(number: int) -> None:
        again = " (a second signal does not shorten this)" if came else ""
        console.print(f"  ending: first everything is repaired and stopped{again}")
        came.append(number)
        stop.set()

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        asyncio.get_running_loop().add_signal_handler(number, end, number)
    outcomes = []
    for scenario in drills:
        outcomes.append(await _one(console, scenario, options, out, history, stop))
        if stop.is_set():
            break
    return outcomes, came[0] if came else 0


async def _one(
    console: Console,
    scenario: Scenario,
    options: Options,
    out: Path,
    history: Path | None,
    stop: asyncio.Event,
) -> dict[str, Any]:
    """Run one drill, print it and write its report; return its outcome for --json."""
    from dataclasses import replace

    from drills import operations
    from drills.drill import run
    from drills.report import write
    from drills.terminal import Progress, show, show_failure
    from drills.toxiproxy import InjectorFailed
    from stack.control import NotRunning
    from stack.process import ServerFailed

    console.print(f"[bold]{scenario.name}[/]: {scenario.about}")
    try:
        with Progress(console) as progress:
            watched = replace(options, watch=progress.watch)
            result = await run(scenario, watched, progress.tell, stop)
        page = write(result, out)
        if history is not None:
            operations.write(result.operations, history)
    except (ServerFailed, InjectorFailed, NotRunning, OSError) as error:
        show_failure(console, str(error))
        return {"drill": scenario.name, "held": False, "failed": str(error)}
    show(console, result, page)
    return {**result.as_json(), "report": str(page)}
