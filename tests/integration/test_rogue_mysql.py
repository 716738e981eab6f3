"""A server that pretends to be MySQL does not get the password, however it asks."""

from __future__ import annotations

import asyncio
import contextlib
import struct

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from pydantic import SecretStr
from pymysql.constants import CLIENT

from config.model import HostPort, MySQL
from failover.mysql.connection import Session
from failover.mysql.errors import MySQLError
from tests.support.listener import Listener

PASSWORD = "correct-horse-battery"
SALT = b"0123456789abcdefghij"
KEY = rsa.generate_private_key(public_exponent=65537, key_size=2048)
PEM = KEY.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
METHODS = [
    *("mysql_native_password", "caching_sha2_password", "sha256_password", "client_ed25519"),
    *("mysql_clear_password", "mysql_old_password", "dialog", "auth_pam_compat", "anything"),
]
FULL = b"\x01\x04"
"""caching_sha2_password: the server has not cached the hash and asks for the password."""


class Rogue(Listener):
    """Greets as MySQL does, asks for a method of signing in, and keeps all that it is sent.

    Args:
        greeting: the plugin that its greeting names.
        switch: the plugin that it asks for then; None for no request, empty for old servers'.
        more: the packets that it sends then, one after each answer.
    """

    def __init__(self, greeting: str, switch: str | None, more: list[bytes]) -> None:
        super().__init__()
        self._greeting = greeting
        self._switch = switch
        self._more = more
        self.heard = b""
        self.closed = asyncio.Event()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        flags = CLIENT.CAPABILITIES | CLIENT.PLUGIN_AUTH | CLIENT.CONNECT_WITH_DB
        flags &= ~(CLIENT.SSL | CLIENT.PLUGIN_AUTH_LENENC_CLIENT_DATA)
        greeting = b"\x0a8.4.0\0" + struct.pack("<I", 1) + SALT[:8] + b"\0"
        greeting += struct.pack("<HBHHB", flags & 0xFFFF, 45, 2, flags >> 16, 21) + bytes(10)
        greeting += SALT[8:] + b"\0" + self._greeting.encode() + b"\0"
        says = [greeting]
        if self._switch is not None:
            data = self._switch.encode() + b"\0" + SALT + b"\0" if self._switch else b""
            says.append(b"\xfe" + data)
        says += self._more
        number = 0
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            for packet in says:
                writer.write(len(packet).to_bytes(3, "little") + bytes([number & 0xFF]) + packet)
                header = await reader.readexactly(4)
                answer = await reader.readexactly(int.from_bytes(header[:3], "little"))
                self.heard += answer + self._decrypted(answer)
                number = header[3] + 1
        writer.close()

    def _decrypted(self, answer: bytes) -> bytes:
        """An answer that was encrypted with the rogue's key, decrypted; or empty."""
        with contextlib.suppress(ValueError):
            scheme = padding.OAEP(padding.MGF1(hashes.SHA1()), hashes.SHA1(), None)
            masked = KEY.decrypt(answer, scheme)
            return bytes(byte ^ SALT[n % len(SALT)] for n, byte in enumerate(masked))
        return b""


def config(port: int, public_key: str = "") -> MySQL:
    return MySQL(
        hosts=(HostPort(host="127.0.0.1", port=port),),
        user="tapedeck",
        password=SecretStr(PASSWORD),
        public_key=public_key,
        connect_timeout=2_000,
    )


async def refusal(settings: MySQL) -> str:
    with pytest.raises(MySQLError) as refused:
        await Session.open(settings.hosts[0], settings)
    return str(refused.value)


@pytest.mark.parametrize("more", [[], [FULL, b"\x01" + PEM], [b"\x01" + PEM, FULL]])
@pytest.mark.parametrize("switch", [None, "", *METHODS])
@pytest.mark.parametrize("greeting", ["", *METHODS])
async def test_no_method_of_signing_in_sends_the_password(
    greeting: str, switch: str | None, more: list[bytes]
) -> None:
    async with Rogue(greeting, switch, more) as rogue:
        await refusal(config(rogue.port))

        assert PASSWORD.encode() not in rogue.heard


async def test_a_refused_sign_in_says_what_to_do() -> None:
    async with Rogue("mysql_native_password", "mysql_clear_password", []) as rogue:
        said = await refusal(config(rogue.port))
    assert "mysql_clear_password" in said
    assert "mysql.tls" in said

    async with Rogue("caching_sha2_password", None, [FULL, b"\x01" + PEM]) as rogue:
        said = await refusal(config(rogue.port))
    assert "mysql.tls" in said
    assert "mysql.public_key" in said


async def test_the_password_is_encrypted_with_the_key_that_the_configuration_names() -> None:
    async with Rogue("caching_sha2_password", None, [FULL]) as server:
        await refusal(config(server.port, PEM.decode()))

        assert PASSWORD.encode() in server.heard, "the owner of the key could not read the password"


async def test_a_key_sent_by_the_server_does_not_replace_the_configured_one() -> None:
    other = rsa.generate_private_key(public_exponent=65537, key_size=2048).public_key()
    named = other.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()
    for greeting in ("caching_sha2_password", "sha256_password"):
        async with Rogue(greeting, None, [FULL, b"\x01" + PEM]) as rogue:
            await refusal(config(rogue.port, named))

            assert PASSWORD.encode() not in rogue.heard
