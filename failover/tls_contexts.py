"""What connections to servers speak TLS with: files are looked at for each connection, aside.

So files that are rotated in place need no restart, and a disk that does not answer, or a file that
cannot be used, leaves the context that was good last.
"""

from __future__ import annotations

import ssl

from config.model import ClientTls
from config.tls import ClientContext
from failover.aside import Aside

_MOST = 64
"""Settings at most: a reload may bring others."""
_made: dict[tuple[object, ...], Aside[ssl.SSLContext]] = {}


async def context_for(config: ClientTls) -> ssl.SSLContext | None:
    """The context to connect with now; None without TLS.

    Raises:
        TlsProblem: a file cannot be used, and there was no context before.
    """
    if not config.tls:
        return None
    settings = tuple(getattr(config, name) for name in ClientTls.model_fields)
    kept = _made.get(settings)
    if kept is None:
        if len(_made) >= _MOST:
            del _made[next(iter(_made))]
        kept = _made[settings] = Aside("tls-files", ClientContext(config).look)
    return await kept.get()
