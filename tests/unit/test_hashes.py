"""The hashes of keys. (test_ring_nutcracker.py compares them with twemproxy itself.)"""

from __future__ import annotations

import binascii
import zlib
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from config.model import Hash
from sharding.ring.hashes import HASHES, bits, crc16, crc32, crc32a, fnv1_64, fnv1a_64

# Values for the key "apple", from twemproxy 0.5.0, src/test_all.c.
APPLE = {
    "one_at_a_time": 2297466611,
    "md5": 3195025439,
    "crc16": 3662830516,
    "crc32": 10542,
    "crc32a": 2838417488,
    "fnv1_32": 67176023,
    "fnv1a_32": 280767167,
    "fnv1_64": 473199127,
    "fnv1a_64": 1488911807,
    "hsieh": 3738850110,
    "jenkins": 1442444624,
    "murmur": 4142305122,
}


def test_every_hash_that_can_be_configured_exists() -> None:
    assert set(HASHES) == set(get_args(Hash)) == set(APPLE)


@pytest.mark.parametrize("name", HASHES)
def test_each_hash_gives_twemproxy_s_own_test_value(name: str) -> None:
    assert HASHES[name](b"apple") == APPLE[name]


@pytest.mark.parametrize(
    ("name", "signed"),
    [
        # Computed by hand for one byte, 0xff, which becomes 0xffffffff as a signed char.
        ("fnv1_64", (0x84222325 * 0x1B3 % 2**32) ^ 0xFFFFFFFF),
        ("fnv1a_64", (0x84222325 ^ 0xFFFFFFFF) * 0x1B3 % 2**32),
        ("fnv1_32", (0x811C9DC5 * 0x1000193 % 2**32) ^ 0xFFFFFFFF),
        ("fnv1a_32", (0x811C9DC5 ^ 0xFFFFFFFF) * 0x1000193 % 2**32),
    ],
)
def test_bytes_above_127_count_as_negative_numbers(name: str, signed: int) -> None:
    assert HASHES[name](b"\xff") == signed


def test_one_at_a_time_and_the_last_of_three_bytes_in_hsieh_count_bytes_as_negative_too() -> None:
    value = -1 * 0x401 % 2**32
    value ^= value >> 6
    value = value * 9 % 2**32
    value ^= value >> 11
    assert HASHES["one_at_a_time"](b"\xff") == value * 0x8001 % 2**32

    # src/hashkit/nc_hsieh.c, case 3, with its casts: the third byte is a `char`, the others not.
    value = 0xFFFF
    value ^= value << 16 & 0xFFFFFFFF
    value ^= (-1 << 18) & 0xFFFFFFFF
    value = value + (value >> 11) & 0xFFFFFFFF
    for shift, add in ((3, 5), (4, 17), (25, 6)):
        value ^= value << shift & 0xFFFFFFFF
        value = value + (value >> add) & 0xFFFFFFFF
    assert HASHES["hsieh"](b"\xff\xff\xff") == value


@given(st.binary(max_size=300))
def test_the_hash_of_any_key_is_within_the_hash_s_bits(key: bytes) -> None:
    for name, hash_ in HASHES.items():
        assert 0 <= hash_(key) < 1 << bits(name), name


@given(st.binary(max_size=300))
def test_the_crc_hashes_follow_from_the_standard_checksums(key: bytes) -> None:
    assert crc32a(key) == zlib.crc32(key)
    assert crc32(key) == zlib.crc32(key) >> 16 & 0x7FFF
    assert crc16(key) & 0xFFFF == binascii.crc_hqx(key, 0)


@given(st.binary(min_size=1, max_size=40))
def test_each_byte_changes_a_64_bit_fnv_hash_by_the_rule_of_fnv(key: bytes) -> None:
    *_, last = (byte - 256 if byte > 127 else byte for byte in key)
    before = key[:-1]
    assert fnv1_64(key) == (fnv1_64(before) * 0x100000001B3 ^ last) % 2**32
    assert fnv1a_64(key) == (fnv1a_64(before) ^ last) * 0x100000001B3 % 2**32
