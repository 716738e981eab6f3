-- On the host that is to be the standby: follow the primary. Its data is a copy of the primary's, or
-- it is empty and the primary still has its first binlog. Replace CHANGE_ME_PRIMARY (the host's
-- name), CHANGE_ME_PORT (3306) and CHANGE_ME_REPLICATION.
STOP SLAVE;
SET GLOBAL read_only = 1;
SET GLOBAL rpl_semi_sync_master_enabled = 0;
SET GLOBAL rpl_semi_sync_slave_enabled = 1;
CHANGE MASTER TO MASTER_HOST = 'CHANGE_ME_PRIMARY', MASTER_PORT = CHANGE_ME_PORT,
  MASTER_USER = 'replication', MASTER_PASSWORD = 'CHANGE_ME_REPLICATION',
  MASTER_USE_GTID = slave_pos, MASTER_CONNECT_RETRY = 1, MASTER_HEARTBEAT_PERIOD = 1;
START SLAVE;
