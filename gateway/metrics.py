"""The metrics of the HTTP side.

Requests by route and status are counted in `telemetry.py`. The metrics of a supervisor are in
`process/supervisor.py`, so that no worker shows them.
"""

from prometheus_client import Counter, Gauge

# Requests
IN_FLIGHT = Gauge("tapedeck_http_requests_in_flight", "Requests being served now")
SHED = Counter("tapedeck_http_requests_shed", "Requests refused because too many were in flight")
LIMITED = Counter(
    "tapedeck_http_requests_limited",
    "Requests refused with 429: too many from an address, or by a listener",
    ["by"],
)
LISTENERS_FAILED = Gauge(
    "tapedeck_listeners_failed",
    "Listeners to whom a request failed (5xx) in the last five minutes; 2000 are that or more",
)

# Connections
CONNECTIONS = Gauge("tapedeck_http_connections", "Open connections on the gateway's port")
CUT_OFF = Counter(
    "tapedeck_http_connections_cut_off",
    "Connections ended: too many of all or of an address, no descriptor to spare, old handshakes, "
    "headers too slow or too much of them, answers not read",
    ["reason"],
)

# The catalog
MIXES = Counter(
    "tapedeck_catalog_mixes_total",
    "Mixes asked for, by where the answer came from: hit, miss, stale (MySQL was away).",
    ["outcome"],
)

# The process
TASKS = Gauge("tapedeck_asyncio_tasks", "Tasks of a worker's event loop; they must not add up")
BUILD = Gauge("tapedeck_build_info", "1; the label is the version", ["version"])
LOG_LINES_DROPPED = Counter(
    "tapedeck_log_lines_dropped",
    "Lines of the log that were dropped: standard output or standard error took no more",
)
RELOADS = Counter(
    "tapedeck_reloads",
    "Reloads of the configuration: applied, refused (it has problems), failed",
    ["result"],
)
# Exported from the start: Prometheus sees no increase in a series that begins at 1.
for _result in ("applied", "refused", "failed"):
    RELOADS.labels(_result)

# Health (the verdict)
AMISS = Gauge("tapedeck_amiss", "1 while the verdict has a reason of this kind", ["cause"])
VERDICT = Gauge(
    "tapedeck_verdict", "0 ready, 1 degraded, 2 unavailable, 3 draining, as /readyz says it"
)
SUCCESS = Gauge("tapedeck_objective_success_ratio", "The share of requests that must not fail")
LATENCY = Gauge("tapedeck_objective_latency_seconds", "Within it 99 % of requests are answered")
WITHOUT_COMMIT = Gauge(
    "tapedeck_without_commit_seconds", "Since the primary last acknowledged a commit; 0 without one"
)
CONFIG_HASH = Gauge(
    "tapedeck_config_hash", "The same on each gateway whose listeners are served alike"
)
RING_HASH = Gauge("tapedeck_ring_hash", "The same on each gateway that places lookups alike")
SKEW = Gauge("tapedeck_clock_ahead_seconds", "By how much MySQL's clock is ahead of this machine's")
MISSING = Gauge(
    "tapedeck_process_missed_ratio", "The share of the last seconds in which a worker got no turn"
)
EXPIRY = Gauge(
    "tapedeck_certificate_expiry_timestamp_seconds", "When a certificate of ours ends", ["value"]
)
