"""Makes the keys of MySQL servers: a server would take seconds to make its own."""

from __future__ import annotations

from pathlib import Path

from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)

from stack.mysql import MySQL
from stack.server import Server

WITHOUT_TLS = ("--auto-generate-certs=OFF",)
"""Options of a server without certificates; clients encrypt a password with its public key."""


def make_keys(folder: Path) -> None:
    """Write the pair of keys that encrypts passwords without TLS into a data directory."""
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    private = key.private_bytes(Encoding.PEM, PrivateFormat.TraditionalOpenSSL, NoEncryption())
    public = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    (folder / "private_key.pem").write_bytes(private)
    (folder / "private_key.pem").chmod(0o600)
    (folder / "public_key.pem").write_bytes(public)


def key_of(server: Server) -> str:
    """The value of `mysql.public_key` for a server: empty for MariaDB."""
    return public_key(server.folder) if isinstance(server, MySQL) else ""


def public_key(folder: Path) -> str:
    """The value of `mysql.public_key`, PEM, for the server with this data directory."""
    return (folder / "public_key.pem").read_text()
