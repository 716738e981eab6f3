"""`tapedeck ring`: the lookup nodes, and where one listener's state is."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cli.admin import SECONDS, AdminPort, NoAnswer
from cli.common import (
    DEFAULT_CONFIG,
    ConfigOption,
    JsonOption,
    fail,
    print_json,
    run,
)
from cli.fleet import Fleet, answered, ask_each, asks_gateways, fail_for, with_urls
from cli.ring_plan import plan
from cli.ring_show import add_standing, ask_nodes, find_cluster, print_nodes, print_rings
from config.load import load, load_lookup
from config.model import Sections

if TYPE_CHECKING:
    from sharding.shown import Ring, Where

app = typer.Typer(no_args_is_help=True, help="The ring of lookup nodes.")
app.command()(plan)

_ID = typer.Argument(min=1, max=2**63 - 1)


@app.command()
@asks_gateways
def show(fleet: Fleet, as_json: JsonOption = False) -> None:
    """Show each lookup node: its share, keys, memory and state.

    It asks the nodes of the configuration. With --url or --fleet it asks these gateways instead,
    and shows each one's ring: which node is out, since when and why.

    Example: tapedeck ring show

    Example: tapedeck ring show --fleet /etc/tapedeck/fleet
    """
    if fleet.is_named:
        answers = ask_each(fleet.gateways(), _ask)
        rings = answered(answers)
        if as_json:
            print_json(with_urls(rings))
        else:
            print_rings(rings)
        fail_for(answers, "did not answer")
        return
    sections = load(fleet.config)
    nodes = run(ask_nodes(sections))
    seen = [ring for _, ring in ask_each(fleet.gateways(), lambda port: _ask(port, 3))]
    ring = next((one for one in seen if not isinstance(one, NoAnswer)), seen[0])
    if isinstance(ring, NoAnswer):
        # The command does not fail: the nodes were asked directly.
        gateway: dict[str, object] = {"problem": str(ring)}
        last = f"generation   not known: {ring}"
    else:
        gateway, others = {"generation": ring.generation}, add_standing(nodes, ring)
        last = f"generation   {ring.generation}"
        if others:
            last += f"\nThe gateway's ring also has {', '.join(others)}: not in {fleet.config}"
    if as_json:
        print_json({"nodes": nodes, "gateway": gateway})
        return
    print_nodes(nodes, sections.partitions.retention_days)
    print(last)


def _ask(port: AdminPort, seconds: float = SECONDS) -> Ring:
    from sharding.shown import Ring

    return port.ask("/ring", Ring, seconds=seconds)


@app.command()
def where(
    user: Annotated[int | None, _ID] = None,
    playlist: Annotated[int | None, _ID] = None,
    keys: Annotated[
        Path | None,
        typer.Option(
            "--keys", metavar="FILE", help="Raw lookup keys, one a line (-: standard input)."
        ),
    ] = None,
    config: ConfigOption = DEFAULT_CONFIG,
    as_json: JsonOption = False,
) -> None:
    """Say where one state is.

    It prints the node that owns its key, the nodes' hints, and MySQL's answer.

    With --keys it prints the node of each lookup key of a file: a line for each line of the file,
    or with --json an object {"key", "node"}. It asks no server, and reads only the section lookup
    of the configuration.

    Example: tapedeck ring where 4711 1

    Example: tapedeck ring where --keys keys.txt --json
    """
    if keys is not None and (user, playlist) == (None, None):
        _where_keys(config, keys, as_json)
        return
    if keys is not None or user is None or playlist is None:
        raise typer.BadParameter("give USER and PLAYLIST, or --keys FILE")
    sections = load(config)
    answer = run(_where(sections, user, playlist))
    if as_json:
        print_json(answer)
    else:
        _print_place(answer)
    if answer.problem:
        fail(f"MySQL cannot say where the state is: {answer.problem}")


def _print_place(answer: Where) -> None:
    lines: list[tuple[str, object]] = [
        ("lookup key", answer.lookup_key),
        ("owner", answer.owner),
        ("fallback", ", ".join(answer.order[1:]) or "none"),
    ]
    lines += [("hint", f"{one.node}: {one.day or one.outcome}") for one in answer.hints]
    if state := answer.state:
        lines += [("partition", state.partition), ("version", state.version)]
        lines += [("belongs to", state.owner), ("state", state.body)]
    elif not answer.problem:
        lines.append(("state", "none in any partition"))
    for word, value in lines:
        print(f"{word:<13}{value}")


def _where_keys(config: Path, keys: Path, as_json: bool) -> None:
    """Print the node of each line of `keys` (`-`: standard input), as it is read.

    A line ends with LF or CR LF, which are not part of the key; an empty line is the empty key. In
    JSON, bytes that are not UTF-8 are lone surrogates (Python's "surrogateescape").
    """
    from sharding.ring.ring import ring_of

    lookup = load_lookup(config)
    if lookup.mode == "cluster":
        fail("in a Redis Cluster only the servers know the node: redis-cli cluster keyslot KEY")
    ring, out = ring_of(lookup), sys.stdout.buffer
    try:
        with sys.stdin.buffer if str(keys) == "-" else keys.open("rb") as lines:
            for line in lines:
                key = line[:-2] if line.endswith(b"\r\n") else line.removesuffix(b"\n")
                node = ring.owner(key).name
                if as_json:
                    shown = {"key": key.decode("utf-8", "surrogateescape"), "node": node}
                    out.write(json.dumps(shown).encode() + b"\n")
                else:
                    out.write(b"%b\t%b\n" % (key, node.encode()))
            out.flush()
    except BrokenPipeError:
        # The reader has closed the pipe (`| head`); Python would report that again at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except OSError as error:
        fail(f"{keys} cannot be read: {error.strerror}")


async def _where(sections: Sections, user: int, playlist: int) -> Where:
    from sharding.backend import Backend
    from sharding.state import Key
    from sharding.where import where_is

    async with await Backend.open(sections, prune=False) as backend:
        await find_cluster(backend)
        return await where_is(backend, Key(user, playlist), all_or_nothing=False)
