"""The metrics of lookup nodes and of MySQL."""

from prometheus_client import Counter, Gauge, Histogram

NODE_LIVE = Gauge("tapedeck_lookup_node_live", "1 while the node is in the ring", ["node"])
NODE_EJECTIONS = Counter("tapedeck_lookup_node_ejections", "Times taken out of the ring", ["node"])
NODE_RETURNS = Counter("tapedeck_lookup_node_returns", "Times taken back into the ring", ["node"])
NODE_FAILURES = Counter("tapedeck_lookup_node_failures", "Batches that failed", ["node", "reason"])
NODE_SECONDS = Histogram(
    "tapedeck_lookup_node_seconds",
    "Round trip of a batch",
    ["node"],
    buckets=(0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1),
)


def forget(node: str) -> None:
    """Remove the metrics of a node that has left: the primaries of a Redis Cluster change."""
    for family in (NODE_LIVE, NODE_EJECTIONS, NODE_RETURNS, NODE_FAILURES, NODE_SECONDS):
        family.remove_by_labels({"node": node})


MYSQL_UP = Gauge("tapedeck_mysql_primary_up", "1 while a primary is adopted")
MYSQL_REDUNDANT = Gauge(
    "tapedeck_mysql_redundant",
    "1 while another host has what the primary acknowledges; NaN where that cannot be seen",
)
# NaN, not 0: with one host (a managed service's endpoint) no alert may fire.
MYSQL_REDUNDANT.set(float("nan"))
MYSQL_GENERATION = Gauge("tapedeck_mysql_generation", "The highest generation of a primary seen")
MYSQL_SPLIT = Gauge("tapedeck_mysql_split", "1 while two hosts claim to be the primary")
MYSQL_FAILOVERS = Counter("tapedeck_mysql_failovers", "Times another primary was adopted")
MYSQL_ERRORS = Counter("tapedeck_mysql_errors", "Statements that failed", ["fault"])
MYSQL_WAITING = Gauge("tapedeck_mysql_waiting", "Requests that wait for a connection or a primary")
MYSQL_CONNECTIONS = Gauge("tapedeck_mysql_connections", "Open connections to the primary")
