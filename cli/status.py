"""`tapedeck status` and `tapedeck metrics`: how gateways are, and what they count."""

from __future__ import annotations

import time
from typing import Annotated, Any

import typer

from cli.admin import AdminPort, NoAnswer
from cli.common import JsonOption, fail, print_json, print_table
from cli.fleet import Fleet, ask_each, asks_gateways, fail_for

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
        found = [_told(port, answer) for port, answer in ask_each(gateways, _look)]
        silent = [one for one in found if one["status"] not in ("ready", "degraded")]
        if not silent or time.monotonic() >= end:
            break
        time.sleep(_AGAIN)
    found.sort(key=lambda one: WORST_FIRST.index(one["status"]))
    if as_json:
        print_json(found)
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

    answers: list[tuple[AdminPort, Any]]
    if as_json:
        answers = ask_each(gateways, lambda port: port.ask("/stats", dict))
        print_json(
            [
                {"url": port.url, "metrics": {k: v for k, v in said.items() if is_wanted(k)}}
                for port, said in answers
                if not isinstance(said, NoAnswer)
            ]
        )
    else:
        answers = ask_each(gateways, _metrics)
        for port, said in answers:
            if not isinstance(said, NoAnswer):
                lines = list(filter(is_wanted, said.splitlines()))
                typer.echo(
                    "\n".join([f"# {port.url}", *lines] if lines else [f"# {port.url}: none"])
                )
    fail_for(answers, "did not answer")


def _metrics(port: AdminPort) -> str:
    code, text = port.request("/metrics")
    if code != 200:
        raise NoAnswer(f"{port.url}/metrics answers {code}: is that a gateway's admin port?")
    return text.decode()


def _look(port: AdminPort) -> dict[str, Any]:
    code, _ = port.request("/healthz")
    if code != 200:
        raise NoAnswer(f"{port.url}/healthz answers {code}: is that a gateway's admin port?")
    said = port.ask("/readyz", dict, serves=(200, 503))
    try:
        figures = port.ask("/overview", dict)
    except NoAnswer as error:
        figures = {"figures": str(error)}
    return {**figures, **said}


def _told(port: AdminPort, answer: dict[str, Any] | NoAnswer) -> dict[str, Any]:
    if isinstance(answer, NoAnswer):
        answer = {"status": "no answer", "reasons": [str(answer)], "causes": []}
    return {"url": port.url, **answer}


def _print(found: list[dict[str, Any]]) -> None:
    rows = []
    for one in found:
        colour = {"ready": "green", "degraded": "yellow"}.get(one["status"], "red")
        p99 = (one.get("latency") or [None])[-1]
        figures = [one.get(name) for name in ("requests", "failing")]
        rows.append(
            (
                one["url"],
                one.get("gateway", "-"),
                f"[{colour}]{one['status']}[/]",
                one.get("version", "-"),
                *("-" if figure is None else f"{figure:,.1f}" for figure in figures),
                "-" if p99 is None else f"{p99:,.1f} ms",
                "; ".join(one["reasons"]).replace("[", r"\["),
            )
        )
    columns = (
        "admin port",
        "gateway",
        "verdict",
        "version",
        "requests/s",
        "failing/s",
        "p99",
        "because",
    )
    print_table(columns, rows)
    for one in found:
        if "figures" in one and "token" in one["figures"]:
            typer.echo(f"no figures: {one['figures']}", err=True)
