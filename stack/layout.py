"""The local stack's ports, files, secrets, and its gateway's configuration."""

from __future__ import annotations

import os
import secrets
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import yaml

from config.load import overridden
from stack.datadir import Passwords
from stack.process import port_is_free

LOOKUP_NAMES = ("lookup1", "lookup2", "lookup3")
MYSQL_NAMES = ("mysql1", "mysql2", "mysql3")
"""Only a group has the third one."""
NAMES = (*LOOKUP_NAMES, *MYSQL_NAMES, "gateway")
"""The servers that can be stopped and started, in the order of their start."""
Kind = Literal["mariadb", "mysql", "group"]
"""A semi-synchronous pair of either engine, or three members of a MySQL group."""
MYSQL_PORTS: dict[Kind, tuple[int, ...]] = {
    "mariadb": (7306, 7307),
    "mysql": (7306, 7307),
    "group": (7306, 7307, 7308),
}


@dataclass(frozen=True)
class Ports:
    """The ports of a stack, on 127.0.0.1."""

    gateway: int = 8080
    admin: int = 8081
    lookup: tuple[int, ...] = (7101, 7102, 7103)
    mysql: tuple[int, ...] = MYSQL_PORTS["mariadb"]

    def uses(self) -> list[tuple[int, str, str]]:
        """Each port, the name of its server, and the option that changes it."""
        return [
            *((p, n, "--lookup-ports") for p, n in zip(self.lookup, LOOKUP_NAMES, strict=True)),
            *((p, n, "--mysql-ports") for p, n in zip(self.mysql, MYSQL_NAMES, strict=False)),
            (self.gateway, "gateway", "--gateway-port"),
            (self.admin, "admin", "--admin-port"),
        ]

    def problems(self) -> list[str]:
        """One sentence for each port that is taken, or given to two servers."""
        found = []
        seen: dict[int, str] = {}
        for port, name, option in self.uses():
            if port in seen:
                found.append(f"port {port} is given to {seen[port]} and {name}: change {option}")
            elif not port_is_free(port):
                found.append(f"port {port} ({name}) is taken: choose another with {option}")
            seen[port] = name
        return found


@dataclass(frozen=True)
class Layout:
    """The files of a stack.

    Attributes:
        config: the gateway's configuration; everything else lies in its folder.
        ephemeral: whether the data is removed at the end.
        mysql: the kind of its MySQL servers; each kind has data of its own.
    """

    config: Path
    ephemeral: bool = False
    mysql: Kind = "mariadb"

    @property
    def home(self) -> Path:
        """`.tapedeck`"""
        return self.config.parent

    @property
    def data(self) -> Path:
        """The servers' data, with the passwords that it was made with."""
        return self.home / ("ephemeral" if self.ephemeral else "data")

    @property
    def mysql_data(self) -> Path:
        """The data of the MySQL servers."""
        return self.data if self.mysql == "mariadb" else self.data / self.mysql

    @property
    def run(self) -> Path:
        """The folder of process ids, the control socket and the lock."""
        return self.home / "run"

    @property
    def log(self) -> Path:
        """The folder of logs, with a file for each process."""
        return self.home / "log"

    def pid_file(self, name: str) -> Path:
        """The file with the process id of `name` while it runs."""
        return self.run / f"{name}.pid"


def secret(path: Path, length: int = 32) -> str:
    """The secret in a file that only its owner can read; a random one is made if there is none.

    Args:
        length: in bytes; the file has two characters for each.
    """
    try:
        kept = path.read_text().strip()
    except FileNotFoundError:
        kept = ""
    if kept:
        path.chmod(0o600)
        return kept
    made = secrets.token_hex(length)
    path.parent.mkdir(parents=True, exist_ok=True)
    new = path.with_name(path.name + ".new")
    new.unlink(missing_ok=True)
    with os.fdopen(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(made + "\n")
    new.replace(path)
    return made


def passwords(layout: Layout) -> Passwords:
    """The passwords that the data was, or will be, made with."""
    folder = layout.data / "secrets"
    folder.mkdir(parents=True, exist_ok=True)
    folder.chmod(0o700)
    return Passwords(
        admin=secret(folder / "admin", 16),
        replication=secret(folder / "replication", 16),
        gateway=secret(folder / "gateway", 16),
    )


def gateway_environment() -> dict[str, str]:
    """This process's environment without the gateway's ports and workers: `tapedeck up` has read
    them, and those in the configuration that it writes must hold."""
    ignored = ("TAPEDECK_GATEWAY__PORT", "TAPEDECK_ADMIN__PORT", "TAPEDECK_GATEWAY__WORKERS")
    return {name: value for name, value in os.environ.items() if name not in ignored}


def write_config(layout: Layout, ports: Ports, workers: int, public_key: str = "") -> None:
    """Write the gateway's configuration and make the keys that it names.

    The environment's values are in it, so that commands typed elsewhere, without this environment,
    know the same ring and ports as the gateway.

    Args:
        public_key: of the MySQL servers, PEM; MariaDB has none.
    """
    secret(layout.home / "service.key")
    secret(layout.home / "token.key")
    document: dict[str, Any] = {
        "mode": "local",
        "gateway": {"host": "127.0.0.1", "port": ports.gateway, "workers": workers},
        "admin": {"host": "127.0.0.1", "port": ports.admin},
        "auth": {"token_keys_file": "token.key", "service_keys_file": "service.key"},
        "lookup": {
            "servers": [
                f"127.0.0.1:{port}:1 {name}"
                for port, name in zip(ports.lookup, LOOKUP_NAMES, strict=True)
            ],
            # Short, so that a node that was killed by hand and started again returns soon.
            "server_retry_timeout": 2000,
        },
        "mysql": {
            "hosts": [f"127.0.0.1:{port}" for port in ports.mysql],
            "user": "tapedeck",
            "password_file": f"{layout.data.name}/secrets/gateway",
            "database": "tapedeck",
        },
        # Filters are removed with the other data.
        "partitions": {"filter_folder": str(layout.data.absolute() / "filters")},
    }
    if public_key:
        document["mysql"]["public_key"] = public_key
    document = overridden(document, gateway_environment())
    text = (
        "# `tapedeck up` writes this file anew at each start; an edit holds until then. To set a\n"
        "# value for good, put it into its environment: TAPEDECK_LOOKUP__TIMEOUT=200 make run\n"
    )
    new = layout.config.with_name(layout.config.name + ".new")
    new.touch(0o600)  # the environment may have a secret
    new.write_text(text + yaml.safe_dump(document, sort_keys=False))
    new.replace(layout.config)
