"""What the protocol runs on: MySQL's rows, locks and clock, and what goes wrong around them."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations

from protocol_words import (
    CLOCK,
    FRESH,
    IDLE,
    IMPORTED,
    Bounds,
    Found,
    Listed,
    Row,
    Rules,
    State,
    Step,
    Worker,
    Writes,
    effect,
    members,
    truth,
)


class World:
    """The rows of one key, and everything that happens to them apart from workers' statements.

    `commit` and `acknowledge`, with `Model.loaded`, check the invariants: no other step can break
    one.
    """

    def __init__(self, rules: Rules = Rules(), bounds: Bounds = Bounds()) -> None:  # noqa: B008
        self.rules, self.bounds = rules, bounds
        self.last_day = 1 + bounds.midnights
        limit = bounds.midnights_in_transaction
        self.transaction_limit = limit if limit is not None and limit < bounds.midnights else None

    def initial(self) -> list[State]:
        born, buried = Row(1, True, (0,), ()), Row(2, False, (), ())
        starts: dict[str, tuple[Found, tuple[int, ...]]] = {
            "nothing": ((), ()),
            "yesterday": ((0, born), (0,)),
            "today": ((1, born), (0,)),
            "tombstone": ((0, buried), (0, 1)),
        }
        states = []
        for name in self.bounds.start:
            found, log = starts[name]
            rows: list[Row | tuple[()]] = [()] * (self.last_day + 2)
            if found:
                rows[found[0]] = found[1]
            workers = (FRESH,) * self.bounds.workers
            past = (found,) if found and self.bounds.cache else ()
            states.append(State(1, 1, 0, 0, tuple(rows), log, workers, (), past))
        return states

    def midnight(self, s: State) -> Iterator[Step]:
        """The day changes, or MySQL's clock jumps there, or it steps back over midnight."""
        limit = self.transaction_limit
        if s.day < self.last_day:
            workers, late = s.workers, s.late
            if limit is not None:
                open_now = [w.midnights for w in workers if w.writes]
                open_now += [z.midnights for z in late if not z.expects]
                if any(n >= limit for n in open_now):
                    return
                workers = tuple(
                    sorted(
                        w._replace(midnights=w.midnights + 1) if w.writes else w for w in workers
                    )
                )
                late = tuple(
                    sorted(z if z.expects else z._replace(midnights=z.midnights + 1) for z in late)
                )
            day = s.day + 1
            after = s._replace(day=day, top=max(day, s.top), workers=workers, late=late)
            yield ("midnight, or a jump: day", day), after, ""
        if s.day > 1 and s.steps_back < self.bounds.back:
            back = s._replace(day=s.day - 1, steps_back=s.steps_back + 1)
            yield ("MySQL's clock steps back: day", s.day - 1), back, ""

    def day(self, s: State) -> int:
        """S1: MySQL's day, the newer of its clock's and the day after the mark."""
        return max(s.day, s.seal.mark + 1) if self.rules.day_follows_mark else s.day

    def seal(self, s: State) -> Iterator[Step]:
        """The next step of sealing the days in order: mark, wait, scan.

        The process may die after any step; another one then goes on with the next step.
        """
        mark, waited, scanned = s.seal
        day = min(mark, waited, len(scanned) - 1) + 1
        if day >= self.bounds.seals or day >= self.day(s) or (s.importing.open and day == 0):
            return
        done = {"mark": mark >= day, "wait": waited >= day, "scan": len(scanned) > day}
        step = next(step for step in self.rules.seal_order.split() if not done[step])
        label, after = (f"seal: {step.upper()}", day), s.seal
        if step == "mark":
            after = after._replace(mark=day)
        elif step == "wait":
            late = [w for z in s.late if not z.expects for w in z.writes]
            open_now = [*late, *(write for w in s.workers for write in w.writes)]
            if self.rules.scan_waits and any(p == day for p, _ in open_now):
                return
            after = after._replace(waited=day)
        else:
            there = bool(s.rows[day])
            label = (*label, "the key is there" if there else "no key")
            after = after._replace(scanned=(*scanned, there))
        yield label, self.listed(s._replace(seal=after)), ""

    def ruled_out(self, s: State, listed: Listed) -> Iterator[frozenset[int]]:
        """S5: the days that a worker's filters rule out: it may have fetched any of them."""
        absent = [day for day, there in enumerate(s.seal.scanned) if not there]
        if self.bounds.imports:
            absent = [day for day in absent if day] + [0] * (listed[2] == 0)
        for size in range(len(absent) + 1):
            yield from map(frozenset, combinations(absent, size))

    def lists(self, s: State) -> tuple[Listed, ...]:
        """I3: the lists of partitions with which a load is good that reads now."""
        if not self.bounds.imports:
            return ((0, False, -1),)
        there = self.listed(s).importing.lists
        if self.rules.load_checks_opening:
            there = tuple(one for one in there if one[0] == s.importing.opening)
        return there

    def listed(self, s: State) -> State:
        """The state once some worker may have listed the partitions."""
        if not self.bounds.imports:
            return s
        importing, scanned = s.importing, s.seal.scanned
        known = importing.filter if importing.filter > -2 else int(scanned[0]) if scanned else -1
        lists = {
            *importing.lists,
            (importing.opening, importing.open, -1 if importing.open else known),
        }
        return s._replace(importing=importing._replace(lists=tuple(sorted(lists))))

    def imports(self, s: State) -> Iterator[Step]:
        """The next step of the import, and of the process that closes the day, at any time."""
        if self.bounds.imports:
            for step in (*self.import_on(s), *self.close_on(s)):
                yield step[0], self.listed(step[1]), step[2]

    def import_on(self, s: State) -> Iterator[Step]:
        """I1, I2: open, renew, read all, insert, look at the clock and at T-1, T and T+1, commit.

        T-1 is left out where the import had its filter when it read: no create is under way there.

        A transaction that fails is rolled back, and the import is over.
        """
        importing, rules = s.importing, self.rules
        over = s._replace(importing=importing._replace(at=9, writes=()))
        if importing.at < 2:
            yield ("import: is killed",), over, ""
            step = rules.import_order.split()[importing.at]
            if step == "open":
                if (s.seal.mark >= 0) == (len(s.seal.scanned) > 0) and not importing.closing:
                    opened = importing._replace(at=importing.at + 1, open=True, filter=-1)
                    yield ("import: OPEN", 0), s._replace(importing=opened), ""
            elif not self.opening_held(s):
                renewed = importing._replace(at=importing.at + 1, opening=importing.opening + 1)
                renewed = renewed._replace(mine=renewed.opening)
                yield ("import: RENEW",), s._replace(importing=renewed), ""
        elif importing.at == 2:
            label = ("import: READ all",)
            if any(s.rows):
                yield (*label, "finds a row"), over, ""
            else:
                today = self.day(s)
                read = importing._replace(at=3, today=today)
                yield label, s._replace(importing=read), ""
                by_filter = rules.import_unlooked == "filter"
                if (len(s.seal.scanned) - 1 if by_filter else s.seal.mark) >= today - 1:
                    read = read._replace(skips=True)
                    yield (*label, "and T-1 is sealed"), s._replace(importing=read), ""
        elif importing.at == 3:
            if s.rows[0]:
                yield ("import: INSERT", 0, "duplicate key"), over, ""
            else:
                made = effect(IMPORTED, 0, False, ()).row
                wrote = importing._replace(at=4 if rules.import_looks else 8, writes=((0, made),))
                yield ("import: INSERT", 0), s._replace(importing=wrote), ""
        elif importing.at == 4:
            late = rules.import_checks_day and self.day(s) != importing.today
            other = rules.import_requires_opening and importing.opening != importing.mine
            if late or other:
                yield ("import: LOOK", "too late"), over, ""
            else:
                at = 6 if importing.skips else 5
                yield ("import: LOOK",), s._replace(importing=importing._replace(at=at)), ""
        elif importing.at < 8:
            p = importing.today + importing.at - 6
            if p > 0 and self.locked(s, p, -2):
                return
            if p > 0 and s.rows[p]:
                yield ("import: LOOK", p, "finds a row, rolled back"), over, ""
            else:
                yield (
                    ("import: LOOK", p),
                    s._replace(importing=importing._replace(at=importing.at + 1)),
                    "",
                )
        elif importing.at == 8:
            yield ("import: is rolled back",), over, ""
            after, bad = self.commit(over, (IMPORTED,), importing.writes)
            yield ("import: COMMIT",), after, bad

    def close_on(self, s: State) -> Iterator[Step]:
        """I5: renew, close, wait for transactions that write into the day, scan it again."""
        importing, step = s.importing, ("renew", "close", "wait", "scan", "")[s.importing.closing]
        if step == "" or (step == "renew" and not importing.open):
            return
        if importing.at == 1 and self.rules.opens_under_lock:
            return  # the import holds the lock, or it dies and is over
        after = importing._replace(closing=importing.closing + 1)
        if step == "renew" and self.rules.close_renews:
            if self.opening_held(s):
                return
            after = after._replace(opening=importing.opening + 1)
        elif step == "close":
            after = after._replace(open=False)
        elif step == "wait" and self.locked(s, 0, -1):
            return
        elif step == "scan":
            after = after._replace(filter=int(bool(s.rows[0])))
        yield ("close:", step), s._replace(importing=after), ""

    def opening_held(self, s: State) -> bool:
        """Whether a transaction has the opening locked, so that it cannot be renewed."""
        creates = any(w.at > CLOCK and not w.loaded for w in s.workers)
        held = self.rules.import_requires_opening and 4 < s.importing.at < 9
        return held or (creates and self.rules.create_requires_opening)

    def land(self, s: State) -> Iterator[Step]:
        """A write that its client has given up takes effect, or never will."""
        for n, z in enumerate(s.late):
            rest = s._replace(late=s.late[:n] + s.late[n + 1 :])
            yield ("late write of change", z.change, "is lost"), rest, ""
            if z.expects:
                p = z.writes[0][0]
                row = s.rows[p]
                if self.locked(s, p, -1) or not row:
                    continue
                if self.rules.compare_and_set and row.version != z.expects:
                    continue
            after, bad = self.commit(rest, z.changed, z.writes)
            if z.denied and self.bounds.retention is None:
                bad = bad or f"I3: change {z.change} was answered as changing nothing, and landed"
            yield ("late write of change", z.change, "lands"), after, bad

    def locked(self, s: State, p: int, i: int) -> bool:
        """Whether a transaction other than worker i's (-2: the import's) holds the key's row in
        partition p."""
        for j, w in enumerate(s.workers):
            if j != i:
                for q, _ in w.writes:
                    if q == p:
                        return True
        if i != -2 and any(q == p for q, _ in s.importing.writes):
            return True
        return any(q == p for z in s.late if not z.expects for q, _ in z.writes)

    def commit(self, s: State, changed: tuple[int, ...], writes: Writes) -> tuple[State, str]:
        """The state after a commit of these changes, and what it broke."""
        rows = list(s.rows)
        for p, row in writes:
            rows[p] = row
        log = (*s.log, *changed)
        bad = ""
        keep = self.bounds.retention
        oldest = self.oldest(self.day(s))
        there = [row for row in rows[oldest:] if row]
        if len(there) > 1:
            bad = "I2: the key has two rows"
        elif any(change in s.log for change in changed):
            bad = f"I5: change {changed} was applied twice"
        elif keep is None:
            version, live, content = truth(log)
            if not there:
                bad = "I3: the row is gone" if live else ""
            elif there[0].content != content or there[0].live != live:
                bad = f"I3: the row says {there[0].content}, the changes made {content}"
            elif there[0].version != version:
                bad = f"I3 (version): {there[0].version} after {version} changes"
        return self.cached(s._replace(rows=tuple(rows), log=log), writes), bad

    def cached(self, s: State, writes: Writes) -> State:
        """The state once a worker may have these rows in its cache."""
        if not self.bounds.cache or s.started == self.bounds.changes:
            return s  # no further change begins
        past = {*s.past, *((p, row) for p, row in writes if row)}
        return s._replace(past=tuple(sorted(past)))  # type: ignore[arg-type]

    def acknowledge(
        self, s: State, i: int, w: Worker, label: tuple[object, ...],
        answers: tuple[int, ...], bad: str,
    ) -> Step:  # fmt: skip
        """Save 3: each client is told which version its change made; 0: that it changed nothing."""
        known = self.bounds.retention is None
        changed = [m for m, version in zip(members(w.change), answers, strict=True) if version]
        for change, version in zip(members(w.change), answers, strict=True):
            if bad:
                break
            if version and change not in s.log:
                bad = f"I1: change {change} is acknowledged and not committed"
            elif version and known and s.log.index(change) + 1 != version:
                bad = f"I3 (version): change {change} is answered with version {version}"
            elif not version and known and change in s.log:
                bad = f"I3: change {change} was answered as changing nothing, and is committed"
            elif not version and known and truth(s.log[: s.log.index(changed[0])])[1]:
                bad = f"I3: change {change} was answered as changing nothing, though it would have"
        return (*label, "| ACKNOWLEDGED"), self.put(s, i, self.idle(s, w)), bad

    def put(self, s: State, i: int, w: Worker) -> State:
        """The state with worker i replaced."""
        workers = (*s.workers[:i], w, *s.workers[i + 1 :])
        return State(*s[:6], tuple(sorted(workers)), s.late, s.past, s.seal, s.importing)

    def idle(self, s: State, w: Worker) -> Worker:
        if s.started == self.bounds.changes:
            return FRESH  # no change is left for it, so its id does not matter
        return Worker(IDLE, w.id, w.operation, 0, 0, 0, 0, (), (), 0, 0, 0)

    def clocks(self, s: State, w: Worker) -> set[int]:
        """The days a statement may say that was sent on w.clock, its snapshot taken now."""
        limit, day = self.transaction_limit, self.day(s)
        if limit is None:
            return {w.clock, day}
        return {max(w.clock, min(day, s.top - limit)), day}

    def oldest(self, today: int) -> int:
        keep = self.bounds.retention
        return 0 if keep is None else max(0, today - keep)

    def newest_row(
        self, s: State, oldest: int, newest: int, ruled_out: frozenset[int] = frozenset()
    ) -> Found:
        for p in range(min(newest, len(s.rows) - 1), oldest - 1, -1):
            row = s.rows[p]
            if row and p not in ruled_out:
                return p, row
        return ()
