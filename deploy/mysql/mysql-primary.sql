-- On the primary, once a standby is linked (mysql-standby.sql): from here on a commit is acknowledged when
-- the standby has it. Also after a restart of the primary, which starts read-only.
SET GLOBAL rpl_semi_sync_source_enabled = 1;
SET GLOBAL read_only = 0;
