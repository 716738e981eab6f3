"""`tapedeck status` and `tapedeck metrics`: how gateways are, and what they count."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import typer
from msgspec import to_builtins

from cli.admin import AdminPort, NoAnswer
from cli.common import JsonOption, fail, print_json, print_table
from cli.fleet import Fleet, answered, ask_each, asks_gateways, fail_for

if TYPE_CHECKING:
    from gateway.api.admin_bodies import Overview, Readiness

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
    """Print each gateway's verdict with its reasons, the worst first.

    The status is 1 if a gateway does not serve: it is unavailable, drained, or does not answer. (A
    degraded one serves.) The verdict needs no token; the figures do, except on loopback.

    Example: tapedeck status

    Example: tapedeck status --url http://127.0.0.1:8201 --wait 60
    """
    gateways = fleet.gateways()
    end = time.monotonic() + wait
    while True:
        found = [_Told.of(port.url, answer) for port, answer in ask_each(gateways, _ask)]
        silent = [one for one in found if one.status not in ("ready", "degraded")]
        if not silent or time.monotonic() >= end:
            break
        time.sleep(_AGAIN)
    found.sort(key=lambda one: WORST_FIRST.index(one.status))
    if as_json:
        print_json([one.as_json() for one in found])
    else:
        _print(found)
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
    """Print each gateway's metrics in Prometheus' format, after a line # URL.

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
    texts = ask_each(gateways, _metrics)
    for url, text in answered(texts):
        lines = list(filter(is_wanted, text.splitlines()))
        typer.echo("\n".join([f"# {url}", *lines] if lines else [f"# {url}: none"]))
    fail_for(texts, "did not answer")


def _metrics(port: AdminPort) -> str:
    code, text = port.request("/metrics")
    if code != 200:
        raise NoAnswer(f"{port.url}/metrics answers {code}: is that a gateway's admin port?")
    return text.decode()


def _ask(port: AdminPort) -> tuple[Readiness, Overview | NoAnswer]:
    """The verdict, and the figures, which may need a token."""
    from gateway.api.admin_bodies import Overview, Readiness

    code, _ = port.request("/healthz")
    if code != 200:
        raise NoAnswer(f"{port.url}/healthz answers {code}: is that a gateway's admin port?")
    readiness = port.ask("/readyz", Readiness, serves=(200, 503))
    try:
        return readiness, port.ask("/overview", Overview)
    except NoAnswer as error:
        return readiness, error


@dataclass(frozen=True, slots=True)
class _Told:
    """What one gateway said of itself."""

    url: str
    status: str
    reasons: list[str]
    readiness: Readiness | None = None
    figures: Overview | NoAnswer | None = None

    @classmethod
    def of(cls, url: str, answer: tuple[Readiness, Overview | NoAnswer] | NoAnswer) -> _Told:
        if isinstance(answer, NoAnswer):
            return cls(url, "no answer", [str(answer)])
        readiness, figures = answer
        return cls(url, readiness.status, readiness.reasons, readiness, figures)

    def as_json(self) -> dict[str, Any]:
        if self.readiness is None:
            return {"url": self.url, "status": self.status, "reasons": self.reasons, "causes": []}
        figures = self.figures
        shown = {"figures": str(figures)} if isinstance(figures, NoAnswer) else to_builtins(figures)
        return {"url": self.url, **shown, **to_builtins(self.readiness)}

    def row(self) -> tuple[str, ...]:
        colour = {"ready": "green", "degraded": "yellow"}.get(self.status, "red")
        verdict, because = (
            f"[{colour}]{self.status}[/]",
            "; ".join(self.reasons).replace("[", r"\["),
        )
        one = self.figures
        if one is None or isinstance(one, NoAnswer):
            return (self.url, "-", verdict, "-", "-", "-", "-", because)
        p99 = "-" if one.latency[-1] is None else f"{one.latency[-1]:,.1f} ms"
        rates = (f"{one.requests:,.1f}", f"{one.failing:,.1f}")
        return (self.url, one.gateway, verdict, one.version, *rates, p99, because)


def _print(found: list[_Told]) -> None:
    figures = ("requests/s", "failing/s", "p99")
    columns = ("admin port", "gateway", "verdict", "version", *figures, "because")
    print_table(columns, (one.row() for one in found))
    for one in found:
        if isinstance(one.figures, NoAnswer) and "token" in str(one.figures):
            typer.echo(f"no figures: {one.figures}", err=True)
