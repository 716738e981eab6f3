"""Requests to the admin port of a running gateway. The token is sent to no other address."""

from __future__ import annotations

import http.client
import socket
import ssl
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, TypeVar
from urllib.parse import urlsplit

import msgspec

from cli.common import Failed
from config.model import Admin
from config.tls import TlsProblem, client_context, in_words, own_port_context
from config.values import is_loopback

Answer = TypeVar("Answer")
SECONDS = 10.0
"""Seconds that a gateway has to answer."""


class NoAnswer(Failed):
    """The gateway did not answer, or answered with an error; says which one, where and why."""


class _Refused(msgspec.Struct):
    errors: list[str] = []


@dataclass(frozen=True, slots=True)
class AdminPort:
    """The admin port of one gateway.

    Attributes:
        url: without a path.
        token: sent with each request; None for none.
        because: where the token is from, or why no token is sent; for errors.
        tls: the configuration's certificates to trust with https; None: the system's authorities.
        ca_file: PEM; authorities to trust instead.
    """

    url: str
    token: str | None = None
    because: str = "no token was given"
    tls: Admin | None = None
    ca_file: str | None = None

    def ask(
        self,
        path: str,
        kind: type[Answer],
        body: Any = None,
        *,
        method: str = "",
        seconds: float = SECONDS,
        serves: tuple[int, ...] = (200,),
    ) -> Answer:
        """The JSON answer. The request is a POST if it has a body.

        Args:
            kind: of the answer: the struct that the gateway encodes.
            seconds: the timeout.
            serves: the statuses that are not errors.

        Raises:
            NoAnswer: it did not answer, or answered with an error.
        """
        status, raw = self.request(path, body, method=method, seconds=seconds)
        try:
            if status in serves:
                return msgspec.json.decode(raw, type=kind)
            sentences = msgspec.json.decode(raw, type=_Refused).errors
        except msgspec.ValidationError as error:
            what = f"answers {path} in another shape ({error}): is it a gateway of this version?"
            raise NoAnswer(f"{self.url} {what}") from None
        except (msgspec.DecodeError, RecursionError):
            raise NoAnswer(f"what answers at {self.url} ({status}) is no gateway") from None
        said = " ".join(sentences) or "is that the admin port of a gateway?"
        if status in (HTTPStatus.NOT_FOUND, HTTPStatus.UNSUPPORTED_MEDIA_TYPE):
            said += " This looks like a gateway's port for listeners: name its admin port."
        raise NoAnswer(f"{self.url}: {status}: {said}")

    def request(
        self, path: str, body: Any = None, *, method: str = "", seconds: float = SECONDS
    ) -> tuple[int, bytes]:
        """Status and body of the answer, with any status except 401.

        Raises:
            NoAnswer: it did not answer, or needs another token.
        """
        headers = {"Content-Type": "application/json"}
        if self.token is not None:
            headers["Authorization"] = f"Bearer {self.token}"
        data = None if body is None else msgspec.json.encode(body)
        connection = self._connection(seconds)
        try:
            # No proxy is used, and no redirect followed: both would get the token.
            connection.request(
                method or ("GET" if data is None else "POST"), path, body=data, headers=headers
            )
            answer = connection.getresponse()
            raw = answer.read()
        except (OSError, http.client.HTTPException) as error:
            raise NoAnswer(self._in_words(error, seconds)) from None
        finally:
            connection.close()
        if answer.status == 401:
            raise NoAnswer(
                f"{self.url} wants the admin token, the one in its own admin.token_file, and"
                f" {self.because}: name the file by --token-file, or the gateway's configuration"
                " by --config"
            )
        return answer.status, raw

    def _connection(self, seconds: float) -> http.client.HTTPConnection:
        parts = urlsplit(self.url)
        host = parts.hostname or ""
        if parts.scheme != "https":
            return http.client.HTTPConnection(host, parts.port, timeout=seconds)
        context = self._context(host)
        return http.client.HTTPSConnection(host, parts.port, timeout=seconds, context=context)

    def _context(self, host: str) -> ssl.SSLContext:
        try:
            context = None
            if self.tls is not None and self.ca_file is None:
                # On this machine the gateway's certificate is trusted under any name.
                own = own_port_context(self.tls) if is_loopback(host) else None
                context = own or client_context(self.tls.peers_tls)
            context = context or ssl.create_default_context(cafile=self.ca_file)
            mine = self.tls
            if mine is not None and mine.peers_tls_certificate_file is not None:
                context.load_cert_chain(mine.peers_tls_certificate_file, mine.peers_tls_key_file)
        except (TlsProblem, OSError) as error:
            raise NoAnswer(f"{self.url} cannot be asked: {self.ca_file or ''} {error}") from None
        return context

    def _in_words(self, error: Exception, seconds: float) -> str:
        if isinstance(error, ConnectionRefusedError):
            return (
                f"nothing listens at {self.url} (connection refused): does the gateway run, and is"
                " this its admin port?"
            )
        if isinstance(error, socket.gaierror):
            return f"the name in {self.url} is not known: {error.strerror}"
        if isinstance(error, TimeoutError):
            return f"{self.url} did not answer within {seconds:g} s"
        if isinstance(error, ssl.SSLCertVerificationError):
            return f"{self.url}: {in_words(error)}; --ca-file names the authority to trust"
        if isinstance(error, (http.client.HTTPException, ConnectionError)):
            return f"{self.url} gives no HTTP answer: is it an admin port? Does it take only https?"
        return f"{self.url}: {in_words(error) if isinstance(error, OSError) else error}"
