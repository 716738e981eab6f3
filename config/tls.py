"""TLS contexts from PEM files, and sentences for what is wrong with them.

Files are read when the configuration is loaded, so that a reload with a broken certificate is
refused; and again for each connection, so that files that are rotated in place need no restart.
"""

from __future__ import annotations

import os
import ssl
import time
from pathlib import Path

from cryptography import x509

from config.model import Admin, ClientTls, Gateway, Sections, ServerTls
from config.values import join_address

FILES = (
    *("tls_certificate_file", "tls_key_file", "tls_ca_file", "tls_client_ca_file"),
    *("peers_tls_certificate_file", "peers_tls_key_file", "peers_tls_ca_file"),
)
_MINIMUM = {"1.2": ssl.TLSVersion.TLSv1_2, "1.3": ssl.TLSVersion.TLSv1_3}


class TlsProblem(ValueError):
    """A PEM file cannot be used. The text begins with the value's name, such as `tls_key_file`."""


def problems(config: Sections) -> list[str]:
    """A sentence for each problem of the PEM files, `section.key: what is wrong`."""
    found = []
    for prefix, section in _sections(config).items():
        try:
            if isinstance(section, ServerTls):
                server_context(section)
            else:
                client_context(section)
        except TlsProblem as problem:
            found.append(f"{prefix}{problem}")
    return found


def _sections(config: Sections) -> dict[str, ServerTls | ClientTls]:
    return {
        "gateway.": config.gateway,
        "admin.": config.admin,
        "admin.peers_": config.admin.peers_tls,
        "lookup.": config.lookup,
        "mysql.": config.mysql,
    }


def expiries(config: Sections) -> dict[str, float]:
    """When each of our certificates expires, seconds since 1970, by its value's name. Blocks."""
    found = {}
    for prefix, section in _sections(config).items():
        path = section.tls_certificate_file
        if path is not None and (ends := _expiry(path)) is not None:
            found[f"{prefix}tls_certificate_file"] = ends
    return found


def server_context(config: ServerTls) -> ssl.SSLContext | None:
    """The context of a port that the gateway listens on; None without TLS.

    Raises:
        TlsProblem: a file is missing, not PEM, or expired, or the key is another certificate's.
    """
    if config.tls_certificate_file is None:
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = _MINIMUM[config.tls_minimum]
    context.set_alpn_protocols(["http/1.1"])
    _certificate(context, config)
    if config.tls_client_ca_file is not None:
        _authorities(context, "tls_client_ca_file", config.tls_client_ca_file)
        context.verify_mode = ssl.CERT_REQUIRED
    return context


def client_context(config: ClientTls) -> ssl.SSLContext | None:
    """The context of connections to a server, which verifies its certificate; None without TLS.

    Raises:
        TlsProblem: as for `server_context`.
    """
    if not config.tls:
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.check_hostname = config.tls_verify_names
    if config.tls_ca_file is None:
        context.load_default_certs(ssl.Purpose.SERVER_AUTH)
    else:
        _authorities(context, "tls_ca_file", config.tls_ca_file)
    if config.tls_certificate_file is not None:
        _certificate(context, config)
    return context


def own_url(config: Gateway | Admin) -> str:
    """The URL of one of the gateway's ports, from this machine."""
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(config.host, config.host)  # noqa: S104
    scheme = "http" if config.tls_certificate_file is None else "https"
    return f"{scheme}://{join_address(host, config.port)}"


def own_port_context(config: ServerTls) -> ssl.SSLContext | None:
    """The context for a command on the gateway's own machine, which trusts the certificate in the
    port's own file, under any name; None without TLS.

    Raises:
        TlsProblem: the file cannot be read.
    """
    if config.tls_certificate_file is None:
        return None
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    _authorities(context, "tls_certificate_file", config.tls_certificate_file)
    return context


class ClientContext:
    """The context of one section, created again when its files have changed."""

    def __init__(self, config: ClientTls) -> None:
        self._config = config
        self._made_of: object = None
        self._context: ssl.SSLContext | None = None

    def current(self) -> ssl.SSLContext:
        """The context for a new connection. Blocks: do not call it in an event loop.

        Raises:
            TlsProblem: a file cannot be used now (half-written, expired): call again later.
        """
        made_of = _print_of(self._config)
        if self._context is None or made_of != self._made_of:
            self._context = client_context(self._config)
            self._made_of = made_of
        assert self._context is not None
        return self._context


def _print_of(config: ClientTls) -> object:
    """A value that changes when the files do."""
    names = (config.tls_ca_file, config.tls_certificate_file, config.tls_key_file)
    stamps = []
    for name in names:
        try:
            stat = None if name is None else Path(name).stat()
        except OSError:
            stat = None
        stamps.append(stat and (stat.st_mtime_ns, stat.st_size, stat.st_ino))
    return stamps


def _certificate(context: ssl.SSLContext, config: ServerTls | ClientTls) -> None:
    certificate, key = config.tls_certificate_file, config.tls_key_file
    assert certificate is not None
    assert key is not None
    for name, path in (("tls_certificate_file", certificate), ("tls_key_file", key)):
        _readable(name, path)
    try:
        # An empty password, so that OpenSSL does not ask for one on the terminal.
        context.load_cert_chain(certificate, key, password="")
    except ssl.SSLError as error:
        if error.reason == "KEY_VALUES_MISMATCH":
            reason = f"tls_key_file: {key} is not the key of {certificate}"
        elif _expiry(certificate) is None:
            reason = f"tls_certificate_file: {certificate} holds no PEM certificate"
        else:
            reason = f"tls_key_file: {key} holds no PEM key without a password"
        raise TlsProblem(reason) from None
    expiry = _expiry(certificate)
    if expiry is not None and expiry < time.time():
        day = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(expiry))
        raise TlsProblem(f"tls_certificate_file: {certificate} expired on {day}")


def _authorities(context: ssl.SSLContext, name: str, path: str) -> None:
    _readable(name, path)
    try:
        context.load_verify_locations(path)
    except ssl.SSLError:
        raise TlsProblem(f"{name}: {path} holds no PEM certificate") from None


def _readable(name: str, path: str) -> None:
    try:
        Path(path).read_bytes()
    except OSError as error:
        raise TlsProblem(f"{name}: {path} cannot be read: {error.strerror}") from None


def _expiry(path: str) -> float | None:
    """When a file's first certificate expires, seconds since 1970; None if it has none."""
    try:
        certificates = x509.load_pem_x509_certificates(Path(path).read_bytes())
    except (OSError, ValueError):
        return None
    return certificates[0].not_valid_after_utc.timestamp()


def in_words(error: OSError) -> str:
    """Why a connect failed, in a sentence that an operator can act on.

    >>> in_words(ConnectionRefusedError(111, "Connection refused"))
    'Connection refused'
    """
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate is refused: {error.verify_message.rstrip('.')}"
    if isinstance(error, ssl.SSLError):
        reason = (error.reason or str(error)).replace("_", " ").lower()
        return _ALERTS.get(reason, f"TLS: {reason}")
    if error.errno and (error.strerror or "").startswith("Connect call failed"):
        return os.strerror(error.errno)  # asyncio puts the address in the reason's place
    return error.strerror or str(error) or "no answer in time"


_ALERTS = {
    "tlsv13 alert certificate required": "it asks for a client certificate",
    "tlsv1 alert unknown ca": "it does not know the authority of our client certificate",
    "sslv3 alert certificate expired": "our client certificate has expired",
    "sslv3 alert bad certificate": "it refuses our client certificate",
    "sslv3 alert handshake failure": "it accepts no version or cipher of ours, or no certificate",
    "wrong version number": "it answers without TLS",
}
