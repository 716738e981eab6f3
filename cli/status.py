"""`tapedeck status` and `tapedeck metrics`: how gateways are, and what they count."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeAlias

import typer
from msgspec import Struct, to_builtins

from cli.admin import AdminPort, NoAnswer
from cli.common import JsonOption, fail, print_json, print_table
from cli.fleet import Fleet, answered, ask_each, asks_gateways, fail_for

if TYPE_CHECKING:
    from gateway.api.admin_bodies import Overview


class Verdict(Struct):
    """What /readyz answers, of which a gateway of another version may have more or less."""

    status: Literal["unavailable", "draining", "degraded", "ready"]
    reasons: list[str]
    causes: list[str] = []
    ages: list[float] = []


_Answer: TypeAlias = "tuple[Verdict, Overview | NoAnswer] | NoAnswer"
"""A gateway's verdict and figures, which may need a token; or why it did not answer."""
WORST_FIRST = ("no answer", "unavailable", "draining", "degraded", "ready")
_AGAIN = 0.5
"""Seconds between two checks with --wait."""


@asks_gateways
def status(
    fleet: Fleet,
    wait: Annotated[
        float,
        typer.Option("--wait", min=0, metavar="SECONDS", help="Until all serve, at most so long."),
    ] = 0,
    as_json: JsonOption = False,
) -> None:
    """Print each gateway's verdict and reasons, the worst first.

    The status is 1 if a gateway does not serve: it is unavailable, drained, or does not answer. (A
    degraded one serves.) The verdict needs no token; the figures do, except on loopback.

    Example: tapedeck status

    Example: tapedeck status --url http://127.0.0.1:8201 --wait 60
    """
    gateways = fleet.gateways()
    end = time.monotonic() + wait
    while True:
        found = [(port.url, answer) for port, answer in ask_each(gateways, _ask)]
        silent = [1 for _, answer in found if _status(answer) not in ("ready", "degraded")]
        if not silent or time.monotonic() >= end:
            break
        time.sleep(_AGAIN)
    found.sort(key=lambda one: WORST_FIRST.index(_status(one[1])))
    if as_json:
        print_json([_as_json(*one) for one in found])
    else:
        figures = ("requests/s", "failing/s", "p99")
        columns = ("admin port", "gateway", "verdict", "version", *figures, "because")
        print_table(columns, [_row(*one) for one in found])
        for _, answer in found:
            if not isinstance(answer, NoAnswer) and "token" in str(answer[1]):
                typer.echo(f"no figures: {answer[1]}", err=True)
    if silent:
        waited = f" after {wait:g} s" if wait else ""
        fail(f"{len(silent)} of {len(found)} gateways do not serve{waited}")


@asks_gateways
def metrics(
    fleet: Fleet,
    names: Annotated[
        list[str] | None,
        typer.Argument(metavar="[NAME]...", help="How the metrics begin that are wanted."),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Print each gateway's metrics in Prometheus' format.

    Before those of a gateway stands a line # URL.

    Example: tapedeck metrics tapedeck_mysql_waiting tapedeck_mysql_connections
    """
    gateways = fleet.gateways()
    wanted = tuple(name.removeprefix("tapedeck_") for name in names or ("",))

    def is_wanted(line: str) -> bool:
        return line.removeprefix("tapedeck_").startswith(wanted)

    if as_json:
        figures = ask_each(gateways, lambda port: port.ask("/stats", dict[str, Any]))
        print_json(
            [
                {"url": url, "metrics": {k: v for k, v in said.items() if is_wanted(k)}}
                for url, said in answered(figures)
            ]
        )
        fail_for(figures, "did not answer")
        return
    texts = ask_each(gateways, lambda port: _get(port, "/metrics").decode())
    for url, text in answered(texts):
        lines = list(filter(is_wanted, text.splitlines()))
        typer.echo("\n".join([f"# {url}", *lines] if lines else [f"# {url}: none"]))
    fail_for(texts, "did not answer")


def _get(port: AdminPort, path: str) -> bytes:
    code, body = port.request(path)
    if code != 200:
        raise NoAnswer(f"{port.url}{path} answers {code}: is that a gateway's admin port?")
    return body


def _ask(port: AdminPort) -> tuple[Verdict, Overview | NoAnswer]:
    from gateway.api.admin_bodies import Overview

    _get(port, "/healthz")
    verdict = port.ask("/readyz", Verdict, serves=(200, 503))
    try:
        return verdict, port.ask("/overview", Overview)
    except NoAnswer as error:
        return verdict, error


def _status(answer: _Answer) -> str:
    return "no answer" if isinstance(answer, NoAnswer) else answer[0].status


def _as_json(url: str, answer: _Answer) -> dict[str, Any]:
    if isinstance(answer, NoAnswer):
        return {"url": url, "status": "no answer", "reasons": [str(answer)], "causes": []}
    verdict, figures = answer
    shown = {"figures": str(figures)} if isinstance(figures, NoAnswer) else to_builtins(figures)
    return {"url": url, **shown, **to_builtins(verdict)}


def _row(url: str, answer: _Answer) -> tuple[str, ...]:
    from rich.markup import escape

    if isinstance(answer, NoAnswer):
        return (url, "-", "[red]no answer[/]", "-", "-", "-", "-", escape(str(answer)))
    verdict, figures = answer
    colour = {"ready": "green", "degraded": "yellow"}.get(verdict.status, "red")
    status, because = f"[{colour}]{verdict.status}[/]", escape("; ".join(verdict.reasons))
    if isinstance(figures, NoAnswer):
        return (url, "-", status, "-", "-", "-", "-", because)
    p99 = "-" if figures.latency[-1] is None else f"{figures.latency[-1]:,.1f} ms"
    rates = (f"{figures.requests:,.1f}", f"{figures.failing:,.1f}")
    return (url, figures.gateway, status, figures.version, *rates, p99, because)
