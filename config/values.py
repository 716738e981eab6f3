"""Parses single values of the file or the environment.

Each function returns what pydantic then checks, or raises ValueError with what is wrong.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable, Sequence
from difflib import get_close_matches
from typing import Annotated

from pydantic import AfterValidator

LONGEST_SHOWN = 100
"""Characters of a wrong value that its error repeats."""


def shown(value: str) -> str:
    """A value for an error's sentence: quoted, in one line, and cut if it is long."""
    return repr(value) if len(value) <= LONGEST_SHOWN else f"{value[:LONGEST_SHOWN]!r}..."


def close_to(name: str, known: Iterable[str]) -> list[str]:
    """The known name that a wrong one is most like; empty if it is like none."""
    by_case = {one.casefold(): one for one in known}
    found = get_close_matches(name.casefold()[:LONGEST_SHOWN], by_case, n=1, cutoff=0.7)
    return [by_case[one] for one in found]


def did_you_mean(names: Sequence[str]) -> str:
    """To end the sentence about a wrong name with; empty where there are none.

    >>> did_you_mean(close_to("hint_dedline", ["timeout", "hint_deadline"]))
    '; did you mean hint_deadline?'
    """
    return f"; did you mean {' or '.join(names)}?" if names else ""


def bare_host(host: str) -> str:
    """A host without the brackets that an IPv6 address may have.

    Raises:
        ValueError: it has brackets or a colon, but is not an IPv6 address.
    """
    bare = host[1:-1] if host[:1] == "[" and host[-1:] == "]" else host
    if bare != host or not {":", "[", "]"}.isdisjoint(bare):
        try:
            ipaddress.IPv6Address(bare)
        except ValueError:
            raise ValueError(f"{shown(host)} is no IPv6 address such as [fd00::1]") from None
    return bare


def split_address(value: str) -> tuple[str, int]:
    """Host and port of `host:port`; an IPv6 address may have brackets.

    Raises:
        ValueError: it is not of that form.
    """
    host, _, port = value.rpartition(":")
    if not host or not re.fullmatch("[0-9]{1,9}", port):
        raise ValueError(f"{shown(value)} is not host:port")
    if int(port) > 65535:
        raise ValueError(f"{shown(value)} has no port: they end at 65535")
    return bare_host(host), int(port)


def join_address(host: str, port: int) -> str:
    """`host:port`, an IPv6 address in brackets: what `split_address` reads."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def host_port(value: object) -> object:
    """`host:port` as the fields of a HostPort."""
    if not isinstance(value, str):
        return value
    host, port = split_address(value)
    return {"host": host, "port": port}


def lookup_server(value: object) -> object:
    """`host:port:weight` or `host:port:weight name` as the fields of a LookupServer."""
    if not isinstance(value, str):
        return value
    address, _, name = value.strip().partition(" ")
    match = re.fullmatch(r"(?P<host>.+):(?P<port>[0-9]{1,9}):(?P<weight>[0-9]{1,9})", address)
    if match is None:
        raise ValueError(f"{shown(value)} is not host:port:weight or host:port:weight name")
    host, port = split_address(f"{match['host']}:{match['port']}")
    # twemproxy leaves memcached's port out of the default name (conf.c, conf_add_server).
    default = match["host"] if port == 11211 else f"{match['host']}:{match['port']}"
    return {
        "host": host,
        "port": port,
        "weight": int(match["weight"]),
        "name": name or default,
    }


def seed(value: object) -> object:
    """`host:port` as the `host:port:weight` of a LookupServer, where weights are not used."""
    if isinstance(value, str) and re.fullmatch(r"(\[\S+\]|[^\s:]+):[0-9]+", value):
        return f"{value}:1"
    return value


def listed(value: object) -> object:
    """`a,b` from an environment variable as a list of two."""
    if isinstance(value, str):
        return [part.strip() for part in value.split(",") if part.strip()]
    return value


def _one_line(value: str) -> str:
    if not value or any(ord(c) < 32 for c in value):
        raise ValueError("must be one line of text")
    return value


Text = Annotated[str, AfterValidator(_one_line)]
Host = Annotated[Text, AfterValidator(bare_host)]


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
