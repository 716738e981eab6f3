"""Carries out docs/migration.md: a small application, whose listeners play at a steady rate, moves
to Tapedeck step by step, and back. No place is lost."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import pymysql
import pytest

from stack.redis import RedisServer
from stack.server import Server
from tests.conftest import StackConfig
from tests.support.gateways import Gateway, put_mixes
from tests.support.nutcracker import Nutcracker
from tests.support.serving import a_mix

pytestmark = pytest.mark.stack

ROOT = Path(__file__).resolve().parents[2]
TABLES = "player_data_%Y%m%d"
MIX = a_mix(7, tracks=600)
TRACKS = [track.id for track in MIX.tracks]
SLEEPING, COHORT = range(1000, 1300), range(1, 5)
LISTENERS = range(1, 13)


class Refused(Exception):
    """The application refuses changes, as with 503."""


class Application:
    """The application that moves. It has a table for each day in MySQL, and the day of each place
    in lookup nodes behind nutcracker. A place moves to today's table when it changes. A place
    without an entry in the lookup nodes is looked for in today's table."""

    def __init__(self, mysql: Server, database: str, nutcracker: Nutcracker) -> None:
        self._mysql, self._database, self._nutcracker = mysql, database, nutcracker
        self._local = threading.local()
        self.today = datetime.now(UTC).date()
        self.stopped: Callable[[int], bool] = lambda _: False
        for age in range(9):
            self.make_table(self.today - timedelta(days=age))

    def make_table(self, day: date) -> None:
        self._sql(
            f"CREATE TABLE {day:{TABLES}} (user_id BIGINT, playlist_id BIGINT, tracks_played TEXT,"
            " skipped_at TEXT, listened TINYINT, updated_at DATETIME(3),"
            " PRIMARY KEY (user_id, playlist_id))"
        )

    def seed(self, user: int, age: int) -> None:
        """Store a place that its listener left `age` days ago."""
        day = self.today - timedelta(days=age)
        tracks = json.dumps(TRACKS[: 1 + user % 30])
        self._sql(
            f"REPLACE INTO {day:{TABLES}} VALUES ({user}, 7, '{tracks}', '[]', 0, '{day} 12:00:00')"
        )
        self._remember(user, day)

    def played(self, user: int) -> list[int]:
        """The ids of the tracks that a listener has played."""
        day = self._day_of(user)
        found = self._sql(f"SELECT tracks_played FROM {day:{TABLES}} WHERE user_id = {user}")
        tracks: list[int] = json.loads(found[0][0]) if found else []
        return tracks

    def next(self, user: int) -> int:
        """Go to a listener's next track; return its id.

        Raises:
            Refused: changes of this listener are stopped.
        """
        if self.stopped(user):
            raise Refused
        tracks = self.played(user)
        tracks.append(TRACKS[len(tracks)])
        old = self._day_of(user)
        self._sql(
            f"REPLACE INTO {self.today:{TABLES}} VALUES ({user}, 7, '{json.dumps(tracks)}', '[]',"
            " 0, UTC_TIMESTAMP(3))"
        )
        self._remember(user, self.today)
        if old != self.today:
            self._sql(f"DELETE FROM {old:{TABLES}} WHERE user_id = {user}")
        return tracks[-1]

    def _day_of(self, user: int) -> date:
        said = self._nutcracker.ask("lookups", b"GET", b"uid:%d:pid:7" % user)
        return datetime.strptime(said.decode(), "%Y%m%d").date() if said else self.today  # noqa: DTZ007

    def _remember(self, user: int, day: date) -> None:
        name = b"uid:%d:pid:7" % user
        self._nutcracker.ask("lookups", b"SET", name, f"{day:%Y%m%d}".encode(), b"EX", b"2592000")

    def _sql(self, statement: str) -> Any:
        if not hasattr(self._local, "connection"):
            host, _, port = self._mysql.address.rpartition(":")
            self._local.connection = pymysql.connect(
                host=host,
                port=int(port),
                user="tapedeck",
                password=self._mysql.passwords.gateway,
                database=self._database,
                autocommit=True,
            )
        try:
            with self._local.connection.cursor() as cursor:
                cursor.execute(statement)
                return cursor.fetchall()
        except pymysql.OperationalError:
            del self._local.connection  # the next statement makes a new one
            raise


class Balancer:
    """Sends each listener to the application or to the gateway.

    Attributes:
        refused: how many commands were refused, by listener.
    """

    def __init__(self, application: Application, gateway: Gateway) -> None:
        self.application, self.gateway = application, gateway
        self.moved: set[int] = set()
        self.stopped: set[int] = set()
        self.refused = dict.fromkeys(LISTENERS, 0)
        self._locks = {user: threading.Lock() for user in LISTENERS}
        self._tokens: dict[int, str] = {}
        application.stopped = self.stopped.__contains__

    def next(self, user: int) -> int:
        """Go to a listener's next track in the system that serves the listener; return its id."""
        with self._locks[user]:
            if user not in self.moved:
                return self.application.next(user)
            track: int = self.ask(user, "next")["set"]["track"]["id"]
            return track

    def stop(self, *users: int) -> None:
        """Make the application refuse changes; return when no change is under way."""
        self.stopped.update(users)
        for user in users:
            with self._locks[user]:
                pass

    def ask(self, user: int, command: str) -> Any:
        """Send a command of the Player API for a user; return the answer's body."""
        if user not in self._tokens:
            self._tokens[user] = self._get(f"/sets/new?user_id={user}")["play_token"]
        return self._get(f"/sets/{self._tokens[user]}/{command}?mix_id=7")

    def played(self, user: int) -> list[int]:
        """The ids of the tracks that a listener has played, as the Player API says."""
        return [track["id"] for track in self.ask(user, "tracks_played")["tracks"]]

    def _get(self, path: str) -> Any:
        request = urllib.request.Request(self.gateway.url + path, headers=self.gateway.key)
        with urllib.request.urlopen(request, timeout=20) as answer:
            return json.load(answer)


class Listener(threading.Thread):
    """Goes to the next track at a steady rate, and checks that it is the right one.

    A request that fails is made again, as a client does: on a busy machine MySQL or a gateway may
    not answer in time. A request that failed may have been carried out.

    Attributes:
        heard: every track, in order.
        failed: the errors of the failed requests.
        lost: a sentence for each track that was not the right one.
    """

    def __init__(self, balancer: Balancer, user: int) -> None:
        super().__init__(daemon=True)
        self.user, self.heard, self.over = user, list[int](), threading.Event()
        self.failed, self.lost = list[str](), list[str]()
        self._balancer = balancer

    def run(self) -> None:
        unknown = 0
        while not self.over.wait(0.15):
            try:
                track = self._balancer.next(self.user)
            except Refused:
                self._balancer.refused[self.user] += 1
                continue
            except Exception as error:
                self.failed.append(f"{type(error).__name__}: {error}")
                unknown += 1
                continue
            while unknown and track != TRACKS[len(self.heard)]:
                self.heard.append(TRACKS[len(self.heard)])
                unknown -= 1
            unknown = 0
            if track != TRACKS[len(self.heard)]:
                self.lost.append(f"heard {track}, not {TRACKS[len(self.heard)]}")
            self.heard.append(track)


@pytest.fixture
def scene(
    stack_config: StackConfig,
    mysql: Server,
    database: str,
    lookup_servers: list[RedisServer],
    tmp_path: Path,
) -> Iterator[tuple[Application, Gateway, str]]:
    servers = [f"{server.address}:1 {server.name}" for server in lookup_servers]
    pool = {"hash": "murmur", "timeout": 400, "servers": servers}
    nutcracker = Nutcracker(tmp_path / "n", {"lookups": pool})
    nutcracker.start()
    name = f"{database}_app"
    mysql.create_database(name)
    document = stack_config(
        lookup={"nutcracker": str(nutcracker.file), "pool": "lookups", "layout": "flat"}
    )
    del document["lookup"]["servers"]
    put_mixes(document, [MIX])
    try:
        application = Application(mysql, name, nutcracker)
        with Gateway(document, tmp_path) as gateway:
            user = f"tapedeck:{mysql.passwords.gateway}@{mysql.address}"
            yield application, gateway, f"mysql://{user}/{name}"
    finally:
        mysql.drop_database(name)
        nutcracker.kill()


def test_a_live_system_moves_to_tapedeck_and_back_without_losing_a_place(
    scene: tuple[Application, Gateway, str], tmp_path: Path
) -> None:
    application, gateway, address = scene
    mapped = tmp_path / "import.yml"
    mapped.write_text((ROOT / "config" / "import.yml").read_text())

    def tapedeck(command: str, *args: str) -> Any:
        done = subprocess.run(
            [
                *(sys.executable, "-c", "from cli.main import main; main()", command),
                *("--map", str(mapped), "--tables", TABLES, "--config", str(gateway.config)),
                *args,
            ],
            cwd=ROOT,
            env={k: v for k, v in os.environ.items() if not k.startswith("TAPEDECK_")},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout) if "--json" in args else done.stdout

    def imported(*args: str) -> Any:
        return tapedeck("import", "--from", address, "--json", *args)

    for number, user in enumerate(SLEEPING):
        application.seed(user, age=number % 9)
    places = {user: application.played(user) for user in SLEEPING}
    balancer = Balancer(application, gateway)
    listeners = [Listener(balancer, user) for user in LISTENERS]
    for listener in listeners:
        listener.start()

    began = f"{datetime.now(UTC) - timedelta(seconds=1):%Y-%m-%dT%H:%M:%S}"
    bulk = imported("--leave-open")
    assert bulk["imported"] >= len(SLEEPING)
    delta = imported("--since", began, "--leave-open")
    assert delta["replaced"] > 0, "no listener moved on during the first import"

    balancer.stop(*COHORT)
    users = [word for user in COHORT for word in ("--user", str(user))]
    assert imported(*users)["replaced"] == len(COHORT)
    balancer.moved.update(COHORT)

    rest = [user for user in LISTENERS if user not in COHORT]
    balancer.stop(*rest)
    stopped = time.monotonic()
    imported("--since", began, "--leave-open")
    balancer.moved.update(rest)
    seconds = time.monotonic() - stopped
    compared = imported("--verify")
    assert compared["differences"] == []
    assert sum(compared["compared"].values()) == len(SLEEPING) + len(LISTENERS)
    imported("--since", began)

    moved = {listener.user: len(listener.heard) for listener in listeners}
    while any(len(one.heard) < moved[one.user] + 3 and not one.lost for one in listeners):
        time.sleep(0.05)
    for listener in listeners:
        listener.over.set()
    for listener in listeners:
        listener.join(30)
    print(
        f"writes were refused for {seconds:.1f} s: {sum(balancer.refused.values())} commands;"
        f" {sum(len(one.heard) for one in listeners)} tracks were heard; failed:"
        f" {[said for one in listeners for said in one.failed]}"
    )
    for listener in listeners:
        assert not listener.lost, (listener.user, listener.lost)
        assert balancer.played(listener.user) == listener.heard
    for user in list(SLEEPING)[::5]:
        assert balancer.played(user) == places[user], user

    back = tmp_path / "back.sql"
    tapedeck("export", "--to", str(back), "--since", f"{application.today}")
    for statement in back.read_text().splitlines():
        application._sql(statement)
    for listener in listeners:
        assert application.played(listener.user) == listener.heard
    for user in list(SLEEPING)[::5]:
        assert application.played(user) == places[user], user
