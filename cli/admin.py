"""Requests to the admin port of a running gateway."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from config.model import Sections

SECONDS = 10.0


class NoAnswer(Exception):
    """The gateway did not answer, or answered with an error; says which URL, and why."""


def admin_url(config: Sections) -> str:
    """The URL of the admin port of a gateway with this configuration, from this machine."""
    from config.tls import own_url

    return own_url(config.admin)


def ask(
    url: str, path: str, config: Sections, body: Any = None, *, seconds: float = SECONDS
) -> Any:
    """The JSON answer of an admin port. The request is a POST if it has a body.

    Args:
        url: of the admin port.
        config: its `admin.token`, if set, is sent.

    Raises:
        NoAnswer: the port did not answer, or answered with an error.
    """
    from config.tls import own_port_context

    headers = {"Content-Type": "application/json"}
    if config.admin.token is not None:
        headers["Authorization"] = f"Bearer {config.admin.token.get_secret_value()}"
    if not url.startswith(("http://", "https://")):
        raise NoAnswer(f"{url} is no http:// or https:// URL")
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url.rstrip("/") + path, data=data, headers=headers)  # noqa: S310
    try:
        context = own_port_context(config.admin)
        with urllib.request.urlopen(request, timeout=seconds, context=context) as answer:  # noqa: S310
            return json.loads(answer.read())
    except urllib.error.HTTPError as error:
        raise NoAnswer(f"{url}: {_reason(error)}") from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "reason", error)
        raise NoAnswer(f"no gateway answers at {url}: {reason}") from None


def _reason(error: urllib.error.HTTPError) -> str:
    try:
        sentences = json.loads(error.read())["errors"]
        return f"{error.code}: {' '.join(sentences)}"
    except (OSError, ValueError, KeyError, TypeError):
        return f"{error.code} {error.reason}: is this the admin port of a gateway?"
