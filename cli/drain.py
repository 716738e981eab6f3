"""`tapedeck drain`: takes a gateway out, and brings it back."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Annotated

import typer

from cli.admin import AdminPort
from cli.common import JsonOption, fail, print_json
from cli.fleet import Fleet, ask_each, asks_gateways, fail_for, with_urls

if TYPE_CHECKING:
    from gateway.api.admin_bodies import Drained

EVERY = 0.5
"""Seconds between two checks."""


@asks_gateways
def drain(
    fleet: Fleet,
    back: Annotated[
        bool, typer.Option("--back", help="End the drain: it takes listeners.")
    ] = False,
    timeout: Annotated[
        float, typer.Option("--timeout", min=0, metavar="SECONDS", help="How long it waits.")
    ] = 60,
    as_json: JsonOption = False,
) -> None:
    """Take a gateway out, and wait until it is empty. It stays so until --back, or its restart.

    From then on /readyz says 503, and each answer closes its connection. Requests that still come
    are served, so that none fails while balancers notice. The gateway is empty when no connection
    was open, and no new one came, for five seconds: then it may be stopped. If it is not empty in
    time, the status is 1, and the gateway stays drained.

    Example: tapedeck drain --url http://127.0.0.1:8201

    Example: tapedeck drain --url http://127.0.0.1:8201 --back
    """
    gateways = fleet.gateways()
    if not fleet.url and len(gateways) > 1:
        names = ", ".join(gateway.url for gateway in gateways)
        raise typer.BadParameter(f"say which gateway, by --url: one of {names}")
    path = "/drain/back" if back else "/drain"
    fail_for(ask_each(gateways, lambda port: _ask(port, path, "POST")), "did not answer")
    if back:
        for gateway in gateways:
            _say(f"{gateway.url}: brought back; balancers send it listeners again", as_json)
    else:
        end = time.monotonic() + timeout
        for gateway in gateways:
            _wait_until_empty(gateway, end, timeout, as_json)
    if as_json:
        print_json(with_urls((gateway.url, _ask(gateway)) for gateway in gateways))


def _wait_until_empty(gateway: AdminPort, end: float, timeout: float, as_json: bool) -> None:
    began, said = time.monotonic(), ""
    _say(f"{gateway.url}: taken out; it serves on until it is empty", as_json)
    while True:
        state = _ask(gateway)
        if not state.draining:
            fail(f"{gateway.url}: it was brought back meanwhile")
        if state.empty:
            after = time.monotonic() - began
            _say(f"{gateway.url}: empty after {after:.0f} s; it may be stopped now", as_json)
            return
        rest = f"{state.in_flight} requests in flight, {state.connections} connections open"
        if time.monotonic() >= end:
            fail(
                f"{gateway.url} is not empty after {timeout:g} s ({rest}), and stays drained: does"
                f" the balancer ask its /readyz? `tapedeck drain --back --url {gateway.url}` brings"
                " it back"
            )
        if rest != said:
            _say(f"{gateway.url}: {rest}", as_json)
            said = rest
        time.sleep(EVERY)


def _ask(gateway: AdminPort, path: str = "/drain", method: str = "GET") -> Drained:
    from gateway.api.admin_bodies import Drained

    return gateway.ask(path, Drained, method=method)


def _say(line: str, as_json: bool) -> None:
    """Print progress; on stderr with --json."""
    typer.echo(line, err=as_json)
