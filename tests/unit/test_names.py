"""Look-ups of names: one at a time for each name, and the last good addresses meanwhile."""

from __future__ import annotations

import asyncio
import socket
import threading

import pytest

from failover.dns import Names, connect_by_name


class Resolver:
    """Answers while `answers` is set, and counts the look-ups."""

    def __init__(self) -> None:
        self.addresses: tuple[str, ...] = ("192.0.2.1",)
        self.fails = False
        self.answers = threading.Event()
        self.answers.set()
        self.asked = 0

    def __call__(self, host: str) -> tuple[str, ...]:
        self.asked += 1
        assert self.answers.wait(10)
        if self.fails:
            raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")
        return self.addresses


@pytest.fixture
def resolver() -> Resolver:
    return Resolver()


async def test_all_who_look_up_a_name_wait_for_one_look_up(resolver: Resolver) -> None:
    names = Names(resolver)
    resolver.answers.clear()
    waiting = [asyncio.create_task(names.look_up("db")) for _ in range(20)]
    await asyncio.sleep(0)
    waiting[0].cancel()
    await asyncio.sleep(0)
    resolver.answers.set()
    assert set(await asyncio.gather(*waiting[1:])) == {("192.0.2.1",)}
    assert resolver.asked == 1


async def test_the_last_good_addresses_are_used_while_a_look_up_does_not_answer(
    resolver: Resolver,
) -> None:
    names = Names(resolver)
    await names.look_up("db")
    resolver.answers.clear()
    for _ in range(20):
        assert await names.look_up("db", patience=0.001) == ("192.0.2.1",)
    assert resolver.asked == 2
    resolver.answers.set()


async def test_the_last_good_addresses_are_used_while_look_ups_fail(resolver: Resolver) -> None:
    names = Names(resolver)
    await names.look_up("db")
    resolver.fails = True
    assert await names.look_up("db") == ("192.0.2.1",)


async def test_the_next_connect_uses_a_name_s_new_address(resolver: Resolver) -> None:
    names = Names(resolver)
    await names.look_up("db")
    resolver.addresses = ("192.0.2.2",)
    assert await names.look_up("db", patience=10) == ("192.0.2.2",)


async def test_a_name_without_a_good_address_fails_with_the_look_up_s_error(
    resolver: Resolver,
) -> None:
    resolver.fails = True
    with pytest.raises(socket.gaierror):
        await Names(resolver).look_up("db")


async def test_addresses_are_not_looked_up(resolver: Resolver) -> None:
    names = Names(resolver)
    assert await names.look_up("192.0.2.7") == ("192.0.2.7",)
    assert await names.look_up("2001:db8::7") == ("2001:db8::7",)
    assert resolver.asked == 0


async def test_a_host_is_reached_at_any_of_its_addresses(
    monkeypatch: pytest.MonkeyPatch, resolver: Resolver
) -> None:
    resolver.addresses = ("192.0.2.1", "192.0.2.2")
    monkeypatch.setattr("failover.dns.NAMES", Names(resolver))

    async def connect(address: str) -> str:
        if address == "192.0.2.1":
            raise ConnectionRefusedError
        return address

    assert await connect_by_name("db", connect) == "192.0.2.2"
