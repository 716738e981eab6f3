-- On the host that is to be the standby: follow the primary. Its data is a copy of the primary's (mysql-clone.sql), or
-- it is empty and the primary still has its first binlog. Replace CHANGE_ME_PRIMARY (the host's name),
-- CHANGE_ME_PORT (3306) and CHANGE_ME_REPLICATION.
STOP REPLICA;
SET GLOBAL read_only = 1;
SET GLOBAL rpl_semi_sync_source_enabled = 0;
SET GLOBAL rpl_semi_sync_replica_enabled = 1;
CHANGE REPLICATION SOURCE TO SOURCE_HOST = 'CHANGE_ME_PRIMARY', SOURCE_PORT = CHANGE_ME_PORT,
  SOURCE_USER = 'replication', SOURCE_PASSWORD = 'CHANGE_ME_REPLICATION', SOURCE_SSL = 1,
  SOURCE_AUTO_POSITION = 1, SOURCE_CONNECT_RETRY = 1, SOURCE_RETRY_COUNT = 0, SOURCE_HEARTBEAT_PERIOD = 1;
START REPLICA;
