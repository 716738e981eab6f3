"""How `tapedeck ring show` shows the copying after a reload."""

from __future__ import annotations

from typing import Any


def print_move(gateway: dict[str, Any]) -> None:
    """Print what a gateway said of its last move, if it made one."""
    print(f"generation   {gateway['generation']}")
    move, warm_up = gateway["move"], gateway["warm_up"] or {}
    if move is None:
        return
    share = f", {move['moved_share']:.1%} of them moving" if move["moved_share"] is not None else ""
    print(
        f"move         {move['state']}, {move['progress']:.0%}: {move['scanned']:,} entries seen"
        f"{share}; {move['copied']:,} copied, {move['kept']:,} known already,"
        f" {move['failed']:,} failed"
    )
    for source in move["sources"]:
        problem = f" ({source['problem']})" if source["problem"] else ""
        print(f"  from       {source['node']} {source['address']}: {source['state']}{problem}")
    print(
        f"warm-up      {warm_up.get('hit', 0):,} hints from previous owners,"
        f" {warm_up.get('partitions_saved', 0):,} partitions not read"
    )
