"""TLS contexts of connections to servers. Their files are checked for each connection, in a thread.

So files that are rotated in place need no restart. If the disk does not answer, or a file cannot be
used, the last good context is used.
"""

from __future__ import annotations

import ssl

from config.model import ClientTls
from config.tls import ClientContext
from failover.blocking_calls import SharedCall

_MOST = 64
"""Most settings whose contexts are cached: a reload may bring others."""
_made: dict[tuple[object, ...], SharedCall[ssl.SSLContext]] = {}


async def context_for(config: ClientTls) -> ssl.SSLContext | None:
    """The context for a new connection; None without TLS.

    Raises:
        TlsProblem: a file cannot be used, and no earlier context exists.
    """
    if not config.tls:
        return None
    settings = tuple(getattr(config, name) for name in ClientTls.model_fields)
    kept = _made.get(settings)
    if kept is None:
        if len(_made) >= _MOST:
            del _made[next(iter(_made))]
        kept = _made[settings] = SharedCall("tls-files", ClientContext(config).current)
    return await kept.get()
