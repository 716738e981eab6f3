"""Signing in at a real MySQL with caching_sha2_password, and the rotation of a password.

The server caches a hash of each user who has signed in. With it, a client proves that it knows the
password without sending it: the fast way. After a restart or FLUSH PRIVILEGES the cache is empty,
and the server asks for the password itself: the full way, in TLS or encrypted with its RSA key.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pymysql
import pytest

from config.load import parse
from config.model import MySQL as Config
from failover.mysql.connection import Session
from failover.mysql.errors import MySQLError
from sharding.state import Key
from stack import datadir
from stack.datadir import Passwords
from stack.mysql import MySQL
from tests.conftest import StackConfig
from tests.support.backends import opened
from tests.support.certificates import Authority
from tests.support.mysqld import make_keys, public_key
from tests.support.states import bump

pytestmark = pytest.mark.stack

_numbers = itertools.count(1)


@pytest.fixture(scope="module")
def mysql(
    tmp_path_factory: pytest.TempPathFactory,
    mysql_template: Path,
    passwords: Passwords,
    authority: Authority,
) -> Iterator[MySQL]:
    """A MySQL with a key, and with a certificate of `authority`."""
    folder = tmp_path_factory.mktemp("mysqld") / "data"
    datadir.copy(mysql_template, folder)
    certificate, key = authority.issue("mysqld")
    files = (f"--ssl-cert={certificate}", f"--ssl-key={key}", f"--ssl-ca={authority.file}")
    server = MySQL("mysql1", folder, passwords, options=files)
    server.start()
    yield server
    server.kill()


@pytest.fixture
def user(mysql: MySQL, database: str) -> Iterator[str]:
    """A user of this test's own with the password `first`."""
    name = f"listener_{next(_numbers)}"
    mysql.query(f"CREATE USER {name}@'127.0.0.1' IDENTIFIED BY 'first'")
    mysql.query(f"GRANT ALL ON `{database}`.* TO {name}@'127.0.0.1'")
    yield name
    mysql.query(f"DROP USER {name}@'127.0.0.1'")


@pytest.fixture(params=["tls", "key"])
def way(request: pytest.FixtureRequest, mysql: MySQL, authority: Authority) -> dict[str, Any]:
    """The values of `mysql` in the configuration that protect the password: TLS, or a key."""
    if request.param == "tls":
        return {"tls": True, "tls_ca_file": authority.file}
    return {"public_key": public_key(mysql.folder)}


def config_of(mysql: MySQL, database: str, user: str, **words: Any) -> Config:
    section = {"hosts": [mysql.address], "user": user, "password": "first", "database": database}
    lookup = {"servers": ["127.0.0.1:1:1 node"]}
    return parse({"lookup": lookup, "mysql": {**section, **words}}).mysql


async def sign_in(config: Config) -> None:
    """Sign in as a gateway does."""
    session = await Session.open(config.hosts[0], config)
    session.close()


def forget_all(mysql: MySQL) -> None:
    """Empty the server's cache of users who have signed in."""
    mysql.query("FLUSH PRIVILEGES")


async def test_a_user_signs_in_the_full_way_and_then_the_fast_way(
    mysql: MySQL, database: str, user: str, way: dict[str, Any]
) -> None:
    config = config_of(mysql, database, user, **way)
    for _ in range(2):
        forget_all(mysql)
        await sign_in(config)
        await sign_in(config)


async def test_without_tls_or_key_only_the_fast_way_works_and_the_error_says_what_to_do(
    mysql: MySQL, database: str, user: str
) -> None:
    config = config_of(mysql, database, user)
    forget_all(mysql)
    with pytest.raises(MySQLError, match=r"mysql\.tls.*mysql\.public_key"):
        await Session.open(config.hosts[0], config)

    await sign_in(config_of(mysql, database, user, public_key=public_key(mysql.folder)))

    await sign_in(config)


async def test_a_sign_in_with_another_server_s_key_is_refused(
    mysql: MySQL, database: str, user: str, tmp_path: Path
) -> None:
    make_keys(tmp_path)
    config = config_of(mysql, database, user, public_key=public_key(tmp_path))
    forget_all(mysql)
    with pytest.raises(MySQLError):
        await Session.open(config.hosts[0], config)


async def test_a_user_that_requires_tls_signs_in_only_with_it(
    mysql: MySQL, database: str, user: str, authority: Authority
) -> None:
    mysql.query(f"ALTER USER {user}@'127.0.0.1' REQUIRE SSL")
    forget_all(mysql)
    await sign_in(config_of(mysql, database, user, tls=True, tls_ca_file=authority.file))
    plain = config_of(mysql, database, user, public_key=public_key(mysql.folder))
    with pytest.raises(MySQLError, match=r"1045.*mysql\.tls"):
        await Session.open(plain.hosts[0], plain)


async def test_a_password_is_rotated_without_a_failed_change(
    stack_config: StackConfig, mysql: MySQL, database: str, user: str, way: dict[str, Any]
) -> None:
    """With MySQL's dual passwords: set the second, reload gateways, discard the first."""
    document = stack_config()
    document["mysql"] |= {"user": user, "password": "first", **way}
    async with opened(document) as backend:

        async def change_on_a_new_connection(expected: int) -> None:
            forget_all(mysql)
            rows = mysql.query(
                "SELECT id FROM performance_schema.processlist WHERE user = %s", (user,)
            )
            for (number,) in rows:
                with contextlib.suppress(pymysql.MySQLError):
                    mysql.query(f"KILL {number}")
            assert (await backend.store.change(Key(1, 1), bump)).answer == expected

        await change_on_a_new_connection(1)
        mysql.query(f"ALTER USER {user}@'127.0.0.1' IDENTIFIED BY 'second' RETAIN CURRENT PASSWORD")
        await change_on_a_new_connection(2)
        document["mysql"]["password"] = "second"
        backend.primary.configure(parse(document).mysql)
        await change_on_a_new_connection(3)
        mysql.query(f"ALTER USER {user}@'127.0.0.1' DISCARD OLD PASSWORD")
        await change_on_a_new_connection(4)

    document["mysql"]["password"] = "first"
    with pytest.raises(MySQLError, match="1045"):
        await sign_in(parse(document).mysql)
