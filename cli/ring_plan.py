"""`tapedeck ring plan`: what a change of nodes or weights would do."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from msgspec import to_builtins
from pydantic import ValidationError

from cli.admin import NoAnswer
from cli.check_config import ask_what_differs
from cli.common import (
    DEFAULT_CONFIG,
    AgainstOption,
    ConfigOption,
    JsonOption,
    fail,
    print_json,
    print_table,
    run,
)
from config.load import load
from config.model import Lookup, Sections

if TYPE_CHECKING:
    from sharding.ring.plan import Forecast, Held


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
    against: AgainstOption = None,
    config: ConfigOption = DEFAULT_CONFIG,
    as_json: JsonOption = False,
) -> None:
    """Say what a change of the lookup nodes would do. Changes nothing.

    Before the configuration is edited: what adding, removing or re-weighting nodes would do to its
    ring. Afterwards, without these options: what a reload would do to the running gateway's ring.

    It prints the share of the keys that would move to another node, and what that costs; from which
    node to which; and the keys and the memory that each node would have, by what it has now.

    Example: tapedeck ring plan --add "10.0.0.4:6379:1 lookup4"

    Example: tapedeck ring plan
    """
    from sharding.ring.placement import differences
    from sharding.ring.plan import forecast

    if add or remove or weight:
        before = load(config).lookup
        after = _changed(before, add or [], remove or [], weight or [], config)
    else:
        sections = load(config)
        before, after = _running(sections, config, against), sections.lookup
    if after.mode == "cluster":
        fail("a Redis Cluster places its own slots: see redis-cli --cluster rebalance")
    held = run(_held(before, after))
    by_name = {server.name: held[str(server)] for server in before.servers}
    found, changes = forecast(before, after, by_name), differences(before, after)
    silent = [
        server.name
        for server in {str(s): s for s in (*before.servers, *after.servers)}.values()
        if held[str(server)] is None
    ]
    if as_json:
        print_json({**to_builtins(found), "changes": changes, "silent": silent})
    else:
        _print(found, changes, silent)


def _running(sections: Sections, config: Path, against: str | None) -> Lookup:
    """The section `lookup` as the running gateway has it, where that decides where keys lie."""
    from sharding.ring.placement import PLACING

    try:
        answer = ask_what_differs(sections, config, against)
    except NoAnswer as error:
        fail(f"{error} (before a change: --add, --remove or --weight)")
    old = {word: answer.values.get(f"lookup.{word}") for word in PLACING}
    changed = {word: values[0] for word, values in old.items() if values is not None}
    return type(sections.lookup).model_validate({**sections.lookup.model_dump(), **changed})


def _changed(
    before: Lookup, add: list[str], remove: list[str], weight: list[str], path: Path
) -> Lookup:
    names = {server.name for server in before.servers}
    weights: dict[str, str] = {}
    for text in weight:
        name, given, number = text.rpartition("=")
        if not given:
            fail(f"--weight {text}: write NAME=WEIGHT, such as {text}=2")
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
        problems = [
            ".".join(map(str, ("lookup", *problem["loc"])))
            + f": {problem['msg'].removeprefix('Value error, ')}"
            for problem in error.errors()
        ]
        twice = any("two servers" in problem for problem in problems)
        hint = f" (is it in {path} already? Then: tapedeck ring plan, without --add)"
        fail("; ".join(problems) + hint * twice)
    return before.model_copy(update={"servers": changed.servers})


async def _held(before: Lookup, after: Lookup) -> dict[str, Held | None]:
    """By address, what each node of both has; None for one that does not say."""
    from failover.redis.connections import info_of
    from failover.redis.nodes import Node
    from sharding.ring.plan import Held

    servers = {str(server): server for server in (*before.servers, *after.servers)}
    nodes = [Node(server, after) for server in servers.values()]

    async def look(node: Node) -> Held | None:
        replies = await node.run([("DBSIZE",), ("INFO", "memory")])
        if replies is None:
            return None
        info = info_of(replies[1])
        # An empty node takes memory too: that part does not move.
        used = int(info["used_memory"]) - int(info.get("used_memory_startup", 0))
        return Held(int(replies[0]), max(0, used))

    try:
        found = await asyncio.gather(*(look(node) for node in nodes))
        return dict(zip(servers, found, strict=True))
    finally:
        for node in nodes:
            node.close()


def _print(found: Forecast, changes: list[str], silent: list[str]) -> None:
    if not changes:
        print("The gateway has this ring already: a reload moves nothing")
        return
    print(f"{found.moved:.1%} of the keys would move to another node:")
    for change in changes:
        print(f"  {change}")
    keys = "Each key that moves" if found.keys is None else f"Some {found.keys:,} keys"
    print(
        f"Nothing is copied. {keys} would be loaded without a hint, once: one more partition read."
        "\nOld owners keep what they had until it expires; what follows is how it is then"
    )
    added = {node.name for node in found.nodes if node.weight_before is None}
    for name in silent:
        means = (
            "a reload refuses a new node that does not"
            if name in added
            else "what it has is not known"
        )
        print(f"warning: {name} did not answer; {means}")
    nodes = [
        (
            node.name,
            _both("{}", node.weight_before, node.weight),
            _both("{:.1%}", node.share_before, node.share),
            _both("{:,}", node.keys_before, node.keys),
            _both("{:,.1f} MB", _mega(node.memory_bytes_before), _mega(node.memory_bytes)),
        )
        for node in found.nodes
    ]
    print_table(("node", "weight", "share", "keys", "memory"), nodes)
    if found.moves:
        moves = [
            (one.source, one.target, f"{one.share:.1%}", _shown("{:,}", one.keys))
            for one in found.moves
        ]
        print_table(("from", "to", "share", "keys"), moves)


def _shown(form: str, value: float | None) -> str:
    return "-" if value is None else form.format(value)


def _both(form: str, before: float | None, after: float | None) -> str:
    old, new = _shown(form, before), _shown(form, after)
    return old if old == new else f"{old} -> {new}"


def _mega(size: int | None) -> float | None:
    return None if size is None else size / 1e6
