"""A model of how a state is loaded and saved: the protocol, small enough to explore it all.

One key. Some workers (a worker is one gateway process from its start to its end), one MySQL
primary, and day partitions 0, 1, 2, ... It begins on day 1. What a worker does between two
statements affects no other worker, so one step of the model is one statement, as MySQL sees it:

    load    READ -> (READ_ALL)
    save    in place, one key:  UPDATE ... WHERE version = loaded           (commits by itself)
            in place, batch:    UPSERT -> COMMIT
            move:               INSERT -> DELETE -> CLOCK -> COMMIT
            create:             INSERT -> CLOCK -> LOOK_BEFORE -> LOOK_AFTER -> COMMIT
                                (also before any load; INSERT then reads a row that is there)
                                (without LOOK_BEFORE where the load had the filter of W-1;
                                with LOOK_OPEN before it where an older day is open)
    import  OPEN -> RENEW -> READ -> INSERT -> LOOK -> COMMIT, into day 0; and RENEW -> CLOSE
    seal    MARK -> WAIT -> SCAN, one day after the other, at any time; no request causes it

(START TRANSACTION does nothing under READ COMMITTED, where every statement has its own snapshot.
CLOCK, LOOK_BEFORE and LOOK_AFTER are one statement in the product; a locking read has no snapshot,
so its parts are steps. A statement's clock is fixed when it starts, before its snapshot.)

Whatever the protocol does not decide is explored in every way: what the lookup says, how old the
worker's T is, which worker goes next, when midnight comes, which statement fails with a lost
connection, a deadlock or a lock wait, whether the answer to a commit arrives, whether a commit
that the client has given up lands later or never, when a worker dies.

`Rules` has one switch for each rule; taking one out is how the tests show that it is needed.
What must hold (numbers as in the design): I1 acknowledged is committed; I2 one row; I3 versions
grow by one, no change is lost, undone or answered with another's version, and a load sees what was
committed before it began; I5 a change is applied once. `Model.commit`, `Model.acknowledge` and
`Model.loaded` check them: no other step can break one.

Two fields are only for the checks, and no worker reads them: `State.log`, the changes in the order
of their commits, and `Worker.floor`, the length of the log when the load began.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from protocol_words import (
    CLOCK,
    COMMIT,
    DELETE,
    FRESH,
    GROUP,
    GROUPS,
    IDLE,
    INSERT,
    LOOK_AFTER,
    LOOK_BEFORE,
    LOOK_OPEN,
    NAMES,
    READ,
    READ_ALL,
    READ_ONE,
    UPDATE,
    UPSERT,
    Bounds,
    Effect,
    Found,
    Late,
    Listed,
    Row,
    Rules,
    State,
    Step,
    Worker,
    Writes,
    effect,
    truth,
)
from protocol_world import World


class Model(World):
    """The transition system for these rules and bounds."""

    def __init__(self, rules: Rules = Rules(), bounds: Bounds = Bounds()) -> None:  # noqa: B008
        super().__init__(rules, bounds)
        self.statements: dict[int, Callable[[State, int, Worker], Iterator[Step]]] = {
            IDLE: self.start, READ: self.read, READ_ALL: self.read_all, READ_ONE: self.read_one,
            UPDATE: self.update, UPSERT: self.upsert, INSERT: self.insert, DELETE: self.delete,
            CLOCK: self.look_clock, LOOK_BEFORE: self.look_at_yesterday,
            LOOK_AFTER: self.look_at_tomorrow, COMMIT: self.send_commit,
            LOOK_OPEN: self.look_at_open,
        }  # fmt: skip

    def steps(self, s: State) -> Iterator[Step]:
        """Everything that can happen next."""
        yield from self.midnight(s)
        yield from self.seal(s)
        yield from self.imports(s)
        yield from self.land(s)
        before = None
        for i, w in enumerate(s.workers):
            if w != before:
                yield from self.statements[w.at](s, i, w)
                yield from self.fail(s, i, w)
            before = w

    def fail(self, s: State, i: int, w: Worker) -> Iterator[Step]:
        """A save's statement fails (lost connection, deadlock, lock wait), is rolled back and tried
        again. Before a read, the change may be given up, or the worker may die.

        A worker that dies at another moment is one whose statement fails, and that dies then.
        """
        if w.at >= UPDATE:
            yield (w.id, NAMES[w.at], "fails, rolled back"), self.put(s, i, self.again(s, w)), ""
        elif w.at == READ:
            yield (w.id, "gives the change up"), self.put(s, i, self.idle(s, w)), ""
            reborn = FRESH if self.rules.new_worker_id else FRESH._replace(id=w.id)
            yield (w.id, "is killed and replaced"), self.put(s, i, reborn), ""

    # ---- a request -----------------------------------------------------------------------------

    def start(self, s: State, i: int, w: Worker) -> Iterator[Step]:
        """A request arrives. It is the worker's only change of this key."""
        if s.started == self.bounds.changes:
            return
        number = s.started + 1
        who, operation = w.id or number, w.operation + 1
        if not self.rules.one_change_a_worker:
            who, operation = 1, number
        changes = [2 * number, 2 * number + 1] if self.bounds.deletes else [2 * number]
        for kind, name in enumerate(GROUPS, 1):
            if name in self.bounds.groups:
                changes.append(GROUP * kind + 2 * number)
        for change in changes:
            begun = Worker(
                READ, who, operation, change, len(s.log), 0, self.day(s), (), (), 0, 0, 0
            )
            after = s._replace(started=number)
            if number == self.bounds.changes:
                after = after._replace(
                    workers=tuple(FRESH if v.at == IDLE else v for v in s.workers), past=()
                )
            yield (who, "starts change", change), self.put(after, i, begun), ""
            yield from self.start_cached(after, i, begun, s.past)
            yield from self.start_first(after, i, begun)

    def start_first(self, s: State, i: int, w: Worker) -> Iterator[Step]:
        """S5: the filters rule out every day before W: a create, which finds a row that W has."""
        if not self.effect(w, ()).changed:
            return
        for today in range(1, s.top + 1):
            older = range(self.oldest(today), today)
            for listed, ruled_out in self.knowing(s):
                if ruled_out.issuperset(older) or not self.rules.create_first:
                    v = w._replace(listed=listed, skips=True, first=True, today=today, at=INSERT)
                    label = (w.id, "starts change", w.change, "with a create in", today)
                    yield label, self.put(s, i, v), ""

    def start_cached(
        self, s: State, i: int, w: Worker, past: tuple[tuple[int, Row], ...]
    ) -> Iterator[Step]:
        """f: the request finds a row in the worker's cache: any row that was committed at any time.

        If the request changes something, the save comes at once; if not, the row is read.
        """
        done = set()
        for found in past:
            for today in range(1, s.top + 1):
                if self.rules.cache_within_retention and found[0] < self.oldest(today):
                    continue
                target = max(today, found[0])
                if (target, found) in done:
                    continue
                done.add((target, found))
                label = (w.id, "starts change", w.change, "from a cached row", found)
                if self.effect(w, found).changed:
                    for after in self.ways(s, i, w, today, found):
                        yield label, after, ""
                elif not self.rules.cache_backed:
                    _, live, _ = truth(s.log)
                    bad = "I3: it changes nothing, by the cached row, though by the log it would"
                    yield label, self.put(s, i, self.idle(s, w)), bad if live else ""

    def again(self, s: State, w: Worker) -> Worker:
        """Save 2: reload, apply the transition again, and retry. 4: the operation id stays."""
        rules, operation, reloads = self.rules, w.operation, w.reloads
        if not rules.operation_kept and operation < 40:
            operation += 10
        if not rules.at_every_reload:
            reloads = min(2, reloads + 1)
        return Worker(
            READ, w.id, operation, w.change, len(s.log), 0, self.day(s), (), (), reloads, 0, 0,
            w.tried, w.unsure,
        )  # fmt: skip

    def unanswered(self, s: State, w: Worker) -> Worker:
        """4: as `again`, but the try may have landed, or may land later."""
        version = self.effect(w, w.loaded).row.version
        return self.again(s, w)._replace(unsure=min(version, w.unsure or version))

    def next(
        self, s: State, w: Worker, at: int, today: int, loaded: Found, aside: int = 0
    ) -> Worker:
        return Worker(
            at, w.id, w.operation, w.change, w.floor, today, self.day(s), loaded, (), w.reloads, 0,
            aside, w.tried, w.unsure,
        )  # fmt: skip

    # ---- load ----------------------------------------------------------------------------------

    def read(self, s: State, i: int, w: Worker) -> Iterator[Step]:
        """Load 1 and 2: one statement over D to T+1, for every D a lookup may say.

        No hint, garbage, or a day that is not kept reads all, which is D = the oldest.
        """
        done = set()
        for today in (w.today,) if w.today else range(1, s.top + 1):
            newest = today + self.rules.up_to_tomorrow
            oldest = self.oldest(today)
            if not self.rules.one_statement:
                yield (
                    (w.id, "READ one by one, T =", today),
                    self.put(s, i, self.next(s, w, READ_ONE, today, (), newest)),
                    "",
                )
                continue
            for hint in range(oldest, newest + 1):
                last = newest if self.rules.from_hint_up else hint
                for listed, ruled_out in self.knowing(s):
                    v = w._replace(listed=listed)
                    found = self.newest_row(s, hint, last, ruled_out)
                    whole = last == newest and ruled_out.issuperset(range(oldest, hint))
                    for clock in self.read_clocks(s, w):
                        outcome = (clock > today, clock, found, whole, listed)
                        if outcome not in done:
                            done.add(outcome)
                            label = (w.id, "READ", hint, "to", last, "->", found, "clock", clock)
                            yield from self.verify(s, i, v, label, today, clock, found, hint, whole)

    def knowing(self, s: State) -> Iterator[tuple[Listed, frozenset[int]]]:
        """What a load may know: a list of the partitions, and the days that filters rule out."""
        for listed in self.lists(s):
            for ruled_out in self.ruled_out(s, listed):
                yield listed, ruled_out

    def read_clocks(self, s: State, w: Worker) -> set[int]:
        """MySQL's day as a load may hear it: the mark is read in the snapshot of the rows."""
        mark = s.seal.mark + 1 if self.rules.day_follows_mark else 0
        return {max(clock, mark) for clock in self.clocks(s, w)}

    def new_day(self, today: int, clock: int, found: Found) -> bool:
        """Load, rule a: whether the statement must be repeated with the day that MySQL said."""
        rules = self.rules
        again = rules.reread_on_new_day and clock > today
        return again and not (found and not rules.reread_what_was_found)

    def verify(
        self, s: State, i: int, w: Worker, label: tuple[object, ...],
        today: int, clock: int, found: Found, hint: int, whole: bool,
    ) -> Iterator[Step]:  # fmt: skip
        """Load 3 and a: whether what was read answers the question."""
        if self.new_day(today, clock, found):
            yield label, self.put(s, i, self.next(s, w, READ, clock, ())), ""
        elif found or whole or not self.rules.verify_empty:
            yield from self.loaded(s, i, w, label, clock, found)
        else:
            aside = 0 if self.rules.reread_all else hint
            yield label, self.put(s, i, self.next(s, w, READ_ALL, clock, (), aside)), ""

    def read_all(self, s: State, i: int, w: Worker) -> Iterator[Step]:
        """Load 3: one statement over all partitions."""
        oldest = self.oldest(w.today)
        newest = w.aside - 1 if w.aside else w.today + self.rules.up_to_tomorrow
        known = {(a, self.newest_row(s, oldest, newest, out)) for a, out in self.knowing(s)}
        for listed, found in known:
            v = w._replace(listed=listed)
            for clock in self.read_clocks(s, w):
                label = (w.id, "READ", oldest, "to", newest, "->", found, "clock", clock)
                if self.new_day(w.today, clock, found):
                    yield label, self.put(s, i, self.next(s, w, READ_ALL, clock, ())), ""
                else:
                    yield from self.loaded(s, i, v, label, clock, found)

    def read_one(self, s: State, i: int, w: Worker) -> Iterator[Step]:
        """The load without the rule `one_statement`: partition by partition, the newest first."""
        row = s.rows[w.aside]
        label = (w.id, "READ only", w.aside, "->", row)
        if row:
            yield from self.loaded(s, i, w, label, self.day(s), (w.aside, row))
        elif w.aside == 0:
            yield from self.loaded(s, i, w, label, self.day(s), ())
        else:
            yield label, self.put(s, i, self.next(s, w, READ_ONE, w.today, (), w.aside - 1)), ""

    def loaded(
        self, s: State, i: int, w: Worker, label: tuple[object, ...], today: int, found: Found
    ) -> Iterator[Step]:
        """The load is over. Acknowledge, answer that nothing changes, or choose how to save."""
        rules, row = self.rules, found[1] if found else None
        bad = ""
        if (row.version if row else 0) < w.floor and self.bounds.retention is None:
            bad = f"I3 (load): {w.floor} changes were committed before the load, it found {found}"
        looks = rules.look_for_operation and (rules.at_every_reload or w.reloads == 1)
        if row and looks:
            for who, operation, version, _ in row.operations:  # c
                if who == w.id and operation == w.operation:
                    answers = (version,)
                    if w.tried:
                        answers = dict(w.tried).get(version) or w.tried[-1][1]
                    label = (*label, "| finds its operation")
                    yield self.acknowledge(s, i, w, label, answers, bad)
                    return
            if rules.forgotten_given_up and self.forgotten(w, row):
                label = (*label, "| cannot know whether it landed, gives up")
                yield label, self.put(s, i, self.idle(s, w)), bad
                return
        if not self.effect(w, found).changed:  # nothing to delete
            late = tuple(z._replace(denied=True) if z.change == w.change else z for z in s.late)
            after = self.put(s, i, self.idle(s, w))._replace(late=late)
            yield (*label, "| nothing to delete"), after, bad
            return
        for after in self.ways(s, i, w, today, found):
            yield label, after, bad

    def forgotten(self, w: Worker, row: Row) -> bool:
        """4: whether an entry of a try without an answer may have been dropped from a full log."""
        versions = [version for _, _, version, _ in row.operations]
        return len(versions) >= self.bounds.entries and 0 < w.unsure < min(versions)

    def ways(self, s: State, i: int, w: Worker, today: int, found: Found) -> Iterator[State]:
        """Save 1: which statements save what is made of a row."""
        rules = self.rules
        target = today  # 1: W
        if found and rules.newer_of_both:
            target = max(today, found[0])
        ways: tuple[int, ...] = (INSERT,)
        if found and found[0] == target:
            ways = (UPDATE, UPSERT) if self.bounds.batches else (UPDATE,)
        elif found and not rules.insert_first:
            ways = (DELETE,)
        elif not found and not rules.look_after_insert:
            ways = (CLOCK,)
        if w.change >= GROUP:
            made = self.effect(w, found)
            tried = dict(w.tried) if rules.tries_remembered else {}
            tried[made.row.version] = made.answers
            if not rules.tries_remembered and w.tried:
                tried = dict(w.tried)
            w = w._replace(tried=tuple(tried.items()))
        for at in ways:
            saving = self.next(s, w, at, target, found)
            if not found:
                saving = saving._replace(listed=w.listed)
            yield self.put(s, i, saving)
            if not found and self.skips(s, "load", target, w.listed):
                yield self.put(s, i, saving._replace(skips=True))

    def skips(self, s: State, when: str, target: int, listed: Listed) -> bool:
        """S4: whether a create in W may leave out its look at W-1."""
        what, _, then = self.rules.unlooked.partition(" at ")
        if self.bounds.imports and target == 1 and listed[2] < 0:
            return False
        known = len(s.seal.scanned) - 1 if what == "filter" else s.seal.mark
        return then == when and known >= target - 1

    # ---- save ----------------------------------------------------------------------------------

    def new_row(self, s: State, w: Worker) -> Row:
        """The transition applied to what was loaded, and its operation entry (4, 5, c)."""
        day = s.day if self.rules.prune == "clock" else 0
        made, kept = self.effect(w, w.loaded).row, []
        if w.loaded:
            row = w.loaded[1]
            kept = [e for e in row.operations if e[0] != w.id]
            if self.rules.prune == "clock":
                # While no clock jumps, an entry is old only if no worker can look for it any more.
                # A midnight stands for a jump ahead: every entry from before it counts as old.
                busy = {(v.id, v.operation) for v in s.workers if v.at != IDLE}
                kept = [e for e in kept if e[:2] in busy and e[3] == day]
            else:
                kept = kept[len(kept) - min(len(kept), self.bounds.entries - 1) :]
        return made._replace(operations=(*kept, (w.id, w.operation, made.version, day)))

    def effect(self, w: Worker, found: Found) -> Effect:
        """What the worker's change, or group, makes of a row (4, 5)."""
        if not found:
            return effect(w.change, 0, False, ())
        row = found[1]
        version = row.version if row.live or self.rules.version_goes_on else 0
        return effect(w.change, version, row.live, row.content)

    def compares(self, w: Worker, row: Row) -> bool:
        """Save 1, in place: whether the compare-and-set takes this row for the one loaded."""
        if not self.rules.compare_and_set:
            return True
        if not self.rules.match_base:
            return row.version == self.effect(w, w.loaded).row.version - 1
        return row.version == w.loaded[1].version  # type: ignore[misc]

    def written(self, s: State, w: Worker, writes: Writes, at: int) -> Worker:
        """The worker with these writes in its transaction, before the statement `at`."""
        return w._replace(at=at, clock=self.day(s), writes=tuple(sorted((*w.writes, *writes))))

    def update(self, s: State, i: int, w: Worker) -> Iterator[Step]:
        """Save 1, in place, one key (d): UPDATE ... WHERE version = loaded; a commit of its own."""
        p, before = w.loaded  # type: ignore[misc]
        writes: Writes = ((p, self.new_row(s, w)),)
        if w.change & 1 and not self.rules.tombstones:
            writes = ((p, ()),)
        yield from self.abandon(s, i, w, before.version, writes)
        row = s.rows[p]
        if self.locked(s, p, i):
            return
        if row and self.compares(w, row):
            yield from self.commit_and_answer(s, i, w, writes)
        else:
            yield (w.id, "UPDATE", p, "changes nothing"), self.put(s, i, self.again(s, w)), ""

    def upsert(self, s: State, i: int, w: Worker) -> Iterator[Step]:
        """Save 1, in place, batch: INSERT ... ON DUPLICATE KEY UPDATE if the version is the loaded.

        Its count is 2 for a changed row, 1 for a new one, 0 for another version.
        """
        p = w.loaded[0]  # type: ignore[misc]
        if self.locked(s, p, i):
            return
        row = s.rows[p]
        count = 1 if not row else 2 if self.compares(w, row) else 0
        label = (w.id, "UPSERT", p, "count", count)
        if count == 2 or (count and not self.rules.upsert_count):
            gone = w.change & 1 and not self.rules.tombstones
            new: Row | tuple[()] = () if gone else self.new_row(s, w)
            yield label, self.put(s, i, self.written(s, w, ((p, new),), COMMIT)), ""
        else:
            yield (*label, "rolled back"), self.put(s, i, self.again(s, w)), ""

    def insert(self, s: State, i: int, w: Worker) -> Iterator[Step]:
        """Save 1, move and create: INSERT into W. A row that is there already: reload."""
        if self.locked(s, w.today, i):
            return
        label = (w.id, "INSERT", w.today)
        row = s.rows[w.today]
        if row and w.first:
            v = w._replace(first=False, skips=False)
            yield from self.loaded(s, i, v, (*label, "finds"), w.today, (w.today, row))
            return
        if row:
            yield (*label, "duplicate key, rolled back"), self.put(s, i, self.again(s, w)), ""
            return
        if not w.loaded:
            at = CLOCK if self.rules.look_after_insert else COMMIT
        else:
            at = DELETE if self.rules.insert_first else COMMIT
        gone = w.change & 1 and not self.rules.tombstones
        writes: Writes = () if gone else ((w.today, self.new_row(s, w)),)
        yield label, self.put(s, i, self.written(s, w, writes, at)), ""

    def delete(self, s: State, i: int, w: Worker) -> Iterator[Step]:
        """Save 1, move: DELETE FROM P WHERE version = loaded."""
        p, before = w.loaded  # type: ignore[misc]
        if self.locked(s, p, i):
            return
        row, rules = s.rows[p], self.rules
        matches = bool(row) and (
            row.version == before.version or not rules.delete_checks_version  # type: ignore
        )
        label = (w.id, "DELETE", p, "count", int(matches))
        if matches or not rules.delete_count:
            writes: Writes = ((p, ()),) if matches else ()
            yield label, self.put(s, i, self.written(s, w, writes, CLOCK)), ""
        else:
            yield (*label, "rolled back"), self.put(s, i, self.again(s, w)), ""

    def look_clock(self, s: State, i: int, w: Worker) -> Iterator[Step]:
        """Save 1, a move's last statement (e), or the start of a create's look (b): the clock must
        say W."""
        day = self.day(s)
        label = (w.id, "MOVE: it is day" if w.loaded else "LOOK: it is day", day)
        checks = self.rules.move_checks_day if w.loaded else self.rules.create_checks_day
        if checks and day != w.today:
            yield (*label, "rolled back"), self.put(s, i, self.again(s, w)), ""
            return
        if w.loaded:
            at = COMMIT if self.rules.insert_first else INSERT
            yield label, self.put(s, i, w._replace(at=at, clock=day)), ""
            return
        if self.rules.create_requires_opening and w.listed[0] != s.importing.opening:
            yield (*label, "another opening, rolled back"), self.put(s, i, self.again(s, w)), ""
            return
        opened = self.rules.create_looks_at_open and w.listed[1]
        if w.skips or self.skips(s, "create", w.today, w.listed):
            v = w._replace(at=LOOK_AFTER, clock=day, skips=False)
            v = v._replace(at=LOOK_OPEN, aside=v.at) if opened else v
            yield (*label, "and W-1 is sealed"), self.put(s, i, v), ""
        if not w.skips:
            v = w._replace(at=LOOK_BEFORE)
            v = v._replace(at=LOOK_OPEN, aside=v.at) if opened else v
            yield label, self.put(s, i, v), ""

    def look_at_open(self, s: State, i: int, w: Worker) -> Iterator[Step]:
        """Save 1, create (I4): SELECT ... FOR UPDATE in the day that is open."""
        yield from self.look(s, i, w._replace(aside=0), 0, True, w.aside)

    def look_at_yesterday(self, s: State, i: int, w: Worker) -> Iterator[Step]:
        """Save 1, create: SELECT ... FOR UPDATE in W-1."""
        yield from self.look(s, i, w, w.today - 1, self.rules.look_before, LOOK_AFTER)

    def look_at_tomorrow(self, s: State, i: int, w: Worker) -> Iterator[Step]:
        """Save 1, create: SELECT ... FOR UPDATE in W+1."""
        then = COMMIT if self.rules.look_after_insert else INSERT
        yield from self.look(s, i, w, w.today + 1, self.rules.look_after, then)

    def look(self, s: State, i: int, w: Worker, p: int, looks: bool, then: int) -> Iterator[Step]:
        """A locking read waits for a row that another transaction wrote; no row, no lock."""
        label = (w.id, "LOOK", p)
        if looks and self.rules.look_locks and self.locked(s, p, i):
            return
        if looks and s.rows[p]:
            yield (*label, "finds a row, rolled back"), self.put(s, i, self.again(s, w)), ""
        else:
            yield label, self.put(s, i, w._replace(at=then, clock=self.day(s))), ""

    def send_commit(self, s: State, i: int, w: Worker) -> Iterator[Step]:
        """COMMIT."""
        if not self.rules.acknowledge_after_commit:
            answers = self.effect(w, w.loaded).answers
            yield self.acknowledge(s, i, w, (w.id, "before COMMIT"), answers, "")
            return
        yield from self.abandon(s, i, w, 0, w.writes)
        yield from self.commit_and_answer(s, i, w, w.writes)

    def abandon(self, s: State, i: int, w: Worker, expects: int, writes: Writes) -> Iterator[Step]:
        """The client stops waiting (timeout, lost connection) while the write is on its way."""
        if len(s.late) < self.bounds.late:
            changed = self.effect(w, w.loaded).changed
            given_up = Late(w.change, changed, expects, writes, False, w.midnights)
            late = tuple(sorted((*s.late, given_up)))
            after = self.put(s, i, self.unanswered(s, w))._replace(late=late)
            if not self.rules.cache_committed:
                after = self.cached(after, writes)
            yield (w.id, NAMES[w.at], "gets no answer and is on its way"), after, ""

    def commit_and_answer(self, s: State, i: int, w: Worker, writes: Writes) -> Iterator[Step]:
        """Save 3: the commit happens, and then its answer arrives, or is lost."""
        made = self.effect(w, w.loaded)
        after, bad = self.commit(s, made.changed, writes)
        label = (w.id, NAMES[w.at], writes)
        unanswered = self.put(after, i, self.unanswered(after, w))
        yield (*label, "done, the answer is lost"), unanswered, bad
        yield self.acknowledge(after, i, w, label, made.answers, bad)
