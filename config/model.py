"""The typed configuration: every section, every default, every rule between values.

What each value means, with its unit, is said in `tapedeck.yml`, by the comment beside it. Values
that twemproxy has too have twemproxy's meaning (its documentation: notes/recommendation.md and
README, "Configuration").
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Literal, Self

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.serialization import load_pem_public_key
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SecretStr,
    field_validator,
    model_validator,
)

from config.nutcracker import RANDOM_REFUSED
from config.values import (
    Host,
    HostName,
    Network,
    Text,
    Url,
    host_port,
    is_loopback,
    join_address,
    listed,
    lookup_server,
    seed,
)

NAME_BYTES = 264
"""twemproxy cuts off longer names (at 272 bytes with the group's number): points would coincide."""
Hash = Literal[
    "one_at_a_time",
    "md5",
    "crc16",
    "crc32",
    "crc32a",
    "fnv1_64",
    "fnv1a_64",
    "fnv1_32",
    "fnv1a_32",
    "hsieh",
    "murmur",
    "jenkins",
]


LayoutName = Literal["packed", "flat"]
"""How hints are written in lookup nodes (`sharding/lookups/layout.py`)."""


class Section(BaseModel):
    """A part of the configuration. Unknown names are errors; values are immutable."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, hide_input_in_errors=True, allow_inf_nan=False
    )

    def differing(self, other: Self, names: Iterable[str]) -> list[str]:
        """Which of these values the other section has otherwise."""
        return [name for name in names if getattr(self, name) != getattr(other, name)]


class HostPort(Section):
    """A TCP address."""

    host: str
    port: Annotated[int, Field(ge=1, le=65535)]

    def __str__(self) -> str:
        return join_address(self.host, self.port)


class LookupServer(HostPort):
    """One lookup node, written as twemproxy does: `host:port:weight` or `host:port:weight name`.

    The default name is `host:port` (only `host` on port 11211, as in twemproxy): moving such a node
    to another address moves its keys too.
    """

    weight: Annotated[int, Field(ge=1, le=1_000_000)] = 1
    name: Annotated[str, Field(min_length=1, pattern=r"^\S+$")]


Address = Annotated[HostPort, BeforeValidator(host_port)]
Server = Annotated[LookupServer, BeforeValidator(lookup_server)]


def _need_each_other(section: Section, one: str, other: str) -> None:
    if (getattr(section, one) is None) != (getattr(section, other) is None):
        raise ValueError(f"{one} and {other} need each other")


class ServerTls(Section):
    """TLS of a port that the gateway listens on. Every reload reads the files again."""

    tls_certificate_file: str | None = None
    tls_key_file: str | None = None
    tls_client_ca_file: str | None = None
    tls_minimum: Literal["1.2", "1.3"] = "1.2"

    @model_validator(mode="after")
    def _whole(self) -> Self:
        _need_each_other(self, "tls_certificate_file", "tls_key_file")
        if self.tls_client_ca_file is not None and self.tls_certificate_file is None:
            raise ValueError("tls_client_ca_file needs tls_certificate_file and tls_key_file")
        return self


class ClientTls(Section):
    """TLS of connections to servers. New connections use the files as they are then."""

    tls: bool = False
    tls_ca_file: str | None = None
    tls_certificate_file: str | None = None
    tls_key_file: str | None = None
    tls_verify_names: bool = True

    @model_validator(mode="after")
    def _whole(self) -> Self:
        for name in ("tls_ca_file", "tls_certificate_file", "tls_key_file"):
            if getattr(self, name) is not None and not self.tls:
                raise ValueError(f"{name} needs tls: true")
        _need_each_other(self, "tls_certificate_file", "tls_key_file")
        return self


class Gateway(ServerTls):
    """The port for players."""

    host: Host = "127.0.0.1"
    port: Annotated[int, Field(ge=0, le=65535)] = 8080
    workers: Annotated[int, Field(ge=1, le=64)] = 1
    drain_seconds: Annotated[float, Field(ge=0, le=600)] = 15.0
    hung_seconds: Annotated[float, Field(ge=1, le=86_400)] = 30.0
    max_requests: Annotated[int, Field(ge=1)] = 4096


class Admin(ServerTls):
    """The port for operators and Prometheus. On loopback it answers only requests whose Host is one
    of loopback's names; on other addresses it requires the token."""

    host: Host = "127.0.0.1"
    port: Annotated[int, Field(ge=0, le=65535)] = 8081
    token: SecretStr | None = None
    token_file: str | None = None
    allowed_hosts: Annotated[tuple[HostName, ...], BeforeValidator(listed)] = ()
    peers: Annotated[tuple[Url, ...], BeforeValidator(listed)] = ()
    peers_tls_ca_file: str | None = None
    peers_tls_certificate_file: str | None = None
    peers_tls_key_file: str | None = None
    peers_tls_verify_names: bool = True

    @model_validator(mode="after")
    def _pair_for_peers(self) -> Self:
        _need_each_other(self, "peers_tls_certificate_file", "peers_tls_key_file")
        return self

    @property
    def peers_tls(self) -> ClientTls:
        """TLS of connections to peers with an https URL."""
        return ClientTls(
            tls=True,
            tls_ca_file=self.peers_tls_ca_file,
            tls_certificate_file=self.peers_tls_certificate_file,
            tls_key_file=self.peers_tls_key_file,
            tls_verify_names=self.peers_tls_verify_names,
        )


class Auth(Section):
    """Secrets: keys that sign play tokens, and keys of services. The first token key signs; all of
    them verify. So put a new key in front, and remove the old one once its tokens have expired."""

    token_keys: Annotated[tuple[SecretStr, ...], BeforeValidator(listed)] = ()
    token_keys_file: str | None = None
    token_days: Annotated[float, Field(gt=0, le=3650)] = 365
    service_keys: Annotated[tuple[SecretStr, ...], BeforeValidator(listed)] = ()
    service_keys_file: str | None = None
    login_url: Url | None = None
    adopt_tokens: bool = False

    @field_validator("token_keys")
    @classmethod
    def _long_enough(cls, keys: tuple[SecretStr, ...]) -> tuple[SecretStr, ...]:
        for number, key in enumerate(keys, 1):
            if len(key.get_secret_value()) < 32:
                raise ValueError(f"key {number} has fewer than 32 characters")
        return keys


class Lookup(ClientTls):
    """The ring of lookup nodes, or the Redis Cluster in its place."""

    mode: Literal["ring", "cluster"] = "ring"
    nutcracker: Text | None = None
    pool: Text | None = None
    layout: LayoutName = "packed"
    hash: Hash = "fnv1a_64"
    hash_tag: Annotated[str, Field(pattern=r"^([!-~]{2})?$")] = ""
    distribution: Literal["ketama", "modula"] = "ketama"
    timeout: Annotated[int, Field(ge=1, le=60_000)] = 400
    hint_deadline: Annotated[int, Field(ge=1, le=60_000)] = 50
    auto_eject_hosts: bool = True
    server_retry_timeout: Annotated[int, Field(ge=1)] = 30_000
    server_failure_limit: Annotated[int, Field(ge=1)] = 2
    batch: Annotated[int, Field(ge=1, le=1024)] = 256
    capacity_every: Annotated[float, Field(ge=0)] = 60
    username: Text | None = None
    password: SecretStr | None = None
    password_file: str | None = None
    redis_db: Annotated[int, Field(ge=0)] = 0
    preconnect: bool = False
    tcpkeepalive: bool = True
    server_connections: Annotated[int | None, Field(ge=1)] = None
    servers: Annotated[tuple[Server, ...], BeforeValidator(listed), Field(min_length=1)]

    @field_validator("distribution", mode="before")
    @classmethod
    def _found_again(cls, distribution: object) -> object:
        if distribution == "random":
            raise ValueError(RANDOM_REFUSED)
        return distribution

    @model_validator(mode="before")
    @classmethod
    def _seeds(cls, values: object) -> object:
        """In a cluster, servers are only asked for the primaries: `host:port` is enough."""
        if isinstance(values, dict) and values.get("mode") == "cluster":
            servers = listed(values.get("servers"))
            if isinstance(servers, (list, tuple)):
                return {**values, "servers": [seed(server) for server in servers]}
        return values

    @model_validator(mode="after")
    def _of_its_mode(self) -> Self:
        if self.mode == "cluster":
            if self.nutcracker is not None:
                raise ValueError("mode: cluster has no ring: lookup.nutcracker cannot stand beside")
            if self.redis_db:
                raise ValueError("mode: cluster has only the database 0, not redis_db")
            for word in ("hash", "hash_tag", "distribution", "preconnect", "server_connections"):
                if getattr(self, word) != type(self).model_fields[word].default:
                    raise ValueError(f"mode: cluster has slots of its own: {word} means nothing")
        return self

    @field_validator("servers")
    @classmethod
    def _distinct(cls, servers: tuple[LookupServer, ...]) -> tuple[LookupServer, ...]:
        seen: set[str] = set()
        for server in servers:
            if server.name in seen:
                raise ValueError(f"two servers are called {server.name!r}")
            if len(server.name.encode()) > NAME_BYTES:
                raise ValueError(f"the name {server.name!r} is longer than {NAME_BYTES} bytes")
            seen.add(server.name)
        return servers

    @property
    def hint_seconds(self) -> float:
        """How long a load waits for a hint, in seconds."""
        return min(self.hint_deadline, self.timeout) / 1000


def _rsa_key(pem: str) -> str:
    pem = pem.rstrip("\0")  # MySQL's public_key.pem ends with NUL
    if pem:
        try:
            key = load_pem_public_key(pem.encode())
        except (ValueError, UnsupportedAlgorithm):
            key = None
        if not isinstance(key, RSAPublicKey):
            raise ValueError("is no RSA public key in PEM, as in the server's public_key.pem")
    return pem


class MySQL(ClientTls):
    """The MySQL hosts. The writable one is the primary."""

    hosts: Annotated[tuple[Address, ...], BeforeValidator(listed), Field(min_length=1)]
    user: Text
    password: SecretStr = SecretStr("")
    password_file: str | None = None
    public_key: Annotated[str, AfterValidator(_rsa_key)] = ""
    database: Annotated[str, Field(pattern=r"^[A-Za-z0-9_$]{1,64}$")] = "tapedeck"
    connections: Annotated[int, Field(ge=2, le=512)] = 16
    connect_timeout: Annotated[int, Field(ge=1)] = 2_000
    statement_timeout: Annotated[int, Field(ge=1)] = 5_000
    deadline: Annotated[int, Field(ge=1, le=600_000)] = 10_000
    batch: Annotated[int, Field(ge=1, le=1024)] = 64
    waiting: Annotated[int, Field(ge=1)] = 4096


class Limits(Section):
    """Limits of one client, and the delays at which the gateway refuses requests. Each worker
    counts its own requests; null is no limit."""

    address_rate: Annotated[float | None, Field(gt=0)] = None
    address_burst: Annotated[float, Field(ge=1)] = 100
    token_rate: Annotated[float | None, Field(gt=0)] = None
    token_burst: Annotated[float, Field(ge=1)] = 30
    remembered: Annotated[int, Field(ge=100, le=10_000_000)] = 100_000
    trusted_proxies: Annotated[tuple[Network, ...], BeforeValidator(listed)] = ()
    connections: Annotated[int, Field(ge=1)] = 20_000
    address_connections: Annotated[int | None, Field(ge=1)] = None
    header_bytes: Annotated[int, Field(ge=1024, le=65_536)] = 8_190
    headers: Annotated[int, Field(ge=16, le=1024)] = 128
    request_head_bytes: Annotated[int, Field(ge=1024, le=1_048_576)] = 32_768
    unfinished_bytes: Annotated[int, Field(ge=65_536)] = 32 * 1024 * 1024
    header_seconds: Annotated[float, Field(gt=0, le=3600)] = 10
    body_seconds: Annotated[float, Field(gt=0, le=3600)] = 30
    write_seconds: Annotated[float, Field(gt=0, le=3600)] = 30
    keepalive_seconds: Annotated[float, Field(gt=0, le=3600)] = 75
    queueing_target: Annotated[int | None, Field(ge=10, le=60_000)] = 250
    always_accepted: Annotated[int, Field(ge=1)] = 64


class Partitions(Section):
    """A table for each UTC day, which is dropped whole once past retention."""

    prefix: Annotated[str, Field(pattern=r"^[a-z_][a-z0-9_]{0,39}$")] = "player_state_"
    retention_days: Annotated[int, Field(ge=1, le=3650)] = 30
    prune: bool = True
    prune_every: Annotated[float, Field(ge=1)] = 300
    drop_after: Annotated[float, Field(ge=0)] = 600
    drop_at_most: Annotated[int, Field(ge=1)] = 3
    seal: bool = True
    seal_after: Annotated[float, Field(ge=0)] = 300
    seal_rate: Annotated[int, Field(ge=100)] = 20_000
    filter_bytes: Annotated[int, Field(ge=0)] = 64 << 20
    filter_folder: str = ""


class Player(Section):
    """The licence's rules, and the addresses of the Player's pages."""

    skip_limit: Annotated[int, Field(ge=0, le=1000)] = 2
    skip_window: Annotated[int, Field(ge=1)] = 3600
    public_url: Url | None = None
    cors_origins: Annotated[
        tuple[Annotated[str, Field(pattern=r"^(\*|https?://[^\s/?#@]+)$")], ...] | None,
        BeforeValidator(listed),
    ] = None


class States(Section):
    """The states API."""

    max_bytes: Annotated[int, Field(ge=2, le=4 * 1024 * 1024)] = 64 * 1024


class Sessions(Section):
    """The cache of running sessions' states in each worker. Every answer from it needs a save."""

    enabled: bool = True
    max_entries: Annotated[int, Field(ge=1)] = 100_000
    max_bytes: Annotated[int, Field(ge=1)] = 64 << 20


class Catalog(Section):
    """The cache of mixes in each worker."""

    max_mixes: Annotated[int, Field(ge=1)] = 10_000
    max_age: Annotated[float, Field(ge=0)] = 60


class Objective(Section):
    """The objective for requests: `/readyz`, the dashboard and the alerts compare with it."""

    success: Annotated[float, Field(ge=50, lt=100)] = 99.9
    latency: Annotated[int, Field(ge=1, le=10_000)] = 250


class Reload(Section):
    """When the file is read again without SIGHUP or POST /reload."""

    on_change: bool = False
    look_every: Annotated[float, Field(ge=0.1, le=3600)] = 2.0


class Log(Section):
    """JSON lines on standard output. Up to 1 MiB of unread lines waits in each process; further
    lines are dropped and counted."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    requests: bool = False


class Sections(Section):
    """The whole file. `mode: production` does not start without secrets in the configuration."""

    mode: Literal["local", "production"] = "local"
    gateway: Gateway = Gateway()
    admin: Admin = Admin()
    auth: Auth = Auth()
    lookup: Lookup
    mysql: MySQL
    partitions: Partitions = Partitions()
    player: Player = Player()
    states: States = States()
    sessions: Sessions = Sessions()
    catalog: Catalog = Catalog()
    limits: Limits = Limits()
    log: Log = Log()
    reload: Reload = Reload()
    objective: Objective = Objective()

    @model_validator(mode="after")
    def _guarded(self) -> Self:
        problems = []
        if self.mode == "production":
            problems += [
                f"auth.{name} (or auth.{name}_file) is needed in production"
                for name in ("token_keys", "service_keys")
                if not getattr(self.auth, name)
            ]
        if not is_loopback(self.admin.host) and self.admin.token is None:
            problems.append(
                f"admin.token (or admin.token_file) is needed: admin.host {self.admin.host} "
                "is not loopback"
            )
        if problems:
            raise ValueError("; ".join(problems))
        return self
