#!/bin/sh
# Founds a MySQL group, or founds it again after all its members were off, safely; run again, it changes nothing.
#
#     SECRETS=/root/secrets deploy/mysql/group.sh mysql1 mysql2 mysql3
#
# All members are named, host or host:port, and must answer: any of them may be the only one that has an acknowledged
# change, and the one with the most founds the group. SECRETS has mysql_root, mysql_gateway and mysql_replication, each
# the password of an account (deploy/compose/make-secrets makes them); ADMIN is the administrator's name (root).
set -eu
case "${1:---help}" in -h | --help)
    sed -n '2,/^set/s/^# \{0,1\}//p' "$0"
    exit 2 ;;
esac
setup=${SETUP:-$(dirname "$0")} secrets=${SECRETS:-/run/secrets}

on() { # on HOST SQL...: as the administrator
    host=${1%:*} port=${1##*:} && shift
    [ "$port" != "$host" ] || port=3306
    MYSQL_PWD=$(cat "$secrets/mysql_root") "${CLIENT:-mysql}" --no-defaults --batch --raw --skip-column-names \
        --protocol=tcp --host="$host" --port="$port" --user="${ADMIN:-root}" "$@"
}
fail() { echo "group: $*" >&2; exit 1; }
filled() { # the SQL file with its passwords, none of which is ever an argument of a command
    sed -e "s/CHANGE_ME_GATEWAY/$(cat "$secrets/mysql_gateway")/" \
        -e "s/CHANGE_ME_REPLICATION/$(cat "$secrets/mysql_replication")/" "$setup/$1"
}
state() { # of a member, as it sees itself
    on "$1" -e "SELECT MAX(member_state) FROM performance_schema.replication_group_members
        WHERE member_id = @@server_uuid OR member_id = ''"
}
has() { # all transactions of a member: those that it applied, and those that it received
    on "$1" -e "SELECT REPLACE(CONCAT_WS(',', NULLIF(@@gtid_executed, ''),
        (SELECT NULLIF(received_transaction_set, '') FROM performance_schema.replication_connection_status
         WHERE channel_name = 'group_replication_applier')), CHAR(10), '')"
}
join() {
    # The members sign in to each other: a new one needs the account before it has the group's.
    { echo 'STOP GROUP_REPLICATION; SET SESSION sql_log_bin = 0; SET GLOBAL super_read_only = 0;'
      { filled users.sql; filled mysql-users.sql; } | grep 'replication@'; } | on "$1"
    # The password is for this start and for those by itself later.
    echo "
        CHANGE REPLICATION SOURCE TO SOURCE_USER = 'replication',
            SOURCE_PASSWORD = '$(cat "$secrets/mysql_replication")' FOR CHANNEL 'group_replication_recovery';
        ${2:-} START GROUP_REPLICATION; SET GLOBAL group_replication_bootstrap_group = OFF;
        SET PERSIST group_replication_start_on_boot = ON;" | on "$1"
}

online='' out=''
for member in "$@"; do
    seen=$(state "$member") || fail "$member does not answer: nothing is changed"
    case $seen in
        ONLINE | RECOVERING) online="$online $member" ;;
        *) out="$out $member" ;;
    esac
done
if [ -z "$online" ]; then
    for founder in "$@"; do
        most=yes own=$(has "$founder")
        for other in "$@"; do
            [ "$(on "$founder" -e "SELECT GTID_SUBSET('$(has "$other")', '$own')")" = 1 ] || most=no
        done
        [ "$most" = no ] || break
    done
    [ "$most" = yes ] || fail "each member has changes that another one lacks: nothing is changed"
    echo "group: $founder founds the group: no other member has more"
    join "$founder" 'SET GLOBAL group_replication_bootstrap_group = ON;'
    if [ "$(on "$founder" -e "SHOW DATABASES LIKE 'tapedeck'")" = '' ]; then
        { filled users.sql; filled mysql-users.sql; } | on "$founder"
    fi
    out=$(for member in $out; do [ "$member" = "$founder" ] || echo "$member"; done)
fi
for member in $out; do
    echo "group: $member joins"
    join "$member"
done
on "$1" -e "SELECT CONCAT('group: ', member_host, ':', member_port, ' ', member_state, ' ', member_role)
    FROM performance_schema.replication_group_members ORDER BY 1"
