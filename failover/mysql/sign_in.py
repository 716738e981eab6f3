"""Signing in at MySQL without revealing the password: the accepted methods.

The server chooses the method, in its greeting or by a switch after it ("Authentication Method
Mismatch" in the MySQL client/server protocol). Some methods send the password itself, and the
driver obeys. So without TLS only methods are accepted that send a hash of the password and a random
number. `caching_sha2_password` is one while the server has the hash in its cache; otherwise it asks
for the password encrypted with a public key. It gets it only under the key in the configuration: a
key that the server sends may be an attacker's (MySQL manual, "Caching SHA-2 Pluggable
Authentication": `--server-public-key-path`; `--get-server-public-key` is off there too).
"""

from __future__ import annotations

from pymysql.constants import CR
from pymysql.err import OperationalError

_HASHED = frozenset({"", "mysql_native_password", "caching_sha2_password"})
"""Empty: a server that names no method means mysql_native_password."""


def key(pem: str) -> bytes:
    """The server's public key for a driver.

    Without a key it is a text that is no key, since the driver would otherwise ask the server for
    one. Using that text raises ValueError.

    Args:
        pem: the key; empty if none is configured.
    """
    return (pem or "no key is known").encode()


def check(method: str, secure: bool) -> None:
    """Refuse a method that would reveal the password to an attacker on the network.

    Args:
        method: the plugin's name, from the server.
        secure: whether the connection is TLS and the server's certificate was verified.

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
    name = method[:40]
    return OperationalError(CR.CR_AUTH_PLUGIN_ERR, f"the server asks for {name!r}: refused, {why}")


def no_key() -> OperationalError:
    """The error for a server that asks for the password itself, while no key is configured."""
    return refusal(
        "caching_sha2_password",
        "it wants the password itself; turn on mysql.tls, or name the server's key: "
        "mysql.public_key",
    )
