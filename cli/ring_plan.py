"""`tapedeck ring plan`: what other nodes or weights would do, before anyone does it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cli.common import (
    DEFAULT_CONFIG,
    ConfigOption,
    JsonOption,
    fail,
    print_json,
    print_table,
    read_config,
    run,
)

if TYPE_CHECKING:
    from config.model import Lookup
    from sharding.ring.plan import Held


def plan(
    add: Annotated[
        list[str] | None,
        typer.Option(
            "--add", metavar="'HOST:PORT:WEIGHT NAME'", help="A node that would be added; repeat."
        ),
    ] = None,
    remove: Annotated[
        list[str] | None,
        typer.Option("--remove", metavar="NAME", help="A node that would be removed; repeat."),
    ] = None,
    weight: Annotated[
        list[str] | None,
        typer.Option("--weight", metavar="NAME=WEIGHT", help="A node's other weight; repeat."),
    ] = None,
    config: ConfigOption = DEFAULT_CONFIG,
    as_json: JsonOption = False,
) -> None:
    """Say what adding, removing or re-weighting lookup nodes would do. Changes nothing.

    It prints the share of the keys that would move, against what the weights ask for, and what that
    costs; from which node to which; and the keys and the memory that each node would have, by what
    it has now.

    Example: tapedeck ring plan --add "10.0.0.4:6379:1 lookup4"
    """
    from sharding.ring.plan import forecast
    from sharding.ring.ring import ring_of

    if not (add or remove or weight):
        raise typer.BadParameter("say what would change: --add, --remove or --weight")
    before = read_config(config).lookup
    if before.mode == "cluster":
        fail("a Redis Cluster places its own slots: see redis-cli --cluster rebalance")
    after = _changed(before, add or [], remove or [], weight or [])
    held = run(_held(before))
    answer = forecast(ring_of(before), ring_of(after), held)
    answer["silent"] = [name for name, what in held.items() if what is None]
    if as_json:
        print_json(answer)
    else:
        _print(answer)


def _changed(before: Lookup, add: list[str], remove: list[str], weight: list[str]) -> Lookup:
    from pydantic import ValidationError

    from config.model import Lookup

    names = {server.name for server in before.servers}
    weights: dict[str, str] = {}
    for text in weight:
        name, _, number = text.rpartition("=")
        weights[name] = number
    for name in (*remove, *weights):
        if name not in names:
            fail(f"there is no node {name!r}; there are {', '.join(sorted(names))}")
    servers: list[Any] = [
        {**server.model_dump(), "weight": weights.get(server.name, server.weight)}
        for server in before.servers
        if server.name not in remove
    ]
    try:
        changed = Lookup.model_validate({"servers": [*servers, *add]})
    except ValidationError as error:
        problems = (problem["msg"].removeprefix("Value error, ") for problem in error.errors())
        fail("; ".join(problems))
    return before.model_copy(update={"servers": changed.servers})


async def _held(config: Lookup) -> dict[str, Held | None]:
    from failover.redis.connections import info_of
    from failover.redis.nodes import Nodes
    from sharding.ring.plan import Held

    nodes = Nodes(config)

    async def look(node: Any) -> Held | None:
        replies = await node.run([("DBSIZE",), ("INFO", "memory")])
        if replies is None:
            return None
        info = info_of(replies[1])
        # An empty node takes memory too: that part does not move.
        used = int(info["used_memory"]) - int(info.get("used_memory_startup", 0))
        return Held(int(replies[0]), max(0, used))

    try:
        found = await asyncio.gather(*(look(node) for node in nodes))
        return {node.name: what for node, what in zip(nodes, found, strict=True)}
    finally:
        await nodes.close()


def _print(answer: dict[str, Any]) -> None:
    print(
        f"{answer['moved']:.1%} of the key space would move; by the weights alone it would be"
        f" {answer['ideal']:.1%}"
    )
    keys = "Each key that moves" if answer["keys"] is None else f"Some {answer['keys']:,} keys"
    print(
        f"Nothing is copied. {keys} would be loaded without a hint, once: one more partition read"
    )
    if answer["silent"]:
        print(f"keys and memory are not known: {', '.join(answer['silent'])} did not answer")
    shown: dict[str, Callable[[Any], str]] = {
        "weight": str,
        "share": "{:.1%}".format,
        "keys": "{:,}".format,
        "memory_bytes": lambda size: f"{size / 1e6:,.1f} MB",
    }
    nodes = [
        (node["name"], *(_both(node, what, show) for what, show in shown.items()))
        for node in answer["nodes"]
    ]
    print_table(("node", "weight", "share", "keys", "memory"), nodes)
    if answer["moves"]:
        moves = [
            (move["from"], move["to"], f"{move['share']:.1%}", _shown(move["keys"], "{:,}".format))
            for move in answer["moves"]
        ]
        print_table(("from", "to", "share", "keys"), moves)


def _shown(value: Any, show: Callable[[Any], str]) -> str:
    return "-" if value is None else show(value)


def _both(node: dict[str, Any], what: str, show: Callable[[Any], str]) -> str:
    before, after = _shown(node[f"{what}_before"], show), _shown(node[what], show)
    return before if before == after else f"{before} -> {after}"
