"""Signing in at MySQL without giving the password away: which ways are taken, for both drivers.

Whoever answers chooses the way, by its greeting or a switch after it ("Authentication Method
Mismatch" in the MySQL client/server protocol). Some ways send the password as it is, and the
drivers obey: so without TLS only those are taken that send a hash of it and of a random number.
`caching_sha2_password` is one of them while the server has the hash in its memory; else it asks for
the password itself, encrypted with a key. That is sent under the key that the configuration names
alone: one that the server hands out may be anybody's (MySQL manual, "Caching SHA-2 Pluggable
Authentication": `--server-public-key-path`; `--get-server-public-key` is off there too).
"""

from __future__ import annotations

from pymysql.constants import CR
from pymysql.err import OperationalError

_HASHED = frozenset({"", "mysql_native_password", "caching_sha2_password"})
"""Empty: a server that names none means the first of them."""


def key(pem: str) -> bytes:
    """What a driver is given as the server's public key.

    Without one it is a text that encrypts nothing, or the driver would ask the server for a key: it
    raises ValueError where it would be used.

    Args:
        pem: the key; empty where none is known.
    """
    return (pem or "no key is known").encode()


def check(method: str, secure: bool) -> None:
    """Refuse a way to sign in that would tell the password to whoever listens or answers.

    Args:
        method: the plugin's name, as the server says it.
        secure: the connection is TLS, and the server's certificate was verified.

    Raises:
        OperationalError: CR_AUTH_PLUGIN_ERR.

    >>> check("mysql_clear_password", secure=True)
    >>> check("mysql_native_password", secure=False)
    """
    if method == "mysql_old_password":
        raise refusal(method, "its hash is broken, with TLS too; give the user another plugin")
    if not secure and method not in _HASHED:
        raise refusal(method, "without TLS it may tell the password; turn on mysql.tls")


def refusal(method: str, why: str) -> OperationalError:
    """The error for a way to sign in that is not taken."""
    name = method[:40]
    return OperationalError(CR.CR_AUTH_PLUGIN_ERR, f"the server asks for {name!r}: refused, {why}")


def no_key() -> OperationalError:
    """The error for a server that wants the password itself, and may not have it."""
    return refusal(
        "caching_sha2_password",
        "it wants the password itself; turn on mysql.tls, or name the server's key: "
        "mysql.public_key",
    )
