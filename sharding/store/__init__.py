"""Loads and saves: the protocol, its numbered rules, and the model's names for them.

The words in brackets are switches of `tests/model/protocol_words.py::Rules`; with any of them off,
the model shows how a change is lost or a key gets two rows. Rules that cost something and lose
nothing when they are broken are marked (cost).

T is MySQL's day: the newer of its clock's and the day after the newest sealed day
[day_follows_mark]. Only partitions T and T+1 are created. A row carries a version, its body, and
the operations that wrote it last. What must hold: an acknowledged change is committed, a key has
one row, its version grows by one with each change, and a change is applied once.

Load (`reader`)
1. A hint names a partition D in which a row may be. It may be wrong in any way, or missing.
2. One statement [one_statement] reads from D [from_hint_up (cost)] up to T+1 [up_to_tomorrow]: a
   row that moves between two statements would be missed by both. The newest row wins.
3. A row counts as absent only after one statement read all partitions [verify_empty], those that
   were read before once more [reread_all]. A sealed partition whose filter rules the key out
   counts as read.
a. If MySQL's day, in that same statement, is later than the T that it was made for, read again
   [reread_on_new_day], also if a row was found [reread_what_was_found (cost)].

Save (`writer`), one transaction, READ COMMITTED
1. It goes into W, the newer of T and the partition of the row [newer_of_both (cost)].
   In place: only where the version is the loaded one [compare_and_set]; several at once, only if
   MySQL counts 2 for every row [upsert_count].
   Move: insert into W, delete the loaded version [delete_checks_version], and require that it was
   there [delete_count].
   Create: insert, then [look_after_insert] look with a lock [look_locks] at W-1 [look_before] and
   at W+1 [look_after]. W-1 may be left out if the load had its filter: the mark is not enough
   [unlooked].
b. A create requires that MySQL's day is still W [create_checks_day].
3. The answer goes out after the commit [acknowledge_after_commit].
4. A change keeps one operation id through all its tries [operation_kept] and looks for it in the
   row [look_for_operation] at every reload [at_every_reload]. A row keeps the last operation of
   each of the last workers, by count, not by age [prune]. If the row may have dropped the entry,
   its absence proves nothing: the change ends as unknown [forgotten_given_up]. A worker that
   restarts has another id [new_worker_id], and one change of a key under way
   [one_change_a_worker].
5. A delete leaves a row [tombstones] whose version keeps growing [version_goes_on].
c. The operation is looked for in the partition that has the row by then (rule 4).
d. An update in place does not check the day: only a move takes a row out of a partition (rule 1).
e. After its insert [insert_first], a move requires that MySQL's day is still W [move_checks_day].

Running sessions (`session_cache`, `group_commit`, `store`)
f. A change may begin from a cached row, if that was committed [cache_committed] and is within
   retention [cache_within_retention]. Nothing is answered from it without a save [cache_backed].
g. Changes that are saved together are one change of the protocol. They are compared with the
   version loaded, not with the new one minus one [match_base]; the version that a try made tells
   which try was committed [tries_remembered].

Sealed days (`sharding.partitions.sealing`, `sharding.filters`)
S1. MySQL's day is later than the mark, in every statement that uses it [day_follows_mark].
S2. Mark, wait, scan, in this order [seal_order].
S3. The scan waits for the transactions that are open in the day [scan_waits].
S4. What lets a create leave out W-1 is the completed filter at its load [unlooked].
S5. If the filters rule out every day before W, a create may come before any load [create_first]:
    it looks at all that is left. If W has the key already, its row counts as loaded.

Imports (`sharding.partitions.import_opening`, `sharding.importing`)
I1. The day is opened before the opening gets a new number [import_order], and no process closes
    it in between [opens_under_lock].
I2. The import inserts, then looks at T-1, T and T+1 with a lock [import_looks], and requires that
    MySQL's day is T [import_checks_day] and the opening its own [import_requires_opening]. It
    may leave out T-1 if it had that day's filter before; the mark is not enough [import_unlooked].
I3. A load counts only if its list of the partitions was made under the opening that its statement
    reads [load_checks_opening].
I4. A create requires the opening of its load [create_requires_opening] and looks at the days that
    are open [create_looks_at_open].
I5. The opening gets a new number before the day is closed [close_renews].
"""
