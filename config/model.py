"""The typed configuration: every section, every default, every rule between values.

`values.py` parses single values. A time's unit is in its name or its description. Values that
twemproxy has too have twemproxy's meaning (its documentation: notes/recommendation.md and README,
"Configuration").
"""

from __future__ import annotations

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
HASHES = (
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
)


class Section(BaseModel):
    """A part of the configuration. Unknown names are errors; values are immutable."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, hide_input_in_errors=True, allow_inf_nan=False
    )


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

    tls_certificate_file: str | None = Field(None, description="PEM, with its chain; turns TLS on")
    tls_key_file: str | None = Field(None, description="PEM; its private key, without a password")
    tls_client_ca_file: str | None = Field(
        None, description="PEM; clients then need a certificate of one of these authorities"
    )
    tls_minimum: Literal["1.2", "1.3"] = Field("1.2", description="the oldest version accepted")

    @model_validator(mode="after")
    def _whole(self) -> Self:
        _need_each_other(self, "tls_certificate_file", "tls_key_file")
        if self.tls_client_ca_file is not None and self.tls_certificate_file is None:
            raise ValueError("tls_client_ca_file needs tls_certificate_file and tls_key_file")
        return self


class ClientTls(Section):
    """TLS of connections to servers. New connections use the files as they are then."""

    tls: bool = Field(False, description="connect with TLS or not at all")
    tls_ca_file: str | None = Field(
        None, description="PEM; authorities to trust instead of the system's"
    )
    tls_certificate_file: str | None = Field(
        None, description="PEM; sent to servers that ask for one"
    )
    tls_key_file: str | None = Field(None, description="PEM; its private key")
    tls_verify_names: bool = Field(
        True, description="the certificate must name the host as it is written here"
    )

    @model_validator(mode="after")
    def _whole(self) -> Self:
        for name in ("tls_ca_file", "tls_certificate_file", "tls_key_file"):
            if getattr(self, name) is not None and not self.tls:
                raise ValueError(f"{name} needs tls: true")
        _need_each_other(self, "tls_certificate_file", "tls_key_file")
        return self


class Gateway(ServerTls):
    """The port for players."""

    host: Host = Field("127.0.0.1", description="name or address to listen on; 0.0.0.0 for all")
    port: Annotated[int, Field(ge=0, le=65535, description="0 for any free one")] = 8080
    workers: Annotated[int, Field(ge=1, le=64, description="processes on one port")] = 1
    drain_seconds: Annotated[
        float, Field(ge=0, le=600, description="how long a stop waits for requests in flight")
    ] = 15.0
    max_requests: Annotated[
        int, Field(ge=1, description="requests in flight in one worker; past it 503")
    ] = 4096


class Admin(ServerTls):
    """The port for operators and Prometheus. On loopback it answers only requests whose Host is one
    of loopback's names; on other addresses it requires the token."""

    host: Host = "127.0.0.1"
    port: Annotated[int, Field(ge=0, le=65535, description="0 for any free one")] = 8081
    token: SecretStr | None = Field(
        None,
        description=(
            "asked for as `Authorization: Bearer TOKEN` where `host` is not on loopback;"
            " on loopback no request needs it"
        ),
    )
    token_file: str | None = Field(None, description="a file with the token")
    allowed_hosts: Annotated[tuple[HostName, ...], BeforeValidator(listed)] = Field(
        (),
        description="further host names for requests on loopback, as a proxy's; without a port",
    )
    peers: Annotated[
        tuple[Url, ...],
        BeforeValidator(listed),
        Field(
            description="admin URLs of other gateways, shown on the dashboard; "
            "they are asked with this token"
        ),
    ] = ()
    peers_tls_ca_file: str | None = Field(
        None, description="PEM; authorities to trust for https peers, instead of the system's"
    )
    peers_tls_certificate_file: str | None = Field(
        None, description="PEM; sent to peers that ask for one"
    )
    peers_tls_key_file: str | None = Field(None, description="PEM; its private key")
    peers_tls_verify_names: bool = Field(
        True, description="a peer's certificate must name its host as `peers` does"
    )

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

    token_keys: Annotated[tuple[SecretStr, ...], BeforeValidator(listed)] = Field(
        (), description="sign play tokens; newest first, 32 characters or more"
    )
    token_keys_file: str | None = Field(None, description="one key a line, newest first")
    token_days: Annotated[float, Field(gt=0, le=3650)] = 365
    service_keys: Annotated[tuple[SecretStr, ...], BeforeValidator(listed)] = Field(
        (), description="let services use the states API and name users"
    )
    service_keys_file: str | None = Field(None, description="one key a line")
    login_url: Url | None = Field(
        None,
        description="a service of yours to which /sessions sends name and password, and which"
        " returns the user's id",
    )
    adopt_tokens: bool = Field(
        False,
        description="take the original's play tokens (nine digits) for anonymous listeners; they"
        " can be guessed",
    )

    @field_validator("token_keys")
    @classmethod
    def _long_enough(cls, keys: tuple[SecretStr, ...]) -> tuple[SecretStr, ...]:
        for number, key in enumerate(keys, 1):
            if len(key.get_secret_value()) < 32:
                raise ValueError(f"key {number} has fewer than 32 characters")
        return keys


class Lookup(ClientTls):
    """The ring of lookup nodes, or the Redis Cluster in its place."""

    mode: Literal["ring", "cluster"] = Field(
        "ring", description="who places keys: the gateway itself, or a Redis Cluster"
    )
    nutcracker: Text | None = Field(
        None, description="a nutcracker.yml: what its pool says stands in the place of these words"
    )
    pool: Text | None = Field(None, description="which of its pools")
    layout: Literal["packed", "flat"] = "packed"
    hash: Literal[HASHES] = "fnv1a_64"  # type: ignore[valid-type]
    hash_tag: Annotated[
        str, Field(pattern=r"^([!-~]{2})?$", description="two characters around what is hashed")
    ] = ""
    distribution: Literal["ketama", "modula"] = Field(
        "ketama", description="how the ring places keys, as twemproxy does"
    )
    timeout: Annotated[int, Field(ge=1, le=60_000, description="ms, connect and reply")] = 400
    hint_deadline: Annotated[
        int, Field(ge=1, le=60_000, description="ms; if timeout is smaller, that counts")
    ] = 50
    auto_eject_hosts: bool = Field(True, description="take a failing node out of the ring")
    server_retry_timeout: Annotated[int, Field(ge=1, description="ms out of the ring")] = 30_000
    server_failure_limit: Annotated[int, Field(ge=1)] = 2
    batch: Annotated[
        int, Field(ge=1, le=1024, description="entries asked of one node in one round trip")
    ] = 256
    capacity_every: Annotated[
        float,
        Field(ge=0, description="seconds between two looks at the nodes' memory and at some keys"),
    ] = 60
    username: Text | None = Field(None, description="Redis ACL user; without it, `default`")
    password: SecretStr | None = Field(None, description="of that user, on every node")
    password_file: str | None = Field(None, description="a file with the password")
    redis_db: Annotated[int, Field(ge=0, description="number of the database on each node")] = 0
    preconnect: bool = Field(False, description="connect to every node at the start")
    tcpkeepalive: bool = Field(True, description="of the connections to the nodes")
    server_connections: Annotated[
        int | None, Field(ge=1, description="to a node at most, in one worker")
    ] = None
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
    def _of_its_mode(self) -> Lookup:
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
    password: SecretStr = Field(SecretStr(""), description="of `user`")
    password_file: str | None = Field(None, description="a file with the password")
    public_key: Annotated[str, AfterValidator(_rsa_key)] = Field(
        "",
        description="PEM, the server's RSA key: without TLS, the one a password is encrypted with",
    )
    database: Annotated[
        str, Field(pattern=r"^[A-Za-z0-9_$]{1,64}$", description="holds the partitions")
    ] = "tapedeck"
    connections: Annotated[int, Field(ge=2, le=512, description="at most, in one worker")] = 16
    connect_timeout: Annotated[int, Field(ge=1, description="ms")] = 2_000
    statement_timeout: Annotated[int, Field(ge=1, description="ms without an answer")] = 5_000
    deadline: Annotated[
        int, Field(ge=1, le=600_000, description="ms a request waits for the primary, then 503")
    ] = 10_000
    batch: Annotated[
        int, Field(ge=1, le=1024, description="loads or changes in one statement at most")
    ] = 64
    waiting: Annotated[
        int,
        Field(
            ge=1,
            description="work that waits for a connection at most, in one worker; then 503",
        ),
    ] = 4096


class Limits(Section):
    """Limits of one client, and the delays at which the gateway refuses requests. Each worker
    counts its own requests; null is no limit."""

    address_rate: Annotated[
        float | None, Field(gt=0, description="requests a second from one address; past it 429")
    ] = None
    address_burst: Annotated[float, Field(ge=1, description="of them at once")] = 100
    token_rate: Annotated[
        float | None, Field(gt=0, description="requests a second by one listener; past it 429")
    ] = None
    token_burst: Annotated[float, Field(ge=1, description="of them at once")] = 30
    remembered: Annotated[
        int, Field(ge=100, le=10_000_000, description="addresses and listeners at most, each")
    ] = 100_000
    trusted_proxies: Annotated[tuple[Network, ...], BeforeValidator(listed)] = Field(
        (), description="networks whose X-Forwarded-For is trusted"
    )
    connections: Annotated[int, Field(ge=1, description="open at once, in one worker")] = 20_000
    address_connections: Annotated[
        int | None, Field(ge=1, description="of one address, in one worker")
    ] = None
    header_bytes: Annotated[
        int, Field(ge=1024, le=65_536, description="of the request line, and of one header")
    ] = 8_190
    headers: Annotated[int, Field(ge=16, le=1024, description="of one request")] = 128
    request_head_bytes: Annotated[
        int,
        Field(ge=1024, le=1_048_576, description="of a request's line and headers together; 431"),
    ] = 32_768
    unfinished_bytes: Annotated[
        int,
        Field(
            ge=65_536,
            description="memory of unfinished request heads, of all connections of one worker "
            "together; past it those that hold most get 503",
        ),
    ] = 32 * 1024 * 1024
    header_seconds: Annotated[
        float, Field(gt=0, le=3600, description="for a request's line and headers; then 408")
    ] = 10
    body_seconds: Annotated[float, Field(gt=0, le=3600, description="for a body; then 408")] = 30
    write_seconds: Annotated[
        float, Field(gt=0, le=3600, description="that a client may leave an answer unread")
    ] = 30
    keepalive_seconds: Annotated[
        float, Field(gt=0, le=3600, description="an idle connection is kept")
    ] = 75
    queueing_target: Annotated[
        int | None,
        Field(ge=10, le=60_000, description="ms a worker may be behind; past it 503, by degrees"),
    ] = 250
    always_accepted: Annotated[
        int, Field(ge=1, description="requests in flight below which none is refused for that")
    ] = 64


class Partitions(Section):
    """A table for each UTC day, which is dropped whole once past retention."""

    prefix: Annotated[
        str,
        Field(
            pattern=r"^[a-z_][a-z0-9_]{0,39}$",
            description="of the tables' names, before YYYYMMDD: small letters, digits, _",
        ),
    ] = "player_state_"
    retention_days: Annotated[
        int, Field(ge=1, le=3650, description="days that a state is kept after its last write")
    ] = 30
    prune: bool = Field(True, description="one gateway drops what is past retention by itself")
    prune_every: Annotated[float, Field(ge=1, description="seconds between its looks")] = 300
    drop_after: Annotated[
        float, Field(ge=0, description="seconds past midnight before a drop (readers leave first)")
    ] = 600
    drop_at_most: Annotated[int, Field(ge=1, description="more at once need --force")] = 3
    seal: bool = Field(True, description="one gateway makes a filter of each day that is over")
    seal_after: Annotated[
        float, Field(ge=0, description="seconds past midnight before the day is sealed")
    ] = 300
    seal_rate: Annotated[
        int, Field(ge=100, description="keys a second that sealing a day reads at most")
    ] = 20_000
    filter_bytes: Annotated[
        int,
        Field(
            ge=0,
            description="of all filters together, shared by a gateway's workers; past it the"
            " oldest days go without, and are read by each load",
        ),
    ] = 64 << 20
    filter_folder: Annotated[
        str,
        Field(
            description="where workers share the filters; empty: $CACHE_DIRECTORY (systemd), or"
            " a folder of this user's own where temporary files lie"
        ),
    ] = ""


class Player(Section):
    """The licence's rules, and the addresses of the Player's pages."""

    skip_limit: Annotated[int, Field(ge=0, le=1000)] = 2
    skip_window: Annotated[int, Field(ge=1, description="seconds, rolling")] = 3600
    public_url: Url | None = Field(
        None,
        description="where players find this gateway, for addresses in answers; without it, what"
        " each request's Host says",
    )
    cors_origins: Annotated[
        tuple[Annotated[str, Field(pattern=r"^(\*|https?://[^\s/?#@]+)$")], ...] | None,
        BeforeValidator(listed),
        Field(
            description="sites whose pages may use the Player API, as https://player.example, or *;"
            " null: * in mode local, else none"
        ),
    ] = None


class States(Section):
    """The states API."""

    max_bytes: Annotated[
        int,
        Field(
            ge=2,
            le=4 * 1024 * 1024,
            description="of one state; past it, or half of MySQL's max_allowed_packet, 413",
        ),
    ] = 64 * 1024


class Sessions(Section):
    """The cache of running sessions' states in each worker. Every answer from it needs a save."""

    enabled: bool = Field(True, description="off: every change reads its state first")
    max_entries: Annotated[int, Field(ge=1, description="states")] = 100_000
    max_bytes: Annotated[int, Field(ge=1, description="bodies, logs and bookkeeping")] = 64 << 20


class Catalog(Section):
    """The cache of mixes in each worker."""

    max_mixes: Annotated[int, Field(ge=1)] = 10_000
    max_age: Annotated[float, Field(ge=0, description="seconds")] = 60


class Objective(Section):
    """The objective for requests: `/readyz`, the dashboard and the alerts compare with it."""

    success: Annotated[
        float, Field(ge=50, lt=100, description="percent of requests that do not fail (5xx)")
    ] = 99.9
    latency: Annotated[
        int,
        Field(ge=1, le=10_000, description="ms within which 99 % of requests are answered"),
    ] = 250


class Reload(Section):
    """When the file is read again without SIGHUP or POST /reload."""

    on_change: bool = Field(False, description="as soon as it changed")
    look_every: Annotated[float, Field(ge=0.1, le=3600, description="seconds between looks")] = 2.0


class Log(Section):
    """JSON lines on standard output. Up to 1 MiB of unread lines waits in each process; further
    lines are dropped and counted."""

    level: Literal["debug", "info", "warning", "error"] = Field(
        "info", description="this and worse is logged"
    )
    requests: bool = Field(False, description="a line for every request, not only for failed ones")


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
    def _guarded(self) -> Sections:
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
