"""The catalog on a real server: imports, the gateway's cache, and the command."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import yaml

import config
from config.model import Catalog as Limits
from config.model import MySQL
from failover.mysql.errors import PrimaryUnavailable
from failover.mysql.primary import Primary
from gateway.catalog.catalog import Catalog
from gateway.catalog.importer import Summary, import_mixes, read
from gateway.catalog.model import Mix, MixUser, Track
from gateway.catalog.tables import ensure_catalog
from gateway.catalog.validation import Entry
from stack.mariadb import MariaDB
from stack.process import free_port
from tests.support.mysqld import key_of
from tests.support.waiting import until

pytestmark = [pytest.mark.stack, pytest.mark.engines]

SAMPLE = Path(config.__file__).with_name("sample_catalog.jsonl")


def mix(mix_id: int, *track_ids: int, name: str = "Mix") -> Mix:
    tracks = tuple(
        Track(i, f"Piste n° {i} 🎵", "Édith", None, 1937, None, "https://media.example.org/t", 60)
        for i in track_ids
    )
    user = MixUser(3, "ann", "ann")
    slug = f"mix-{mix_id}"
    return Mix(mix_id, name, slug, f"/ann/{slug}", None, "", 60 * len(tracks), user, tracks)


@pytest.fixture
def config(mysql: MariaDB, database: str) -> MySQL:
    return MySQL(
        hosts=(mysql.address,),
        user="tapedeck",
        password=mysql.passwords.gateway,
        database=database,
        public_key=key_of(mysql),
        statement_timeout=400,
        deadline=1500,
    )


async def imported(config: MySQL, entries: Iterable[Entry]) -> Summary:
    primary = Primary(config)
    await primary.start()
    try:
        return await import_mixes(primary, iter(entries))
    finally:
        await primary.close()


@pytest.fixture
def put(config: MySQL) -> Callable[..., None]:
    """A function that imports mixes, as the command does."""

    def put(*mixes: Mix) -> None:
        entries = [Entry(number, mix) for number, mix in enumerate(mixes, 1)]
        with ThreadPoolExecutor(1) as pool:
            assert pool.submit(asyncio.run, imported(config, entries)).result().imported

    return put


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


class Reads:
    """A primary that counts the reads."""

    def __init__(self, primary: Primary) -> None:
        self._primary = primary
        self.count = 0

    async def fetch(self, sql: str, args: Any = ()) -> Any:
        self.count += 1
        return await self._primary.fetch(sql, args)


@pytest.fixture
async def primary(config: MySQL) -> AsyncIterator[Primary]:
    primary = Primary(config)
    await primary.start()
    await ensure_catalog(primary)
    yield primary
    await primary.close()


def catalog_of(primary: Any, clock: Clock | None = None, **limits: Any) -> Catalog:
    return Catalog(primary, Limits(**limits), clock or Clock())


# -- the gateway's side ----------------------------------------------------------------------------


async def test_a_mix_is_read_as_it_was_imported(primary, put):
    given = [mix(7, 72, 71, 73), mix(8, 73), mix(2**63 - 1, 2**63 - 1)]
    put(*given)
    catalog = catalog_of(primary)
    assert [await catalog.mix(m.id) for m in given] == given
    assert await catalog.mix(9) is None


async def test_every_mix_of_the_sample_is_read_unchanged(primary, config):
    with SAMPLE.open("rb") as file:
        entries = list(read(file, "jsonl"))
    await imported(config, entries)
    catalog = catalog_of(primary)
    assert [await catalog.mix(entry.mix.id) for entry in entries] == [e.mix for e in entries]
    cards, total = await catalog.finder.page(1, 100)
    assert [(card.id, card.tracks_count) for card in cards] == [
        (entry.mix.id, len(entry.mix.tracks)) for entry in entries
    ]
    assert total == len(entries)


async def test_another_import_replaces_only_its_own_mixes_and_their_tracks(primary, put):
    put(mix(1, 11, 12, 13), mix(2, 21))
    put(mix(1, 13, 14, name="Other"))
    put(mix(1, 13, 14, name="Other"))
    catalog = catalog_of(primary)
    assert await catalog.mix(1) == mix(1, 13, 14, name="Other")
    assert await catalog.mix(2) == mix(2, 21)


async def test_without_an_import_the_catalog_is_empty(config):
    primary = Primary(config)
    await primary.start()
    try:
        catalog = catalog_of(primary)
        assert await catalog.mix(1) is None
        assert await catalog.finder.page(1, 10) == ([], 0)
        assert await catalog.finder.after(1) is None
    finally:
        await primary.close()


async def test_pages_have_each_mix_once_in_the_order_of_ids(primary, put):
    put(*(mix(n, n * 10, n * 10 + 1) for n in (5, 3, 9, 1, 7)))
    catalog = catalog_of(primary)
    pages = [await catalog.finder.page(number, 2) for number in (1, 2, 3, 4)]
    assert [[m.id for m in mixes] for mixes, _ in pages] == [[1, 3], [5, 7], [9], []]
    assert [total for _, total in pages] == [5, 5, 5, 5]
    assert await catalog.finder.page(2**62, 100) == ([], 5)


async def test_after_the_last_mix_comes_the_first(primary, put):
    put(mix(1, 11), mix(3, 31), mix(2**63 - 1, 12))
    catalog = catalog_of(primary)
    following = [await catalog.finder.after(n) for n in (1, 2, 3, 2**63 - 1)]
    assert [m.id for m in following] == [3, 3, 2**63 - 1, 1]


async def test_an_edited_mix_is_read_when_the_cached_one_is_older_than_max_age(primary, put):
    clock = Clock()
    catalog = catalog_of(primary, clock, max_age=60)
    put(mix(1, 11))
    assert await catalog.mix(1) == mix(1, 11)
    put(mix(1, 12))
    clock.now += 59
    assert await catalog.mix(1) == mix(1, 11)
    clock.now += 1
    assert await catalog.mix(1) == mix(1, 12)


async def test_a_mix_imported_after_a_404_is_found_seconds_later(primary, put):
    clock = Clock()
    catalog = catalog_of(primary, clock, max_age=3600)
    assert await catalog.mix(1) is None
    put(mix(1, 11))
    clock.now += 5
    assert await catalog.mix(1) == mix(1, 11)


async def test_simultaneous_requests_for_one_mix_share_one_read(primary, put):
    put(mix(1, 11))
    reads = Reads(primary)
    catalog = catalog_of(reads)
    answers = await asyncio.gather(*(catalog.mix(1) for _ in range(50)))
    assert answers == [mix(1, 11)] * 50
    assert reads.count == 1


async def test_a_cancelled_request_does_not_cancel_a_shared_read(primary, put):
    put(mix(1, 11))
    catalog = catalog_of(primary)
    first = asyncio.create_task(catalog.mix(1))
    second = asyncio.create_task(catalog.mix(1))
    await asyncio.sleep(0)
    first.cancel()
    assert await second == mix(1, 11)


async def test_the_cache_has_at_most_max_mixes_and_unknown_ids_displace_none(primary, put):
    put(*(mix(n, n * 10) for n in range(1, 6)))
    reads = Reads(primary)
    catalog = catalog_of(reads, max_mixes=4)
    for n in range(1, 6):
        await catalog.mix(n)
    for n in range(100, 120):
        assert await catalog.mix(n) is None
    reads.count = 0
    for n in (2, 3, 4, 5):
        assert await catalog.mix(n) == mix(n, n * 10)
    assert reads.count == 0
    await catalog.mix(1)
    assert reads.count == 1


async def test_a_cached_mix_is_served_while_mysql_does_not_answer(primary, put, mysql):
    clock = Clock()
    catalog = catalog_of(primary, clock, max_age=60)
    put(mix(1, 11), mix(2, 21))
    await catalog.mix(1)
    clock.now += 61
    mysql.freeze()
    started = asyncio.get_running_loop().time()
    assert await asyncio.gather(*(catalog.mix(1) for _ in range(20))) == [mix(1, 11)] * 20
    assert await catalog.mix(1) == mix(1, 11)
    assert asyncio.get_running_loop().time() - started < 1.2
    with pytest.raises(PrimaryUnavailable):
        await catalog.mix(2)
    mysql.thaw()
    put(mix(1, 12))
    clock.now += 5
    await until(lambda: primary.adopted)
    assert await catalog.mix(1) == mix(1, 12)


# -- the command -----------------------------------------------------------------------------------


@pytest.fixture
def command(config: MySQL, tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Runs `tapedeck catalog import ...` against this test's database."""
    document = {
        "lookup": {"servers": [f"127.0.0.1:{free_port()}:1 lookup1"]},
        "mysql": {
            "hosts": [str(host) for host in config.hosts],
            "user": config.user,
            "password": config.password.get_secret_value(),
            "database": config.database,
            "public_key": config.public_key,
        },
    }
    path = tmp_path / "tapedeck.yml"
    path.write_text(yaml.safe_dump(document))

    def run(*arguments: str, stdin: bytes = b"") -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [sys.executable, "-m", "cli", "catalog", "import", "--config", path, *arguments],
            input=stdin,
            capture_output=True,
            timeout=60,
            check=False,
            env=os.environ | {"COLUMNS": "200"},
        )
        return subprocess.CompletedProcess(
            done.args, done.returncode, done.stdout.decode(), done.stderr.decode()
        )

    return run


def line(mix_id: int, **changes: Any) -> bytes:
    fields = {
        "id": mix_id,
        "name": "Mix",
        "slug": "mix",
        "user": {"id": 3, "login": "ann", "slug": "ann"},
        "tracks": [
            {
                "id": mix_id * 10,
                "name": "Track",
                "performer": "Somebody",
                "track_file_stream_url": "https://media.example.org/t.mp3",
                "play_duration": 60,
            }
        ],
    }
    return json.dumps(fields | changes).encode() + b"\n"


def ids(mysql: MariaDB, database: str) -> list[int]:
    return [row[0] for row in mysql.query(f"SELECT id FROM `{database}`.mixes ORDER BY id")]


def test_the_command_imports_the_sample_twice(command, mysql, database):
    for _ in range(2):
        done = command(str(SAMPLE))
        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout == "Imported 22 mixes with 183 tracks.\n"
    assert ids(mysql, database) == list(range(1, 23))


def test_a_wrong_line_is_named_and_nothing_is_imported(command, mysql, database, tmp_path):
    file = tmp_path / "mixes.jsonl"
    file.write_bytes(b"".join(map(line, range(1, 151))) + b"{oops\n" + line(0) + line(151))
    done = command(str(file))
    assert done.returncode == 1
    assert "line 151: JSON is malformed" in done.stdout
    assert "line 152: id: Expected `int` >= 1" in done.stdout
    assert done.stderr.count("\n") == 1
    assert "nothing was imported: 2 lines are bad (line 151: JSON is malformed" in done.stderr
    assert ids(mysql, database) == []


def test_with_skip_bad_the_other_lines_are_imported(command, mysql, database):
    done = command(
        "-", "--format", "jsonl", "--skip-bad", "--json", stdin=line(1) + b"?\n" + line(3)
    )
    assert done.returncode == 0
    answer = json.loads(done.stdout)
    assert answer | {"bad": []} == {"imported": True, "mixes": 2, "tracks": 2, "bad": []}
    assert [bad["line"] for bad in answer["bad"]] == [2]
    assert ids(mysql, database) == [1, 3]


def test_with_json_the_command_says_that_nothing_was_imported(command):
    done = command("-", "--format", "jsonl", "--json", stdin=line(1) + b"?\n")
    assert done.returncode == 1
    answer = json.loads(done.stdout)
    assert (answer["imported"], answer["mixes"], len(answer["bad"])) == (False, 0, 1)


@pytest.mark.parametrize(
    ("content", "file_format", "reason"),
    [
        (b"", "jsonl", "the file holds no mix"),
        (b"?\n", "jsonl", "1 line is bad (line 1: JSON is malformed"),
        (b"id,name\n1,a\n", "csv", "line 1: column slug is missing"),
    ],
)
def test_a_file_without_a_mix_fails_with_one_line(command, content, file_format, reason):
    done = command("-", "--format", file_format, "--skip-bad", stdin=content)
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert reason in done.stderr


def test_a_file_of_unknown_format_and_a_missing_file_are_usage_errors(command, tmp_path):
    unnamed = tmp_path / "mixes.txt"
    unnamed.write_bytes(line(1))
    done = command(str(unnamed))
    assert done.returncode == 2
    assert "--format" in done.stderr
    assert command(str(tmp_path / "none.jsonl")).returncode == 2


def test_an_import_without_mysql_names_the_host(command, mysql):
    mysql.kill()
    done = command(str(SAMPLE))
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert f"{mysql.address}: 2003" in done.stderr


def test_a_failed_import_changes_nothing(mysql, database, config, put):
    put(mix(1, 11))

    def entries() -> Any:
        for n in range(2, 202):
            yield Entry(n, mix(n, n * 10))
        raise OSError("the pipe broke")

    with pytest.raises(OSError, match="pipe"):
        asyncio.run(imported(config, entries()))
    assert ids(mysql, database) == [1]


async def test_two_simultaneous_imports_both_succeed(mysql, database, config):
    entries = [Entry(n, mix(n, n, n + 1, n + 2)) for n in range(1, 301)]
    done = await asyncio.gather(imported(config, entries), imported(config, entries))
    assert [summary.imported for summary in done] == [True, True]
    assert ids(mysql, database) == list(range(1, 301))
