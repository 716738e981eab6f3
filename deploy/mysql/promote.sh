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

ask "$@" -e 'STOP REPLICA IO_THREAD'
status=$("$client" "$@" --vertical -e 'SHOW REPLICA STATUS')
[ -n "$status" ] || fail "this host is no standby: it replicates from no other host"
case $version in
    *MariaDB*)
        source=master replica=slave
        received=$(echo "$status" | sed -n 's/^ *Gtid_IO_Pos: //p')
        wait="MASTER_GTID_WAIT('$received', 60)" ;;
    *)
        source=source replica=replica
        received=$(ask "$@" -e "SELECT REPLACE(received_transaction_set, CHAR(10), '')
            FROM performance_schema.replication_connection_status WHERE channel_name = ''")
        wait="WAIT_FOR_EXECUTED_GTID_SET('$received', 60)" ;;
esac
if [ -n "$received" ]; then
    echo "promote: applying what was received, up to $received"
    waited=$(ask "$@" -e "SELECT $wait")
    [ "$waited" = 0 ] || fail "not all of $received was applied in 60 s; see Last_SQL_Error in SHOW REPLICA STATUS"
fi

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
