-- Once, on the first primary, before a standby is linked; the standby receives it by replication.
-- Replace CHANGE_ME_GATEWAY and CHANGE_ME_REPLICATION, and `%` by your networks.
CREATE DATABASE IF NOT EXISTS tapedeck;
CREATE USER IF NOT EXISTS tapedeck@'%' IDENTIFIED BY 'CHANGE_ME_GATEWAY';
-- Fewer than max_connections (pair.cnf): the rest is for replication and for people, so that a lost
-- standby can always come back. docs/sizing.md says how many the gateways need.
ALTER USER tapedeck@'%' WITH MAX_USER_CONNECTIONS 900;
-- No READ ONLY ADMIN: a read-only host must refuse the gateway.
GRANT SELECT, INSERT, UPDATE, DELETE, CREATE, DROP, ALTER, INDEX ON tapedeck.* TO tapedeck@'%';
CREATE USER IF NOT EXISTS replication@'%' IDENTIFIED BY 'CHANGE_ME_REPLICATION';
GRANT REPLICATION SLAVE ON *.* TO replication@'%';
-- The fencing generation: every promotion raises it, and a host with a lower one is never believed.
CREATE TABLE IF NOT EXISTS tapedeck.tapedeck_generation
  (id TINYINT UNSIGNED NOT NULL PRIMARY KEY, generation BIGINT UNSIGNED NOT NULL) ENGINE=InnoDB;
INSERT IGNORE INTO tapedeck.tapedeck_generation VALUES (1, 1);
