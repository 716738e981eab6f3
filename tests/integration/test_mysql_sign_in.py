"""Signing in at a real MySQL: caching_sha2_password, its fast and its full way, and rotation.

The server remembers a hash of each user who has signed in; with it a client shows that it knows the
password without sending it: the fast way. After a restart or FLUSH PRIVILEGES it has forgotten, and
asks for the password itself: the full way, inside TLS or encrypted with the server's RSA key.
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
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("tls"))


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
    """How the password may travel: the values of `mysql` in the configuration that say so."""
    if request.param == "tls":
        return {"tls": True, "tls_ca_file": authority.file}
    return {"public_key": public_key(mysql.folder)}


def config_of(mysql: MySQL, database: str, user: str, **words: Any) -> Config:
    section = {"hosts": [mysql.address], "user": user, "password": "first", "database": database}
    lookup = {"servers": ["127.0.0.1:1:1 node"]}
    return parse({"lookup": lookup, "mysql": {**section, **words}}).mysql


async def sign_in(config: Config) -> None:
    """As a gateway does."""
    session = await Session.open(config.hosts[0], config)
    session.close()


def forget_all(mysql: MySQL) -> None:
    """Make the server forget who has signed in."""
    mysql.query("FLUSH PRIVILEGES")


async def test_a_user_signs_in_the_full_way_then_the_fast_way_and_again_after_a_flush(
    mysql: MySQL, database: str, user: str, way: dict[str, Any]
) -> None:
    config = config_of(mysql, database, user, **way)
    for _ in range(2):
        forget_all(mysql)
        session = await Session.open(config.hosts[0], config)
        session.close()
        await sign_in(config)


async def test_without_tls_and_key_only_the_fast_way_is_taken_and_the_refusal_says_what_to_do(
    mysql: MySQL, database: str, user: str
) -> None:
    config = config_of(mysql, database, user)
    forget_all(mysql)
    with pytest.raises(MySQLError, match=r"mysql\.tls.*mysql\.public_key"):
        await Session.open(config.hosts[0], config)

    await sign_in(config_of(mysql, database, user, public_key=public_key(mysql.folder)))

    await sign_in(config)


async def test_a_password_for_another_servers_key_lets_nobody_in(
    mysql: MySQL, database: str, user: str, tmp_path: Path
) -> None:
    make_keys(tmp_path)
    config = config_of(mysql, database, user, public_key=public_key(tmp_path))
    forget_all(mysql)
    with pytest.raises(MySQLError):
        await Session.open(config.hosts[0], config)


async def test_a_user_who_must_come_by_tls_does(
    mysql: MySQL, database: str, user: str, authority: Authority
) -> None:
    mysql.query(f"ALTER USER {user}@'127.0.0.1' REQUIRE SSL")
    forget_all(mysql)
    await sign_in(config_of(mysql, database, user, tls=True, tls_ca_file=authority.file))
    plain = config_of(mysql, database, user, public_key=public_key(mysql.folder))
    with pytest.raises(MySQLError, match=r"1045.*mysql\.tls"):
        await Session.open(plain.hosts[0], plain)


async def test_a_password_is_rotated_with_both_valid_and_no_change_fails(
    stack_config: StackConfig, mysql: MySQL, database: str, user: str, way: dict[str, Any]
) -> None:
    """MySQL's dual passwords: the second is set, gateways take it over, the first is discarded."""
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
