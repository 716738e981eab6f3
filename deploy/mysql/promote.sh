#!/bin/sh
# Makes a standby the primary, having applied all that it had received: MariaDB's or MySQL's. (A MySQL group elects
# its primary itself: this is for pairs.)
#
#     deploy/mysql/promote.sh --defaults-extra-file=/root/admin.cnf --host=mysql2
#
# The arguments go to `mariadb`, or to `mysql` if that is not installed (or to CLIENT), as an administrator of the STANDBY
# (MariaDB: READ ONLY ADMIN, REPLICATION SLAVE ADMIN, BINLOG MONITOR; MySQL: CONNECTION_ADMIN, SYSTEM_VARIABLES_ADMIN,
# REPLICATION_SLAVE_ADMIN). First make sure that the old primary is dead or read-only: two writable hosts with one
# generation are both refused by the gateways.
# Nothing is promoted unless every step before it succeeded; run again, it says what is missing.
set -eu
case "${1:---help}" in -h | --help)
    sed -n '2,/^set/s/^# \{0,1\}//p' "$0"
    exit 2 ;;
esac
client=${CLIENT:-$(command -v mariadb || echo mysql)}

ask() { "$client" "$@" --batch --raw --skip-column-names; }  # --defaults-extra-file only works in front
fail() { echo "promote: $*; nothing is promoted" >&2; exit 1; }

version=$(ask "$@" -e 'SELECT VERSION()') || fail "the standby does not answer"
[ "$(ask "$@" -e 'SELECT @@read_only')" = 1 ] || fail "this host is writable: it is no standby"

case $version in *MariaDB*) source=master replica=slave ;; *) source=source replica=replica ;; esac
look() { status=$("$client" "$@" --vertical -e 'SHOW REPLICA STATUS' | sed 's/Slave_/Replica_/'); }
shown() { echo "$status" | sed -n "s/^ *$1: //p"; }
apply() { # Waits until all that was received is applied.
    look "$@"
    case $version in
        *MariaDB*)
            received=$(shown Gtid_IO_Pos)
            wait="MASTER_GTID_WAIT('$received', 5)" ;;
        *)
            received=$(ask "$@" -e "SELECT REPLACE(received_transaction_set, CHAR(10), '')
                FROM performance_schema.replication_connection_status WHERE channel_name = ''")
            wait="WAIT_FOR_EXECUTED_GTID_SET('$received', 5)" ;;
    esac
    [ -n "$received" ] || return 0
    echo "promote: applying what was received, up to $received"
    for _ in 1 2 3 4 5 6 7 8 9 10 11 12; do
        [ "$(ask "$@" -e "SELECT $wait")" = 0 ] && return
        look "$@"
        [ "$(shown Replica_SQL_Running)" = Yes ] || break
    done
    fail "not all of $received is applied: $(shown Last_SQL_Error | grep . || echo '60 s were too short'). Mend that," \
        "run this again, and do not START REPLICA by hand: a MariaDB whose two threads are stopped then discards what it received"
}

look "$@"
[ -n "$status" ] || fail "this host is no standby: it replicates from no other host"
leaves=$(echo "$status" | sed -n 's/^ *\(Replicate_.*\(DB\|Table\): ..*\)/\1/p' | tr '\n' ' ')
[ -z "$leaves" ] || fail "this host leaves out a part of what it receives ($leaves): it lacks changes that were acknowledged"
if [ "$(shown Replica_SQL_Running)" != Yes ] || [ "$(shown SQL_Delay)" != 0 ]; then
    echo "promote: it applied nothing, or with a delay: it applies now"
    # What was received is in the relay log. MariaDB (with GTIDs) empties it when it starts with both threads stopped, and MySQL
    # when it is told anything with both threads stopped.
    case $version in
        *MariaDB*)
            ask "$@" -e 'STOP REPLICA'
            look "$@"
            at="MASTER_DELAY = 0, MASTER_USE_GTID = no, RELAY_LOG_FILE = '$(shown Relay_Log_File)'"
            ask "$@" -e "CHANGE MASTER TO $at, RELAY_LOG_POS = $(shown Relay_Log_Pos); START REPLICA SQL_THREAD" ;;
        *)
            ask "$@" -e 'STOP REPLICA SQL_THREAD; START REPLICA IO_THREAD; CHANGE REPLICATION SOURCE TO SOURCE_DELAY = 0'
            ask "$@" -e 'START REPLICA SQL_THREAD' ;;
    esac
fi
# Receiving stops last: where applying fails, it can be started again while the other thread runs.
apply "$@"
ask "$@" -e 'STOP REPLICA IO_THREAD'
apply "$@"

# Without a standby of its own it would wait for one at its first commit: no semi-sync for now.
# read_only=0 comes last, when its generation is the highest already.
ask "$@" -e "
    STOP REPLICA;
    RESET REPLICA ALL;
    SET GLOBAL rpl_semi_sync_${replica}_enabled = 0;
    SET GLOBAL rpl_semi_sync_${source}_enabled = 0;
    UPDATE tapedeck.tapedeck_generation SET generation = generation + 1 WHERE id = 1;
    SET GLOBAL read_only = 0;"
generation=$(ask "$@" -e 'SELECT generation FROM tapedeck.tapedeck_generation WHERE id = 1')
echo "promote: done, generation $generation. It has no standby: link one next (docs/operations.md, 'Link a standby')"
