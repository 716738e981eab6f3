"""The MySQL primary and its semi-synchronous standby, with the failovers of a managed database.

`Pair` observes both servers a few times a second (`pair_monitor`), asks `pair_rules` what to do and
does it, and takes orders (stop, start, promote) in between. A file says which server is the
primary, and its generation, which both servers have too.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import msgspec
import pymysql
from msgspec import Struct

from stack import replication
from stack.datadir import Passwords
from stack.mariadb import MariaDB
from stack.pair_monitor import Monitor
from stack.pair_rules import Action, decide
from stack.process import ServerFailed
from stack.server import Diverged, Server
from stack.supervised import RETRY_SECONDS, Say, Supervised

_KEPT = "pair.json"


class Known(Struct):
    """What the file keeps of the pair while its servers do not run.

    Attributes:
        primary: the name of the server that is (or was last) writable.
        generation: its fencing generation.
        redundant: see `pair_rules`.
    """

    primary: str = "mysql1"
    generation: int = 1
    redundant: bool = False


class Pair(Supervised[Server]):
    """Two servers called mysql1 and mysql2. Their folder keeps `pair.json` too."""

    def __init__(
        self,
        folder: Path,
        passwords: Passwords,
        engine: type[Server] = MariaDB,
        *,
        ports: tuple[int | None, int | None] = (None, None),
        say: Say = lambda _: None,
        logs: Path | None = None,
        pids: Path | None = None,
    ) -> None:
        super().__init__(folder, passwords, engine, ports=ports, say=say, logs=logs, pids=pids)
        try:
            self._known = msgspec.json.decode((folder / _KEPT).read_bytes(), type=Known)
        except (OSError, msgspec.DecodeError):  # a new pair, or a damaged file
            self._known = Known()
        self._monitor = Monitor(self.servers.values())
        self._reset()

    def _remember(self, **changes: str | int | bool) -> None:
        """Change what is known, and write it into the file."""
        self._known = msgspec.structs.replace(self._known, **changes)
        self.folder.mkdir(parents=True, exist_ok=True)
        new = self.folder / f"{_KEPT}.new"
        new.write_bytes(msgspec.json.encode(self._known) + b"\n")
        os.replace(new, self.folder / _KEPT)

    def _reset(self) -> None:
        self._unwanted.clear()
        self._refused = False
        self._failed_at = 0.0
        self._monitor.reset()

    # --- roles

    @property
    def primary(self) -> Server:
        return self.servers[self._known.primary]

    @property
    def standby(self) -> Server:
        """The server that is not the primary."""
        return next(s for name, s in self.servers.items() if name != self._known.primary)

    @property
    def redundant(self) -> bool:
        return self._known.redundant

    def status(self) -> dict[str, object]:
        """As `Supervised` says; also `semi_sync` and `standby`."""
        if not self.standby.running:
            link = "no standby"
        elif self._monitor.link.following:
            link = "following"
        else:
            link = self._monitor.link.trouble or "linking"
        return {
            "engine": self._engine.product,
            "primary": self._known.primary,
            "generation": self._known.generation,
            "redundant": self._known.redundant,
            "semi_sync": self._monitor.waits and self.primary.running,
            "standby": link,
            "servers": self._roles(
                lambda name: "primary" if name == self._known.primary else "standby"
            ),
        }

    # --- start and stop

    def start(self) -> None:
        """As `Supervised` says. Both get the roles that they had. If the standby does not follow in
        time, the primary becomes writable without it, and `say` is told."""
        self._ending.clear()
        with self._lock:
            self._reset()
            if not self._make_data() and not self.primary.folder.is_dir():
                # The missing server is copied from the other.
                self._remember(primary=self.standby.name, redundant=False)
            self._start_both()
            if replication.generation(self.standby) > replication.generation(self.primary):
                # The stack was killed during a promotion: the standby had become the primary.
                self._say(f"{self.standby.name} was promoted last: it is the primary")
                for server in self.servers.values():
                    server.kill()
                self._remember(primary=self.standby.name, redundant=False)
                self._start_both()
            self._remember(generation=replication.generation(self.primary), redundant=False)
            deadline = time.monotonic() + 15
            while not self._known.redundant and time.monotonic() < deadline:
                self._check_safely()
                if self._ending.wait(0.02):
                    return
            replication.make_writable(self.primary)
            if not self._known.redundant:
                self._say(f"{self.primary.name} is writable without a standby: not redundant")
        self._begin_watching()

    def stop(self) -> None:
        # In this order no commit waits for a standby that has ended.
        self._end_watching()
        with self._lock:
            self._remember(redundant=False)
            if self.primary.running and not self.primary.stopped:
                with contextlib.suppress(pymysql.MySQLError):
                    replication.set_semi_sync(self.primary, on=False)
            self.standby.stop()
            self.primary.stop()

    def _start_both(self) -> None:
        with ThreadPoolExecutor(2) as starters:
            primary = starters.submit(self.primary.start, "primary")
            standby = starters.submit(self._start_standby)
            primary.result()
            standby_started = standby.result()
        self._monitor.reset()
        if not standby_started:
            self._copy()

    def _start_standby(self) -> bool:
        if not self.standby.folder.is_dir():
            return False
        try:
            self.standby.start("standby")
        except ServerFailed as error:
            self._say(f"{self.standby.name} does not start as a standby: {error}")
            self.standby.kill()
            return False
        return True

    # --- orders

    def stop_server(self, name: str) -> str:
        """As `Supervised` says. If it is the primary, its standby is promoted."""
        with self._lock:
            server = self.servers[name]
            self._unwanted.add(name)
            if server is self.standby:
                self._remember(redundant=False)
                server.stop()
                return f"{name} is stopped; the pair is not redundant"
            redundant = self._known.redundant and self.standby.running
            # A clean stop would acknowledge commits that still wait for the standby.
            server.kill()
            self._check_safely()
            if redundant and self.primary is not server:
                return f"{name} is stopped; {self.primary.name} is the primary now"
            return f"{name} is stopped and nothing was promoted: the pair was not redundant"

    def start_server(self, name: str) -> str:
        with self._lock:
            server = self.servers[name]
            if server.running and not server.stopped:
                raise ServerFailed(f"{name} runs already (pid {server.pid})")
            self._unwanted.discard(name)
            if server is self.primary:
                server.kill()
                server.start("primary")
                self._monitor.reset()
                self._refused = False
                replication.make_writable(server)
                return f"{name} is the primary again, as it was"
            self._remember(redundant=False)
            self._restart_standby()
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline and self.standby is server:
            if self._known.redundant:
                return f"{name} is the standby; the pair is redundant"
            if not self.primary.running:
                return f"{name} is started; there is no primary that it could follow"
            time.sleep(0.05)
        return f"{name} is started, and not linked yet: see `tapedeck stack status`"

    def promote(self, *, force: bool = False) -> str:
        """As `Supervised` says: the standby becomes the primary. A primary that runs is ended
        first, and becomes the standby."""
        with self._lock:
            old = self.primary
            was_running = old.running and not old.stopped
            if not self.standby.running or self.standby.stopped:
                raise ServerFailed(f"{self.standby.name}, the standby, does not run: start it")
            if not self._known.redundant and not force:
                raise ServerFailed(
                    f"the pair is not redundant: {self.standby.name} may lack changes that "
                    f"{old.name} acknowledged. Start {old.name} (`tapedeck stack start "
                    f"{old.name}`), or lose them with `tapedeck stack promote --force`"
                )
            self._promote()
            if not was_running:
                return f"{self.primary.name} is the primary; {old.name} stays dead"
        return f"{self.primary.name} is the primary; {self.start_server(old.name)}"

    # --- watching

    def _check(self) -> None:
        seen = self._monitor.observe(
            self.primary,
            self.standby,
            redundant=self._known.redundant,
            unwanted=self._unwanted,
        )
        if self._refused and not seen.primary.lost:
            self._refused = False
            self._unwanted.discard(self._known.primary)
            self._say(f"{self._known.primary}, the primary, answers again")
        for action in decide(seen):
            self._do(action)

    def _do(self, action: Action) -> None:
        primary, standby = self.primary, self.standby
        if action is Action.PROMOTE:
            frozen = primary.running
            self._say(
                f"{primary.name}, the primary, is {'frozen: ending it' if frozen else 'dead'}"
            )
            self._promote()
        elif action is Action.REFUSE:
            self._refuse()
        elif action is Action.NOT_REDUNDANT:
            self._remember(redundant=False)
            self._say(f"{standby.name}, the standby, is lost: the pair is not redundant")
        elif action is Action.GO_ALONE:
            replication.set_semi_sync(primary, on=False)
            self._monitor.waits = False
            self._say(f"{primary.name} goes on without a standby: commits no longer wait for one")
        elif action is Action.RESTART_STANDBY:
            if time.monotonic() - self._failed_at > RETRY_SECONDS:
                self._restart_standby()
        elif action is Action.LINK:
            self._start_link()
        elif action is Action.COPY:
            self._say(f"{standby.name} cannot follow {primary.name}: {self._monitor.link.trouble}")
            self._copy()
        elif action is Action.WAIT_FOR_STANDBY:
            replication.set_semi_sync(primary, on=True)
        elif action is Action.REDUNDANT:
            self._remember(redundant=True)
            self._say(f"{standby.name} follows {primary.name}: the pair is redundant")

    def _promote(self) -> None:
        old, new = self.primary, self.standby
        old.kill()
        self._unwanted.add(old.name)
        began = time.monotonic()
        replication.promote(
            new,
            lambda generation: self._remember(
                primary=new.name, generation=generation, redundant=False
            ),
        )
        self._unwanted.discard(new.name)
        self._refused = False
        self._monitor.reset()
        self._say(
            f"{new.name} is the primary now (generation {self._known.generation}, "
            f"{time.monotonic() - began:.1f} s); not redundant until {old.name} is started: "
            f"tapedeck stack start {old.name}"
        )

    def _refuse(self) -> None:
        if self._refused:
            return
        self._refused = True
        old, other = self.primary, self.standby
        self._unwanted.add(old.name)
        how = "thaw it" if old.running else f"tapedeck stack start {old.name}"
        self._say(
            f"{old.name}, the primary, is lost while the pair was not redundant: {other.name} is "
            f"NOT promoted, it may lack acknowledged changes. Bring {old.name} back ({how}), or "
            "lose them: tapedeck stack promote --force"
        )

    def _restart_standby(self) -> None:
        standby = self.standby
        standby.kill()
        if not self._start_standby():
            self._copy()
            return
        self._monitor.note_answer(standby)
        self._say(f"{standby.name} is started again")
        self._start_link()

    def _start_link(self) -> None:
        self._monitor.note_link()
        if not self.primary.running:
            return
        try:
            replication.link(self.standby, self.primary)
        except Diverged as error:
            self._say(str(error))
            self._copy()

    def _copy(self) -> None:
        """Give the standby a new copy of the primary's data; keep its old data in NAME.replaced."""
        primary, standby = self.primary, self.standby
        self._remember(redundant=False)
        standby.kill()
        self._say(f"{standby.name} gets a new copy of the data of {primary.name}")
        new, old = standby.folder.with_suffix(".new"), standby.folder.with_suffix(".replaced")
        replication.copy_data(primary, new)
        if standby.folder.is_dir():
            shutil.rmtree(old, ignore_errors=True)
            os.replace(standby.folder, old)
        os.replace(new, standby.folder)
        standby.start("standby")
        standby.begin_anew()
        self._monitor.note_answer(standby)
        self._start_link()
