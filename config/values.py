"""How single values are written in the file or the environment, and what they are read as.

Plain functions: each gives what pydantic then checks, or raises ValueError with what is wrong.
"""

from __future__ import annotations

import ipaddress
import re
from typing import Annotated

from pydantic import AfterValidator

LONGEST_SHOWN = 100
"""Characters of a wrong value that its error repeats."""


def shown(value: str) -> str:
    """A value for an error's sentence: quoted, in one line, and cut off where it is long."""
    return repr(value) if len(value) <= LONGEST_SHOWN else f"{value[:LONGEST_SHOWN]!r}..."


def host_port(value: object) -> object:
    """`host:port`, an IPv6 address in brackets, as the fields of a HostPort."""
    if not isinstance(value, str):
        return value
    host, _, port = value.rpartition(":")
    if not host or not re.fullmatch("[0-9]{1,9}", port):
        raise ValueError(f"{shown(value)} is not host:port")
    return {"host": host.strip("[]"), "port": int(port)}


def lookup_server(value: object) -> object:
    """`host:port:weight` or `host:port:weight name` as the fields of a LookupServer."""
    if not isinstance(value, str):
        return value
    address, _, name = value.strip().partition(" ")
    match = re.fullmatch(r"(?P<host>.+):(?P<port>[0-9]{1,9}):(?P<weight>[0-9]{1,9})", address)
    if match is None:
        raise ValueError(f"{shown(value)} is not host:port:weight or host:port:weight name")
    host, port, weight = match["host"], int(match["port"]), int(match["weight"])
    # twemproxy leaves memcached's port out of the name it makes (conf.c, conf_add_server).
    default = host if port == 11211 else f"{host}:{match['port']}"
    return {
        "host": host,
        "port": port,
        "weight": weight,
        "name": name or default,
    }


def seed(value: object) -> object:
    """`host:port`, where weights mean nothing, as the `host:port:weight` of a LookupServer."""
    if isinstance(value, str) and re.fullmatch(r"[^\s:]+:[0-9]+", value):
        return f"{value}:1"
    return value


def listed(value: object) -> object:
    """`a,b` from an environment variable reads like a list of two."""
    if isinstance(value, str):
        return [part.strip() for part in value.split(",") if part.strip()]
    return value


def _one_line(value: str) -> str:
    if not value or any(ord(c) < 32 for c in value):
        raise ValueError("must be one line of text")
    return value


Text = Annotated[str, AfterValidator(_one_line)]


def _url(value: str) -> str:
    if re.fullmatch(r"https?://[^\s/?#@]+(/[^\s?#]*)?", value) is None:
        raise ValueError(f"{shown(value)} is not http://host:port")
    return value


Url = Annotated[str, AfterValidator(_url)]


def _network(value: str) -> str:
    try:
        return str(ipaddress.ip_network(value))
    except ValueError as error:
        raise ValueError(f"is no network such as 10.0.0.0/8: {error}") from None


Network = Annotated[str, AfterValidator(_network)]


def _host_name(value: str) -> str:
    name = value.strip("[]").lower().removesuffix(".")
    if re.fullmatch(r"[a-z0-9_-]+(\.[a-z0-9_-]+)*|[0-9a-f]*:[0-9a-f:.]+", name) is None:
        raise ValueError(
            f"{shown(value)} is no name or address such as admin.example (without a port)"
        )
    return name


HostName = Annotated[str, AfterValidator(_host_name)]


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches `host`."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
