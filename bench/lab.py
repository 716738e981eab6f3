"""Runs a peer under a workload, and records what was measured."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from typing import Any

from bench import measure, sealed, seed, workloads
from bench.load import Load, Measured
from bench.peers import processes
from bench.peers.processes import GATEWAY, GATEWAY2, Kind, Peer
from bench.servers import GATEWAY as GATEWAY_DATABASE
from bench.servers import PLAIN, TABLE, Servers
from bench.workloads import Prepared, Workload
from sharding.partitions.calendar import table
from stack.process import ServerFailed

Record = dict[str, Any]

_FIRST_GUESS = {"": 40_000, "gateway": 20_000, "redis": 16_000}
"""Warm requests a second that a peer may reach, by its store, before any was measured."""


@dataclass(frozen=True)
class Scale:
    """How much is measured.

    Attributes:
        name: quick, full, long, month or tiny.
        rounds: of each comparison.
        seconds: of one run, warm-up included.
        warmup: seconds of it that are not counted.
        bulk: rows in each partition before anything begins.
        purged: rows of the day that is purged.
        sealed: rows of the day that is sealed.
        imported: rows of an import without a bound: so many that the command's start, which takes
            a second, counts as little as in an import of hours.
        open_rounds, open_seconds: rounds and seconds of each load in the open loop, where a p99
            needs more samples.
    """

    name: str
    rounds: int
    seconds: float
    warmup: float
    bulk: int
    purged: int = 300_000
    sealed: int = 1_500_000
    imported: int = 400_000
    open_rounds: int = 7
    open_seconds: float = 8.0

    @property
    def wide(self) -> bool:
        """Whether there is time for every peer and every step."""
        return self.name not in ("quick", "tiny")


@dataclass
class Lab:
    """Servers, peers and what was measured so far.

    Attributes:
        go, generator: the binaries.
        say: is told each result in a line.
    """

    servers: Servers
    scale: Scale
    go: Path
    generator: Path
    say: Callable[[str], None]
    records: list[Record] = field(default_factory=list)
    peers: dict[Kind, Peer] = field(default_factory=dict)
    _rates: dict[tuple[str, str], float] = field(default_factory=dict)
    _warm: set[Peer] = field(default_factory=set)
    _documents: dict[Kind, dict[str, Any]] = field(default_factory=dict)

    def beside(self, servers: Servers, scale: Scale | None = None) -> Lab:
        """A lab on other servers, with peers of its own, whose records are added to these."""
        return Lab(
            servers, scale or self.scale, self.go, self.generator, self.say, records=self.records
        )

    def peer(self, kind: Kind) -> Peer:
        """The peer's process, started when it is first asked for."""
        if kind not in self.peers:
            if kind in (GATEWAY, GATEWAY2):
                # The benchmark decides which days are sealed and dropped, and when.
                document = self.servers.gateway(partitions={"seal": False, "prune": False})
                peer = processes.gateway(
                    self.servers, document, workers=2 if kind is GATEWAY2 else 1
                )
                self._documents[kind] = document
            else:
                peer = processes.plain(kind, self.servers, self.go)
            self.peers[kind] = peer
            peer.start()
        return self.peers[kind]

    def stop(self, kind: Kind) -> None:
        """End a peer's process; it is started anew when it is asked for again."""
        peer = self.peers.pop(kind, None)
        if peer is not None:
            peer.kill()

    def stop_all(self) -> None:
        """End all peers."""
        for kind in list(self.peers):
            self.stop(kind)

    def configure(self, kind: Kind, **partitions: Any) -> None:
        """Give a running gateway other values of the section `partitions`."""
        document = self._documents[kind]
        document["partitions"].update(partitions)
        processes.write_config(self.servers, document, kind.name)
        sealed.reload(document)

    def take_filters(self, kind: Kind, days: int = seed.RETENTION) -> None:
        """Return once a gateway uses the filters of so many days, as they are stored now."""
        self.peer(kind)
        sealed.take_filters(self._documents[kind], days)

    def lookups_again(self) -> None:
        """Start the killed lookup nodes, and stop the peers, which may have ejected them."""
        for node in self.servers.lookups:
            if not node.running:
                node.start()
        for kind in list(self.peers):
            if kind.store in ("gateway", "plain"):
                self.stop(kind)
        assert self.servers.nutcracker is not None
        self.servers.nutcracker.kill()
        self.servers.nutcracker.start()

    def seed_bulk(self) -> None:
        """Tables of all designs, with rows of listeners that the load does not use."""
        seed.make_tables(self.servers)
        for number in range(1, seed.RETENTION + 1):
            first = number * seed.BULK_A_DAY
            users = range(first, first + self.scale.bulk)
            seed.gateway_rows(self.servers, seed.days_ago(number), users, 1)
            seed.plain_rows(self.servers, seed.days_ago(number), users, 1)
            seed.table_rows(self.servers, seed.days_ago(number), users, 1)
        sealed.seal(self.servers.gateway(), self._over())

    def _over(self) -> list[date]:
        """The days that are over: their partitions get no new keys."""
        return [seed.days_ago(number) for number in range(1, seed.RETENTION + 1)]

    def record(self, experiment: str, **fields: Any) -> Record:
        """Add a result to the records."""
        made = {"experiment": experiment, **fields}
        self.records.append(made)
        return made

    # --- runs

    def seal(self, kind: Kind) -> None:
        """Seal the seeded days again, and return once a gateway has the filters."""
        self.peer(kind)
        sealed.seal(self._documents[kind], self._over())
        self.take_filters(kind)

    def prepare(
        self,
        kind: Kind,
        workload: Workload,
        seconds: float,
        rate: float = 0,
        *,
        seal: bool = True,
    ) -> Prepared:
        """Prepare enough sessions for a run, and write what they need beforehand.

        Args:
            seal: whether the days that it seeded are sealed anew; the caller does it otherwise.
        """
        name = kind.store, workload.name
        guess = 8_000 if workload.requests_each == 1 else _FIRST_GUESS.get(kind.store, 8_000)
        expected = rate or self._rates.get(name, guess)
        prepared = workload.prepare(self.servers, kind.store, int(expected * 1.4 * seconds) + 1000)
        if kind.store == "gateway" and workload.seeds and seal:
            self.seal(kind)
        if prepared.opening is not None:
            opened = self.load(
                kind, prepared.opening, connections=64, seconds=120, warmup=0
            ).finish()
            if opened.errors:
                raise ServerFailed(f"{kind.title} could not open the sessions: {opened.statuses}")
            prepared.opening.unlink()
        return prepared

    def under_way(
        self, kind: Kind, workload: Workload, seconds: float, rate: float, connections: int
    ) -> tuple[Prepared, Load]:
        """Begin a load of so many requests a second. The caller measures what it does meanwhile."""
        prepared = self.prepare(kind, workload, seconds, rate)
        load = self.load(
            kind,
            prepared.path,
            connections=connections,
            seconds=seconds,
            warmup=self.scale.warmup,
            rate=rate,
        )
        return prepared, load

    def load(
        self,
        kind: Kind,
        sessions: Path,
        *,
        connections: int,
        seconds: float,
        warmup: float,
        rate: float = 0,
        seed: int = 1,
    ) -> Load:
        """Start the load generator."""
        return Load(
            self.generator,
            self.peer(kind).port,
            sessions,
            connections=connections,
            seconds=seconds,
            warmup=warmup,
            rate=rate,
            seed=seed,
        )

    def run(
        self,
        experiment: str,
        kind: Kind,
        workload: Workload,
        number: int,
        *,
        connections: int = 64,
        rate: float = 0,
        seconds: float | None = None,
        prepared: Prepared | None = None,
        **fields: Any,
    ) -> Record:
        """Run a peer under a workload, and record it.

        Args:
            number: the round.
            prepared: what `prepare` returned, if it cannot be called now.
            fields: more fields of the record.
        """
        seconds = seconds or self.scale.seconds
        peer = self.peer(kind)
        self._warm_up(kind, peer)
        prepared = prepared or self.prepare(kind, workload, seconds, rate)
        before = measure.usage(self.servers, peer.pid)
        load = self.load(
            kind,
            prepared.path,
            connections=connections,
            seconds=seconds,
            warmup=self.scale.warmup,
            rate=rate,
            seed=number + 1,
        )
        measured = load.finish()
        after = measure.usage(self.servers, peer.pid)
        prepared.path.unlink()
        if not rate:
            self._rates[kind.store, workload.name] = max(
                measured.rate, 0.7 * self._rates.get((kind.store, workload.name), 0)
            )
        record = self.record(
            experiment,
            workload=workload.name,
            peer=kind.name,
            round=number,
            connections=connections,
            asked=rate,
            **figures(measured),
            **{k: round(v, 4) for k, v in after.since(before, len(measured.samples)).items()},
            **self.changes_lost(kind, prepared, measured),
            **fields,
        )
        self.say(
            f"{workload.title:<42} {kind.title:<20} {connections:>4} conn  round {number + 1}: "
            f"{record['rate']:>7.0f}/s  p50 {record['p50']:>6.2f}  p99 {record['p99']:>7.2f} ms"
            + (f"  {record['errors']} errors" if record["errors"] else "")
            + (f"  {record['lost']} lost" if record["lost"] else "")
        )
        return record

    def _warm_up(self, kind: Kind, peer: Peer) -> None:
        """Let a peer open its connections and fill its caches before its first run is measured."""
        if peer in self._warm:
            return
        self._warm.add(peer)
        prepared = workloads.WARM.prepare(self.servers, kind.store, 40_000)
        seconds = max(0.5, 2 * self.scale.warmup)
        self.load(kind, prepared.path, connections=64, seconds=seconds, warmup=0).finish()
        prepared.path.unlink()

    def changes_lost(self, kind: Kind, prepared: Prepared, measured: Measured) -> Record:
        """Count the acknowledged changes that were lost: each change raises a version by one.

        A change that was made, but not acknowledged, would hide a lost one; if no request failed,
        there is no such change.
        """
        if kind.store not in ("gateway", "plain", "table") or not prepared.users:
            return {"lost": None}
        acknowledged = sum(1 for s in measured.samples if s.status == 200)
        return {"lost": prepared.before + acknowledged - self.written(kind, prepared.users)}

    def written(self, kind: Kind, users: range) -> int:
        """The sum of these listeners' versions, over all tables."""
        database = {"gateway": GATEWAY_DATABASE, "plain": PLAIN, "table": TABLE}[kind.store]
        names = (
            ["player_state"]
            if kind.store == "table"
            else [table(seed.days_ago(n)) for n in range(-1, seed.RETENTION + 1)]
        )
        among = f"user_id BETWEEN {users.start} AND {users.stop - 1}"
        rows = " UNION ALL ".join(f"SELECT user_id, version FROM {n} WHERE {among}" for n in names)
        # The plain peers leave a state of an earlier day where it was, beside the newer one.
        newest = f"SELECT MAX(version) AS v FROM ({rows}) AS r GROUP BY user_id"
        with self.servers.connect(database) as cursor:
            cursor.execute(f"SELECT COALESCE(SUM(v), 0) FROM ({newest}) AS n")
            return int(cursor.fetchone()[0])


def figures(measured: Measured) -> Record:
    """The figures of a run that every table has."""
    return {
        "rate": round(measured.rate, 1),
        "requests": len(measured.samples),
        "p50": round(measured.percentile(0.5), 3),
        "p99": round(measured.percentile(0.99), 3),
        "p999": round(measured.percentile(0.999), 3),
        "errors": measured.errors,
        "statuses": measured.statuses,
    }
