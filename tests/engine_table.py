"""`make test-engines`: run the tests of what differs between engines on each, and write a table.

    python -m tests.engine_table                    everything, about three quarters of an hour
    python -m tests.engine_table --only mysql-9     one engine, or several
    python -m tests.engine_table --rows drill       the rows whose name has this word

Each cell is a run of pytest of its own with TAPEDECK_ENGINE set (`stack.engines.CHOICE`). The
table is also written to `.tapedeck/engines/table.md`, and each cell's output to a file in
`.tapedeck/engines/results`. The exit status is 1 if a test failed in any cell.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
import xml.etree.ElementTree as ET
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from stack import datadir, engines, redis

DRILLS = (
    "mysql-primary-killed",
    "mysql-primary-frozen",
    "mysql-primary-thawed",
    "mysql-standby-killed",
    "mysql-read-only",
    "mysql-connections-cut",
    "mysql-connections-frozen",
    "mysql-past-deadline",
    "nightly-drop",
    "midnight-outage",
    "rolling-restart",
)
LOOKUP_DRILLS = ("lookup-killed", "lookup-frozen", "lookup-old-snapshot", "lookup-evicting")


def _files(*names: str) -> tuple[str, ...]:
    return tuple(f"tests/integration/test_{name}.py" for name in names)


def _tests(file: str, *names: str) -> tuple[str, ...]:
    return tuple(f"tests/integration/test_{file}.py::{name}" for name in names)


def _drills(names: Sequence[str]) -> dict[str, tuple[str, ...]]:
    test = "tests/chaos/test_drills.py::test_the_drill_holds_what_it_promises"
    return {f"drill {name}": (f"{test}[{name}]",) for name in names}


TABLES: dict[str, tuple[tuple[str, ...], dict[str, tuple[str, ...]]]] = {
    "MySQL": (
        ("mariadb", "mariadb-11", "mysql-8", "mysql-9", "group"),
        {
            "store": _files("store", "store_sessions", "store_faults", "lost_answers"),
            "partitions": _files("partitions_real", "foreign_tables", "seal_mark"),
            "failover and fencing": _files("primary", "frozen_hosts", "rogue_mysql"),
            "secrets and TLS": _files("secrets", "tls"),
            "sign-in": _files("mysql_sign_in"),
            "schema and time": _files("catalog", "time_zones"),
            "hostile settings of MariaDB": (*_files("hostile_defaults"), "-k", "[mariadb"),
            "hostile settings of MySQL": (*_files("hostile_defaults"), "-k", "[mysql"),
            "pair": ("tests/integration/test_localstack_pair.py",),
            "group": _files("localstack_group", "group_gateway"),
            **_drills(DRILLS),
        },
    ),
    "lookups": (
        ("redis", "redis-8", "valkey-9"),
        {
            "links and nodes": _files("redis_link", "lookup_nodes", "moved_node"),
            "shared entries": _files("shared_entries"),
            "store": _files("store"),
            "cluster": _files("redis_cluster"),
            **_drills(LOOKUP_DRILLS),
        },
    ),
}
"""For each table its columns (engines) and its rows (arguments of pytest)."""

ONE_SERVER = "one server by itself, as in the column of mysql-9"
NO_PASSWORD_PLUGIN = "MariaDB has no caching_sha2_password"
NO_GROUP = "MariaDB has no Group Replication"
IN_OTHER_COLUMNS = {
    ("failover and fencing", "group"): "two servers by themselves, as in the column of mysql-9",
    ("secrets and TLS", "group"): ONE_SERVER,
    ("sign-in", "group"): ONE_SERVER,
    ("schema and time", "group"): ONE_SERVER,
    ("hostile settings of MariaDB", "mysql-8"): "in the next row",
    ("hostile settings of MariaDB", "mysql-9"): "in the next row",
    ("hostile settings of MariaDB", "group"): ONE_SERVER,
    ("hostile settings of MySQL", "mariadb"): "in the row before",
    ("hostile settings of MySQL", "mariadb-11"): "in the row before",
    ("hostile settings of MySQL", "group"): ONE_SERVER,
    ("sign-in", "mariadb"): NO_PASSWORD_PLUGIN,
    ("sign-in", "mariadb-11"): NO_PASSWORD_PLUGIN,
    ("pair", "group"): "no pair",
    ("group", "mariadb"): NO_GROUP,
    ("group", "mariadb-11"): NO_GROUP,
    ("group", "mysql-8"): "in the column of group",
    ("group", "mysql-9"): "in the column of group",
}
"""Cells that are not run, and why."""
LEFT_OUT = {
    # These tests freeze or ask the first primary, but the group elects another one meanwhile.
    ("store", "group"): _tests(
        "store_sessions",
        "test_changes_that_wait_for_a_frozen_mysql_end_at_their_deadline_and_leave_nothing",
        "test_a_change_in_a_running_session_is_one_statement_and_asks_no_lookup_node",
    ),
    # The test stops the primary for good, and the group elects another member.
    ("partitions", "group"): _tests(
        "partitions_real", "test_partitions_are_pruned_regularly_also_after_mysql_failed"
    ),
}
"""Tests that a cell leaves out."""


@dataclass
class Cell:
    """The results of a run of pytest.

    Attributes:
        failed: the names of tests; skipped: the reasons.
    """

    passed: int = 0
    failed: list[str] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)
    seconds: float = 0.0

    def __str__(self) -> str:
        if self.failed:
            return f"**{len(self.failed)} of {self.passed + len(self.failed)} failed**"
        if self.passed == 0:
            return f"not here: {', '.join(dict.fromkeys(self.skipped)) or 'no test'}"
        skipped = f", {len(self.skipped)} skipped" if self.skipped else ""
        return f"{self.passed} passed{skipped}"


def read(report: Path, status: int, seconds: float) -> Cell:
    """The cell of a pytest run, from its JUnit file."""
    cell = Cell(seconds=seconds)
    cases = ET.parse(report).iter("testcase") if report.exists() else ()
    for case in cases:
        name = f"{case.get('classname', '').rpartition('.')[2]}::{case.get('name')}"
        skipped = case.find("skipped")
        if case.find("failure") is not None or case.find("error") is not None:
            cell.failed.append(name)
        elif skipped is not None:
            cell.skipped.append(skipped.get("message", ""))
        else:
            cell.passed += 1
    if status not in (0, 5) and not cell.failed:
        cell.failed.append(f"pytest itself ended with status {status}")
    return cell


def run(name: str, engine: str, what: Sequence[str], folder: Path) -> Cell:
    """Run pytest on an engine; its output goes into a file."""
    report = folder / f"{engine}-{name.replace(' ', '-')}.xml"
    report.unlink(missing_ok=True)
    env = {key: value for key, value in os.environ.items() if key != engines.CHOICE}
    if engine in engines.ENGINES or engine == "group":
        env[engines.CHOICE] = engine
    argv = [sys.executable, "-m", "pytest", "-q", "-m", "not long", "-p", "no:cacheprovider"]
    argv += [f"--junitxml={report}", *what]
    began = time.monotonic()
    with report.with_suffix(".log").open("w") as log:
        done = subprocess.run(argv, env=env, stdout=log, stderr=subprocess.STDOUT, check=False)
    return read(report, done.returncode, time.monotonic() - began)


def versions(names: Sequence[str]) -> dict[str, str]:
    """The version that each engine's program prints."""
    programs = {"mariadb": datadir.executable(), "redis": redis.executable()}
    found = {}
    for name in names:
        program = programs.get(name) or engines.find("mysql-9" if name == "group" else name)
        if program is None:
            found[name] = "not installed"
            continue
        # Debian may install redis-server under another name; it behaves by the name it is called.
        argv = ["redis-server" if name == "redis" else str(program), "--version"]
        done = subprocess.run(argv, executable=program, capture_output=True, text=True, check=False)
        words = done.stdout.replace("v=", "").split()
        found[name] = next((word for word in words if word[0].isdigit()), "?")
    return found


def table(
    title: str, names: Sequence[str], rows: Sequence[str], cells: dict[tuple[str, str], str]
) -> str:
    """A table in Markdown, with the version of each engine."""
    said = versions(names)
    lines = [f"## {title}", ""]
    lines.append("| | " + " | ".join(f"{name} ({said[name]})" for name in names) + " |")
    lines.append("| --- " * (len(names) + 1) + "|")
    for row in rows:
        lines += [f"| {row} | {' | '.join(cells.get((row, name), '') for name in names)} |"]
    return "\n".join([*lines, ""])


def main() -> int:
    """Install what is missing, run every cell, write the table; the process's exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", action="append", default=[], metavar="ENGINE")
    parser.add_argument("--rows", default="", metavar="WORD")
    options = parser.parse_args()
    columns = [name for names, _ in TABLES.values() for name in names]
    if unknown := sorted(set(options.only) - set(columns)):
        parser.error(f"no such engine: {', '.join(unknown)}; there are {', '.join(columns)}")
    chosen = [name for name in columns if not options.only or name in options.only]
    needed = {"mysql-9" if name == "group" else name for name in chosen} & set(engines.ENGINES)
    missing: dict[str, str] = {}
    for name in sorted(needed):
        try:
            engines.install(name)
        except engines.Failed as failed:
            # Only MySQL 8.4 comes from an archive that the machine may not know.
            if engines.ENGINES[name].system == "debian" or name in options.only:
                parser.error(str(failed))
            print(f"tapedeck: {failed}", file=sys.stderr)
            missing[name] = str(failed)

    folder = engines.FOLDER / "results"
    folder.mkdir(parents=True, exist_ok=True)
    plan = [
        (title, row, name, what)
        for title, (names, rows) in TABLES.items()
        for name in names
        for row, what in rows.items()
        if name in chosen and options.rows in row
    ]
    results: dict[tuple[str, str, str], str] = {}
    notes: list[str] = []
    for number, (title, row, name, what) in enumerate(plan, 1):
        reason = missing.get(name) or IN_OTHER_COLUMNS.get((row, name))
        if reason is not None:
            results[title, row, name] = f"not here: {reason}"
            continue
        print(f"[{number} of {len(plan)}] {name}: {row} ...", flush=True)
        left_out = (f"--deselect={test}" for test in LEFT_OUT.get((row, name), ()))
        cell = run(row, name, (*what, *left_out), folder)
        results[title, row, name] = str(cell)
        print(f"[{number} of {len(plan)}] {name}: {row}: {cell} ({cell.seconds:.0f} s)", flush=True)
        notes += [f"- {name}: {row}: FAILED {test}" for test in cell.failed]
        notes += [f"- {name}: {row}: skipped: {why}" for why in dict.fromkeys(cell.skipped)]

    text = "\n".join(
        table(
            title,
            [name for name in names if name in chosen],
            [row for row in rows if options.rows in row],
            {(row, name): said for (of, row, name), said in results.items() if of == title},
        )
        for title, (names, rows) in TABLES.items()
        if set(names) & set(chosen)
    )
    text += "\n" + "\n".join(notes) + "\n"
    (engines.FOLDER / "table.md").write_text(text)
    print(f"\n{text}\nThe table: {engines.FOLDER / 'table.md'}; each cell's output: {folder}")
    return 1 if any("FAILED" in note for note in notes) else 0


if __name__ == "__main__":
    sys.exit(main())
