"""The targets, and whether a run reached them: medians of ratios within a round."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from bench.lab import Record
from bench.stats import Summary, paired, summary

NOT_MEASURED = "not measured"


@dataclass(frozen=True)
class Target:
    """One figure.

    Attributes:
        title: what is measured.
        least, aim: what is to be reached at least, and at best; the aim may be None.
        less_is_better: whether lower values are better.
        unit: what follows a value; `x` for a ratio.
        find: finds the figure in a run's records; raises ValueError if they do not have it.
    """

    title: str
    least: float
    aim: float | None
    less_is_better: bool
    unit: str
    find: Callable[[Sequence[Record]], Summary]


@dataclass(frozen=True)
class Verdict:
    """A target, and how a run compares with it.

    Attributes:
        reached: the measured figure; None if it was not measured.
        words: `aim reached`, `reached`, `missed: ...`, `not measured`.
    """

    target: Target
    reached: Summary | None
    words: str


def compare(target: Target, records: Sequence[Record]) -> Verdict:
    """Compare the median of the rounds with a target."""
    try:
        found = target.find(records)
    except ValueError:
        return Verdict(target, None, NOT_MEASURED)
    value = found.median
    if target.aim is not None and _as_good(value, target.aim, target.less_is_better):
        return Verdict(target, found, "aim reached")
    if _as_good(value, target.least, target.less_is_better):
        return Verdict(target, found, "reached")
    if target.least == 0:
        return Verdict(target, found, f"missed: {value:g} instead of 0")
    share = value / target.least
    off = f"{(share - 1) * 100:.0f} % above" if share > 1 else f"{(1 - share) * 100:.0f} % below"
    return Verdict(target, found, f"missed: {off} the least")


def _as_good(value: float, limit: float, less: bool) -> bool:
    return value <= limit if less else value >= limit


# --- where the figures are in the records


def select(records: Sequence[Record], experiment: str, **fields: object) -> list[Record]:
    """The records of an experiment that have these values."""
    return [
        r
        for r in records
        if r["experiment"] == experiment and all(r.get(k) == v for k, v in fields.items())
    ]


def by_round(records: Sequence[Record], value: str) -> dict[int, float]:
    """The value that each round measured; the last one if a round measured several."""
    return {int(r["round"]): float(r[value]) for r in records}


def ratio(
    experiment: str, value: str, ours: str, theirs: str, **fields: object
) -> Callable[[Sequence[Record]], Summary]:
    """Finds the ratio of one peer's value to another's, round by round."""

    def find(records: Sequence[Record]) -> Summary:
        sides = [
            by_round(select(records, experiment, peer=peer, **fields), value)
            for peer in (ours, theirs)
        ]
        return paired(*sides)

    return find


def value(experiment: str, name: str, **fields: object) -> Callable[[Sequence[Record]], Summary]:
    """Finds a value of the gateway itself."""
    return lambda records: summary(float(r[name]) for r in select(records, experiment, **fields))


def _purge_p99(records: Sequence[Record]) -> Summary:
    ours = select(records, "purge", peer="gateway")
    return paired(by_round(ours, "p99_during"), by_round(ours, "p99_before"))


def _purge_speed(records: Sequence[Record]) -> Summary:
    return paired(
        by_round(select(records, "purge", peer="go_table"), "took"),
        by_round(select(records, "purge", peer="gateway"), "took"),
    )


def _to_constant(title: str, workload: str, constant: str) -> Target:
    def find(records: Sequence[Record]) -> Summary:
        # A constant answer does not depend on the session: it is run under one workload only.
        return paired(
            by_round(select(records, "throughput", peer="gateway", workload=workload), "rate"),
            by_round(select(records, "throughput", peer=constant, workload="warm"), "rate"),
        )

    how = {"constant_app": "in an application", "constant": "on its bare server"}[constant]
    title = f"{title}, one worker, against aiohttp's constant {how}"
    return Target(title, 0.45, 0.6, False, "x", find)


def _lost(records: Sequence[Record]) -> Summary:
    lost = [
        int(r["lost"])
        for r in records
        if r.get("peer") in ("gateway", "gateway2") and r.get("lost") is not None
    ]
    if not lost:
        raise ValueError("nothing was counted")
    return Summary(sum(lost), min(lost), max(lost), len(lost))


def _two_workers(records: Sequence[Record]) -> Summary:
    places = {r["place"] for r in select(records, "workers")}
    best = [
        ratio("workers", "rate", "gateway2", "gateway", workload="warm", place=place)(records)
        for place in places
    ]
    if not best:
        raise ValueError("not measured")
    return max(best, key=lambda found: found.median)


def _lookups_dead(records: Sequence[Record]) -> Summary:
    runs = select(records, "lookups_dead")
    kinds = [
        [by_round(select(runs, "lookups_dead", workload=name, lookups=state), "rate")
         for state in ("dead", "alive")]
        for name in {r["workload"] for r in runs}
    ]  # fmt: skip
    if not kinds:
        raise ValueError("not measured")
    return min((paired(dead, alive) for dead, alive in kinds), key=lambda found: found.median)


def _sealing_p99(records: Sequence[Record]) -> Summary:
    runs = select(records, "sealing")
    return paired(by_round(runs, "p99_during"), by_round(runs, "p99_before"))


def _importing_p99(records: Sequence[Record]) -> Summary:
    runs = select(records, "importing", how="as fast as it may")
    return paired(by_round(runs, "p99_during"), by_round(runs, "p99_before"))


def _open_p99(share: float, least: float, aim: float) -> Target:
    title = f"p99 of whole sessions at {share:.0%} of plain Go's limit, against its p99"
    return Target(title, least, aim, True, "x", ratio("open_loop", "p99", *_GO, share=share))


_GO = ("gateway", "go")


def _against_go(title: str, least: float, aim: float, workload: str) -> Target:
    find = ratio("throughput", "rate", *_GO, workload=workload)
    return Target(f"{title}, against plain Go", least, aim, False, "x", find)


TARGETS = (
    _against_go("warm sessions, first request and all, requests/s", 4.2, 5, "warm"),
    _against_go("warm sessions, after the first request, requests/s", 3, 4, "open"),
    _against_go("first touch of the day with a hint", 1.7, 2.2, "cold"),
    _against_go("a state that exists nowhere", 1.6, 2.2, "miss"),
    _against_go("back after 2 to 29 days", 1.5, 2, "back"),
    _open_p99(0.2, 1, 0.8),
    _open_p99(0.5, 0.9, 0.7),
    _open_p99(0.8, 0.06, 0.03),
    Target(
        "the first request alone, one connection, on the pair (median)",
        1.7, 1.4, True, " ms",
        value("first_request", "p50", peer="gateway"),
    ),
    Target(
        "all lookup nodes dead against all alive, first touches (the worst kind)",
        0.85, 1, False, "x", _lookups_dead,
    ),
    Target(
        "a key asked for in the filters of 30 days",
        4, 2, True, " us",
        value("filters", "us", keys="nowhere"),
    ),
    Target(
        "filters of 30 days in memory, a key",
        1.5, 1.4, True, " bytes",
        value("filters", "bytes_a_key", keys="nowhere"),
    ),
    Target(
        "p99 while a day is sealed, against p99 before (1.5 million rows in a full run)",
        1.3, 1.1, True, "x", _sealing_p99,
    ),
    Target(
        "states imported a second, beside a gateway with a fifth of its load",
        20_000, 30_000, False, "",
        value("importing", "rows_a_second", how="as fast as it may"),
    ),
    Target("p99 while states are imported, against p99 before", 1.5, 1.2, True, "x",
           _importing_p99),
    Target(
        "lines of Python in gateway, sharding, failover, config, cli",
        18_500, 17_500, True, "",
        value("program", "lines"),
    ),
    _to_constant("warm, first request and all", "warm", "constant_app"),
    _to_constant("warm, after the first request", "open", "constant_app"),
    _to_constant("warm, first request and all", "warm", "constant"),
    _to_constant("warm, after the first request", "open", "constant"),
    Target(
        "Redis commands a request, a session after its first request",
        0.02, 0, True, "",
        value("throughput", "redis_commands", peer="gateway", workload="open"),
    ),
    Target(
        "MySQL CPU a request, warm sessions, against plain Go",
        0.3, 0.15, True, "x",
        ratio("throughput", "cpu_mysql_us", *_GO, workload="warm"),
    ),
    Target(
        "bytes a lookup, 30 playlists a user",
        20, 17, True, "",
        value("memory", "bytes", layout="packed"),
    ),
    Target("p99 during the nightly drop, against p99 before", 1.3, 1.1, True, "x", _purge_p99),
    Target("dropping a day against deleting its rows", 100, None, False, "x", _purge_speed),
    Target("two workers against one, warm, the better placement", 1.5, None, False, "x",
           _two_workers),
    Target("lost updates, all runs", 0, 0, True, "", _lost),
)  # fmt: skip


def verdicts(records: Sequence[Record]) -> list[Verdict]:
    """All targets, in order."""
    return [compare(target, records) for target in TARGETS]
