"""What a drill shows on a terminal: what happens, a live line while it does, and the verdict."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console, RenderableType
from rich.live import Live
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from drills.client import Client
from drills.measure import FINE, percentile
from drills.result import Result
from drills.scene import Scenario
from drills.story import Mark

_OUTCOMES = {"held": "[green]held   [/]", "broken": "[red]BROKEN [/]"}


class Progress:
    """Use as a context; `tell` and `watch` are what a drill is given."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._client: Client | None = None
        self._live: Live | None = None
        if console.is_terminal:
            self._live = Live(
                console=console, get_renderable=self._line, refresh_per_second=4, transient=True
            )

    def __enter__(self) -> Progress:
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live is not None:
            self._live.stop()

    def watch(self, client: Client) -> None:
        """The load's numbers are here."""
        self._client = client

    def tell(self, mark: Mark) -> None:
        """Something happened; called from any thread."""
        self._console.print(_columns([f"{mark.at:6.1f} s", Text(mark.text)]))

    def _line(self) -> Text:
        client = self._client
        if client is None:
            return Text("  starting ...")
        now = client.now()
        recent = []
        for one in reversed(client.tries):
            if one.ended < now - 1:
                break
            recent.append(one)
        latencies = sorted((one.ended - one.due) * 1000 for one in recent if one.last)
        failed = sum(one.met not in FINE for one in recent)
        text = Text(f"  {now:6.1f} s  {len(recent) - failed} answers/s  ")
        text.append(f"{failed} errors/s", style="red" if failed else "")
        text.append(f"  p50 {percentile(latencies, 0.5):.0f} ms")
        text.append(f"  p99 {percentile(latencies, 0.99):.0f} ms")
        return text


def show(console: Console, result: Result, page: Path) -> None:
    """The verdict, what it rests on, and where the report is."""
    if result.ended:
        console.print(f"  [red]{result.ended}[/]: no verdict")
    lines: list[Sequence[RenderableType]] = [
        (_OUTCOMES["held" if f.held else "broken"], Text(f.promise), Text(f.measured))
        for f in result.findings
    ]
    if lines:
        console.print(_columns(*lines))
    wrong = [f"{b.wrong.name.lower()} {b.key}: {b.text}" for b in result.verdict.breaches[:10]]
    wrong += [f"unexpected {text}" for text in result.surprises[:5]]
    for text in wrong:
        console.print(_columns(["       ", Text(text, style="red")]))
    if not result.ended:
        console.print(_columns(["clients", Text("; ".join(result.sentences))]))
    # Each whole, and on a line of its own: they are to be copied.
    console.print(f"  again    {result.command}\n  report   {page}\n", soft_wrap=True, markup=False)


def show_failure(console: Console, why: str) -> None:
    """The drill could not be run."""
    console.print(_columns([Text("could not be run:", style="red"), Text(why)]))


def show_list(drills: Sequence[Scenario]) -> None:
    """Which drills there are."""
    table = Table("drill", "what happens", box=None, pad_edge=False)
    table.columns[0].no_wrap = True
    for one in drills:
        allowed = " and ".join(sorted(met.value for met in one.promise.errors))
        table.add_row(one.name, one.about + (f" (allowed: {allowed})" if allowed else ""))
    Console(highlight=False).print(table)


def show_summary(console: Console, outcomes: Sequence[dict[str, Any]]) -> None:
    """A line for each of several drills."""
    table = Table(box=None, pad_edge=False)
    for column in ("drill", "", "requests", "errors", "wrong", "longest gap", "felt"):
        table.add_column(column, justify="left" if column in ("drill", "") else "right")
    for one in outcomes:
        if "failed" in one:
            table.add_row(one["drill"], "[red]could not be run[/]")
            continue
        mark = _OUTCOMES.get(one["outcome"], f"[red]{one['outcome']}[/]")
        if one["outcome"] not in _OUTCOMES:
            table.add_row(one["drill"], mark)
            continue
        fine = sum(one["met"].get(met.name.lower(), 0) for met in FINE)
        recovery = one["recovery_seconds"]
        table.add_row(
            one["drill"],
            mark,
            str(one["requests"]),
            str(one["requests"] - fine),
            str(sum(one["wrong"].values())),
            f"{one['worst_gap_seconds']:.2f} s",
            "to the end" if recovery is None else f"{recovery:.2f} s" if recovery else "not felt",
        )
    console.print(table)


def _columns(*rows: Sequence[RenderableType]) -> Padding:
    """Rows below each other, their texts broken between words and never inside of one."""
    table = Table.grid(padding=(0, 2, 0, 0))
    for row in rows:
        while len(table.columns) < len(row):
            table.add_column(no_wrap=not table.columns)
        table.add_row(*row)
    return Padding(table, (0, 0, 0, 2))
