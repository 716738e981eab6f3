#!/bin/sh
# Makes a standby the primary, having applied all that it had received.
#
#     deploy/mysql/promote.sh --defaults-extra-file=/root/admin.cnf --host=mysql2
#
# The arguments go to `mariadb`, as an administrator of the STANDBY (READ ONLY ADMIN, REPLICATION
# SLAVE ADMIN, BINLOG MONITOR). First make sure that the old primary is dead or read-only:
# two writable hosts with one generation are both refused by the gateways.
# Nothing is promoted unless every step before it succeeded; run again, it says what is missing.
set -eu
case "${1:---help}" in -h | --help)
    sed -n '2,/^set/s/^# \{0,1\}//p' "$0"
    exit 2 ;;
esac

ask() { mariadb "$@" --batch --skip-column-names; }  # --defaults-extra-file only works in front
fail() { echo "promote: $*; nothing is promoted" >&2; exit 1; }

ask "$@" -e 'SELECT 1' >/dev/null || fail "the standby does not answer"
[ "$(ask "$@" -e 'SELECT @@read_only')" = 1 ] || fail "this host is writable: it is no standby"

ask "$@" -e 'STOP SLAVE IO_THREAD'
status=$(mariadb "$@" -e 'SHOW SLAVE STATUS\G')
received=$(echo "$status" | sed -n 's/^ *Gtid_IO_Pos: //p')
[ -n "$status" ] || fail "this host follows nobody: it is no standby"
if [ -n "$received" ]; then
    echo "promote: applying what was received, up to $received"
    waited=$(ask "$@" -e "SELECT MASTER_GTID_WAIT('$received', 60)")
    [ "$waited" = 0 ] || fail "not all of $received was applied in 60 s; see Last_SQL_Error in SHOW SLAVE STATUS"
fi

# Without a standby of its own it would wait for one at its first commit: no semi-sync for now.
# read_only=0 comes last, when its generation is the highest already.
ask "$@" -e "
    STOP SLAVE;
    RESET SLAVE ALL;
    SET GLOBAL rpl_semi_sync_slave_enabled = 0;
    SET GLOBAL rpl_semi_sync_master_enabled = 0;
    UPDATE tapedeck.tapedeck_generation SET generation = generation + 1 WHERE id = 1;
    SET GLOBAL read_only = 0;"
generation=$(ask "$@" -e 'SELECT generation FROM tapedeck.tapedeck_generation WHERE id = 1')
echo "promote: done, generation $generation. It has no standby: link one next (standby.sql, primary.sql)"
