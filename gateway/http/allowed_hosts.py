"""The host names that requests without a token may use on the admin port.

A browser on this machine can reach a port on loopback for every site that it shows. Two headers
distinguish its requests from an operator's, and no page can change them. Host is the site's name if
that name was made to resolve to loopback (DNS rebinding). Origin is the site if its page sends a
request without reading the answer (a form, a `no-cors` fetch).
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Collection

from gateway.http.errors import Refusal
from gateway.http.parameters import shown

_AUTHORITY = re.compile(r"(\[[0-9a-f:.]+\]|[^\s:/?#@\[\]]+)(:[0-9]{1,5})?")
_SHOWN = 60


def name_of(authority: str) -> str | None:
    """The host of `host`, `host:port` or `[address]:port`, in small letters; None if malformed.

    >>> name_of("LocalHost.:8081"), name_of("[::1]:8081"), name_of("a b")
    ('localhost', '::1', None)
    """
    found = _AUTHORITY.fullmatch(authority.strip().lower())
    return (found[1].strip("[]").removesuffix(".") or None) if found else None


def is_ours(authority: str, allowed: Collection[str]) -> bool:
    """Whether a Host header names loopback, on any port, or is in `allowed`."""
    name = name_of(authority)
    if name is None:
        return False
    if name == "localhost" or name in allowed:
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


def refuse_strangers(
    method: str, host: str | None, origin: str | None, allowed: Collection[str]
) -> None:
    """Refuse (403) a request that a page of another site in an operator's browser may have made.

    Args:
        method: GET and HEAD may come from any page: they change nothing, and the browser does not
            show the answer to the page.
        host: the Host header; browsers always send it.
        origin: the Origin header; browsers send it with every POST.
        allowed: names besides loopback's own, in small letters (`admin.allowed_hosts`).
    """
    if host is not None and not is_ours(host, allowed):
        raise Refusal(
            403,
            "This port asks for no token, so it answers only under this machine's own names "
            f"(localhost, 127.0.0.1), not as {shown(host, _SHOWN)}: add the name to "
            "admin.allowed_hosts if it is yours.",
        )
    if origin is None or method in ("GET", "HEAD"):
        return
    asked_by = origin.lower().partition("://")[2]
    # Another port is another site. A proxy may rewrite Host: then the name must be allowed.
    if asked_by != (host or "").lower() and name_of(asked_by) not in allowed:
        raise Refusal(
            403,
            f"A page of {shown(origin, _SHOWN)} may not change anything here: use this port's own "
            "address, or add the page's host to admin.allowed_hosts.",
        )
