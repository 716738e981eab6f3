"""The plots of a run, as PNG files. matplotlib is an optional dependency (`.[bench]`)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from bench import workloads
from bench.lab import Record
from bench.tables import PEERS
from bench.targets import select

# Okabe and Ito's palette: told apart by the colour-blind too. A peer has one colour everywhere.
_COLOURS = {
    "gateway": "#0072B2",
    "gateway2": "#56B4E9",
    "go": "#D55E00",
    "asyncio": "#009E73",
    "threads": "#CC79A7",
    "constant": "#999999",
    "constant_app": "#bbbbbb",
    "go_table": "#E69F00",
    "go_redis": "#F0E442",
}
_SHORT = {
    "warm": "warm\nsessions",
    "cold": "first touch\nof the day",
    "back": "back after\n2 to 29 days",
    "miss": "exists\nnowhere",
    "hot": "one\nhot key",
}


def draw(records: Sequence[Record], folder: Path) -> list[Path]:
    """Draw every plot that the records have figures for.

    Returns:
        The files, in an order to be read in; none where matplotlib is not installed.
    """
    try:
        import matplotlib as mpl
    except ImportError:
        return []
    mpl.use("Agg")
    from matplotlib import pyplot

    pyplot.rcParams.update(
        {
            "figure.dpi": 110,
            "font.size": 9,
            "axes.spines.top": False,
            "axes.spines.right": False,
            "axes.grid": True,
            "axes.axisbelow": True,
            "grid.alpha": 0.3,
            "svg.hashsalt": "tapedeck",
        }
    )
    made = []
    for name, plot in _PLOTS.items():
        figure = plot(records, pyplot)
        if figure is None:
            continue
        path = folder / f"{name}.png"
        figure.savefig(path, bbox_inches="tight", metadata={"Software": None})
        pyplot.close(figure)
        made.append(path)
    return made


def _median(records: Sequence[Record], name: str) -> float:
    return float(median(float(r[name]) for r in records))


def _throughput(records: Sequence[Record], pyplot: Any) -> Any:
    """Warm sessions of all peers; and the other workloads beside plain Go."""
    warm = select(records, "throughput", workload="warm")
    if not warm:
        return None
    figure, (left, right) = pyplot.subplots(1, 2, figsize=(10, 3.6), width_ratios=(1.1, 1))
    peers = sorted(
        {str(r["peer"]) for r in warm},
        key=lambda peer: _median(select(warm, "throughput", peer=peer), "rate"),
    )
    for peer in peers:
        values = [r["rate"] for r in select(warm, "throughput", peer=peer)]
        left.barh(PEERS[peer], median(values), color=_COLOURS[peer])
        left.plot([min(values), max(values)], [PEERS[peer]] * 2, color="black", linewidth=1)
        left.annotate(
            f" {median(values):,.0f}", (max(values), PEERS[peer]), va="center", fontsize=8
        )
    left.set_title("warm sessions: requests/s, 64 connections", loc="left")
    left.margins(x=0.15)
    left.grid(axis="y", visible=False)
    names = [n for n in _SHORT if select(records, "throughput", workload=n, peer="go")]
    for at, name in enumerate(names):
        go, ours = (
            {r["round"]: r["rate"] for r in select(records, "throughput", workload=name, peer=peer)}
            for peer in ("go", "gateway")
        )
        ratios = [ours[n] / go[n] for n in sorted(go.keys() & ours.keys())]
        if ratios:
            right.bar(at, median(ratios), color=_COLOURS["gateway"], width=0.6)
            right.plot([at, at], [min(ratios), max(ratios)], color="black", linewidth=1)
            right.annotate(
                f"{median(ratios):.1f}x", (at, max(ratios)), ha="center", va="bottom", fontsize=8
            )
    right.axhline(1, color=_COLOURS["go"], linewidth=1.5)
    right.annotate("plain Go", (len(names) - 0.5, 1), ha="right", va="bottom", fontsize=8)
    right.set_xticks(range(len(names)), [_SHORT[name] for name in names], fontsize=8)
    right.set_title("Tapedeck against plain Go", loc="left")
    right.grid(axis="x", visible=False)
    right.margins(y=0.12)
    figure.tight_layout()
    return figure


def _cost(records: Sequence[Record], pyplot: Any) -> Any:
    """CPU time a request, by the process that used it: comparable also on a busy machine."""
    found = [r for r in select(records, "throughput") if r["workload"] in _SHORT]
    if not found:
        return None
    figure, (left, right) = pyplot.subplots(1, 2, figsize=(10, 3.6), width_ratios=(1, 1.1))
    warm = [r for r in found if r["workload"] == "warm"]
    bars = [(PEERS[p], _costs(warm, p)) for p in dict.fromkeys(str(r["peer"]) for r in warm)]
    _stacked(left, bars)
    left.set_title("warm sessions: CPU us a request", loc="left")
    bars = []
    for name, title in _SHORT.items():
        mine = [r for r in found if r["workload"] == name]
        for peer in ("go", "gateway"):
            if any(r["peer"] == peer for r in mine):
                label = f"{' '.join(title.split())}, {PEERS[peer].partition(',')[0]}"
                bars.append((label, _costs(mine, peer)))
    _stacked(right, bars)
    right.set_title("other workloads, beside plain Go", loc="left")
    right.legend(frameon=False, fontsize=8)
    figure.tight_layout()
    return figure


_PARTS = {"gateway": "#0072B2", "mysql": "#E69F00", "redis": "#D55E00", "twemproxy": "#CC79A7"}


def _costs(records: Sequence[Record], peer: str) -> list[float]:
    mine = [r for r in records if r["peer"] == peer]
    return [_median(mine, f"cpu_{part}_us") for part in _PARTS]


def _stacked(axes: Any, bars: Sequence[tuple[str, Sequence[float]]]) -> None:
    labels = [label for label, _ in bars]
    begin = [0.0] * len(bars)
    for number, (part, colour) in enumerate(_PARTS.items()):
        lengths = [costs[number] for _, costs in bars]
        axes.barh(labels, lengths, left=begin, color=colour, label=part)
        begin = [a + b for a, b in zip(begin, lengths, strict=True)]
    axes.invert_yaxis()
    axes.tick_params(axis="y", labelsize=8)
    axes.grid(axis="y", visible=False)


def _lines(axes: Any, records: Sequence[Record], by: str, value: str, ticks: bool = True) -> None:
    for peer in dict.fromkeys(str(r["peer"]) for r in records):
        mine = [r for r in records if r["peer"] == peer]
        steps = sorted({r[by] for r in mine})
        groups = [[r[value] for r in mine if r[by] == step] for step in steps]
        axes.plot(steps, [median(g) for g in groups], "o-", color=_COLOURS[peer], label=PEERS[peer])
        axes.fill_between(
            steps, [min(g) for g in groups], [max(g) for g in groups],
            color=_COLOURS[peer], alpha=0.15, linewidth=0,
        )  # fmt: skip
        if ticks:
            axes.set_xticks(steps, [str(step) for step in steps])
            axes.minorticks_off()


def _connections(records: Sequence[Record], pyplot: Any) -> Any:
    found = select(records, "connections")
    if not found:
        return None
    figure, (left, right) = pyplot.subplots(1, 2, figsize=(10, 3.2))
    for axes, value, title in (
        (left, "rate", "warm sessions: requests/s by connections"),
        (right, "p99", "p99 ms by connections"),
    ):
        axes.set_xscale("log", base=2)
        if value == "p99":
            axes.set_yscale("log")
        _lines(axes, found, "connections", value)
        axes.set_title(title, loc="left")
    left.set_ylim(bottom=0)
    left.legend(frameon=False)
    figure.tight_layout()
    return figure


def _open_loop(records: Sequence[Record], pyplot: Any) -> Any:
    found = select(records, "open_loop")
    if len({r["share"] for r in found}) < 2:
        return None
    figure, (left, right) = pyplot.subplots(1, 2, figsize=(10, 3.2), sharey=True)
    for axes, value, title in (
        (left, "p50", "p50 ms by load, open loop"),
        (right, "p99", "p99 ms by load, open loop"),
    ):
        axes.set_yscale("log")
        _lines(axes, found, "asked", value, ticks=False)
        axes.set_title(title, loc="left")
        axes.set_xlabel("requests/s")
    left.legend(frameon=False)
    figure.tight_layout()
    return figure


def _over_time(
    records: Sequence[Record], pyplot: Any, title: str, marks: Callable[[Any, Record], None]
) -> Any:
    found = [r for r in records if r.get("windows")]
    if not found:
        return None
    figure, panes = pyplot.subplots(1, len(found), figsize=(10, 3), sharey=True, squeeze=False)
    for axes, r in zip(panes[0], found, strict=True):
        windows = [w for w in r["windows"] if w[1]]
        axes.plot([w[0] for w in windows], [w[3] for w in windows], color=_COLOURS[r["peer"]])
        axes.set_yscale("log")
        marks(axes, r)
        axes.set_title(f"{PEERS[r['peer']]}: {title}", loc="left", fontsize=9)
        axes.set_xlabel("seconds")
    panes[0][0].set_ylabel("p99 ms, by quarter second")
    figure.tight_layout()
    return figure


def _purge(records: Sequence[Record], pyplot: Any) -> Any:
    def marks(axes: Any, r: Record) -> None:
        axes.axvspan(
            r["purge_started"], max(r["purge_ended"], r["purge_started"] + 0.05),
            color="black", alpha=0.15, linewidth=0,
        )  # fmt: skip

    return _over_time(select(records, "purge"), pyplot, "a day's rows go (grey)", marks)


def _node_loss(records: Sequence[Record], pyplot: Any) -> Any:
    def marks(axes: Any, r: Record) -> None:
        axes.axvline(r["killed"], color="black", linestyle=":")

    return _over_time(select(records, "node_loss"), pyplot, "a lookup node is killed", marks)


def _loads(records: Sequence[Record], pyplot: Any) -> Any:
    counts, found = select(records, "by_count"), select(records, "by_rows")
    if not counts:
        return None
    figure, panes = pyplot.subplots(1, 2 if found else 1, figsize=(10, 3), squeeze=False)
    left, right = panes[0][0], panes[0][-1]
    for connections, style in ((1, "o-"), (64, "s--")):
        mine = [r for r in counts if r["connections"] == connections]
        left.plot(
            [r["partitions"] for r in mine], [r["p50"] for r in mine], style,
            color=_COLOURS["gateway"], label=f"{connections} connections",
        )  # fmt: skip
    left.set_title("a load without a hint: p50 ms by partitions", loc="left")
    left.set_ylim(bottom=0)
    left.legend(frameon=False)
    if found:
        for pool, colour in (("large", _COLOURS["gateway"]), ("small", _COLOURS["go"])):
            mine = [r for r in found if r["pool"] == pool and r["connections"] == 1]
            right.plot(
                [r["rows"] for r in mine], [r["p50"] for r in mine], "o-", color=colour,
                label=f"{'less' if pool == 'large' else 'more'} data than the buffer pool holds",
            )  # fmt: skip
        right.set_xscale("log")
        right.legend(frameon=False)
        right.set_title("a load with a hint: p50 ms by rows, 1 connection", loc="left")
        right.set_ylim(bottom=0)
    figure.tight_layout()
    return figure


_PLOTS: dict[str, Callable[[Sequence[Record], Any], Any]] = {
    "throughput": _throughput,
    "cost": _cost,
    "connections": _connections,
    "open_loop": _open_loop,
    "purge": _purge,
    "node_loss": _node_loss,
    "loads": _loads,
}
assert _SHORT.keys() <= {workload.name for workload in workloads.ALL}
