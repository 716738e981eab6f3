"""Logins: name and password go to a service of the operator's, which returns the user's id.

The request is `POST auth.login_url` with `{"login": "...", "password": "..."}` in JSON. The answer
is 200 with `{"user_id": 42}`, or 401, 403, 404 or 422 if they are wrong. Name and password are not
stored, logged or shown here.
"""

from __future__ import annotations

from typing import Annotated

import aiohttp
import msgspec
import structlog

from config.model import ClientTls
from config.tls import TlsProblem
from gateway.http import outgoing
from gateway.http.errors import Refusal
from sharding.state import USER_MAX

ANSWER_SECONDS = 5.0
"""Seconds for the service's whole answer; then 503."""
AT_ONCE = 16
"""Most logins under way in one worker; beyond it 503."""
LONGEST = 1024
"""Most characters of a name or a password."""
_WRONG = (401, 403, 404, 422)

_log = structlog.get_logger()


class _Known(msgspec.Struct):
    user_id: Annotated[int, msgspec.Meta(ge=1, le=USER_MAX)]


class Logins:
    """Asks the operator's service."""

    def __init__(self) -> None:
        self._under_way = 0

    async def ask(self, url: str, login: str, password: str) -> int:
        """The id of the user, 1 to 2^62-1. Refuses with 401, or with 503 if the service does not
        answer.
        """
        if self._under_way >= AT_ONCE:
            raise Refusal(503, "Too many logins are under way.")
        self._under_way += 1
        try:
            said = {"login": login, "password": password}
            tls = ClientTls(tls=True)
            status, body = await outgoing.ask("POST", url, tls, ANSWER_SECONDS, json=said)
            if status in _WRONG:
                raise Refusal(401, "The login or the password is wrong.")
            if status != 200:
                raise ValueError(f"it answers {status}")
            return msgspec.json.decode(body, type=_Known).user_id
        except (aiohttp.ClientError, OSError, TlsProblem, ValueError, RecursionError) as error:
            # Only the type: a message might quote the password. Our own messages do not.
            why = str(error) if type(error) in (ValueError, TlsProblem) else type(error).__name__
            _log.warning("login service failed", reason=why)
            raise Refusal(503, "The login service does not answer.") from None
        finally:
            self._under_way -= 1
