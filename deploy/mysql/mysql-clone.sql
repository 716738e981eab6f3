-- On a host that is to be the standby, whose data is REPLACED by the primary's, while the primary runs. The server
-- restarts itself afterwards where something watches over it (systemd, a container engine); else start it again.
-- Then mysql-standby.sql. Replace CHANGE_ME_PRIMARY, CHANGE_ME_PORT and CHANGE_ME_REPLICATION.
SET GLOBAL read_only = 0;
SET GLOBAL clone_valid_donor_list = 'CHANGE_ME_PRIMARY:CHANGE_ME_PORT';
CLONE INSTANCE FROM 'replication'@'CHANGE_ME_PRIMARY':CHANGE_ME_PORT IDENTIFIED BY 'CHANGE_ME_REPLICATION';
