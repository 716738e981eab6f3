-- Once, after users.sql, on the first primary of a MySQL pair or group: what the members need from each other, and
-- what lets the gateways see whether the group is redundant. Replace `%` by your networks.
GRANT CONNECTION_ADMIN, BACKUP_ADMIN, GROUP_REPLICATION_STREAM ON *.* TO replication@'%';
GRANT SELECT ON performance_schema.replication_group_members TO tapedeck@'%';
