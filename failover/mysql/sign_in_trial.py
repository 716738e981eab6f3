"""Signs in at the MySQL hosts once: for `check-config`, and before a reload changes how."""

from __future__ import annotations

import asyncio

from config.model import ClientTls, HostPort, MySQL
from failover.mysql.connection import Session
from failover.mysql.errors import DENIED, Fault, MySQLError

TRIAL_SECONDS = 2.0
"""Most seconds of a trial; a worker answers its supervisor within 5."""
_HOW = ("user", "password", *ClientTls.model_fields)
"""The values of `mysql` that a host judges and a reload may change."""


async def trial(before: MySQL, after: MySQL) -> list[str]:
    """Why the gateway could not sign in after a change, a sentence for each host.

    Empty if nothing changes that a host judges, or if a host lets the gateway in and no other one
    refuses it: hosts that do not answer do not count then.
    """
    changed = before.differing(after, _HOW)
    names = ", ".join(f"mysql.{name}" for name in changed)
    return [f"{names}: {problem}" for problem in await problems(after)] if changed else []


async def problems(config: MySQL) -> list[str]:
    """Why the gateway could not sign in: of each host that refuses it, or, if none lets it in, of
    each host."""
    errors = await asyncio.gather(*(_sign_in(host, config) for host in config.hosts))
    found = [(host, error) for host, error in zip(config.hosts, errors, strict=True) if error]
    refused = [(host, error) for host, error in found if not error.passing]
    if len(found) < len(config.hosts):
        found = refused
    return [_told(host, error) for host, error in refused or found]


async def _sign_in(host: HostPort, config: MySQL) -> MySQLError | None:
    try:
        async with asyncio.timeout(TRIAL_SECONDS):
            session = await Session.open(host, config)
    except TimeoutError:
        return MySQLError(Fault.LOST, 0, f"nothing within {TRIAL_SECONDS:g} s")
    except MySQLError as error:
        return error
    session.close()
    return None


def _told(host: HostPort, error: MySQLError) -> str:
    if error.code in DENIED:
        return f"{host} refuses the user, its password or its rights: {error}"
    if error.passing:
        return f"no MySQL host let this gateway in to try it; {host}: {error}"
    return f"{host} does not let this gateway in: {error}"
