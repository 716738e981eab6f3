"""twemproxy's twelve key hashes, value for value.

Source: twemproxy 0.5.0, src/hashkit/. All return an unsigned 32-bit number. Where they differ from
what their names say, they differ here too, because twemproxy placed existing keys that way:

- `char` is signed where twemproxy is built (amd64): fnv*, one_at_a_time and hsieh's last byte see a
  byte above 127 as a negative number.
- `fnv1a_64` starts from the low half of the 64-bit offset and works on 32 bits. (`fnv1_64` works on
  64 and returns the low half, which is the same arithmetic.)
- `crc32` returns 15 bits of the checksum, as libmemcached did; `crc32a` is the whole CRC-32.
- `crc16` is CRC-16/XMODEM in a register of 32 bits that is never cut to 16.
- `murmur` is MurmurHash2 with a seed made from the length, `jenkins` is lookup3 with 13 as initval.
"""

from __future__ import annotations

import binascii
import hashlib
import struct
import zlib
from collections.abc import Callable, Iterable

_MASK = 0xFFFFFFFF
_SIGNED = tuple(byte if byte < 128 else byte | 0xFFFFFF00 for byte in range(256))


def _chars(key: bytes) -> Iterable[int]:
    """The key's bytes as C's signed `char`s, widened to 32 bits."""
    return key if key.isascii() else [_SIGNED[byte] for byte in key]


def fnv1_64(key: bytes) -> int:
    value = 0x84222325
    for char in _chars(key):
        value = (value * 0x1B3 & _MASK) ^ char
    return value


def fnv1a_64(key: bytes) -> int:
    # The default hash, computed for every request: written for speed.
    value = 0x84222325
    for char in key if key.isascii() else _chars(key):
        value = (value ^ char) * 0x1B3 & 0xFFFFFFFF
    return value


def fnv1_32(key: bytes) -> int:
    value = 0x811C9DC5
    for char in _chars(key):
        value = (value * 0x01000193 & _MASK) ^ char
    return value


def fnv1a_32(key: bytes) -> int:
    value = 0x811C9DC5
    for char in _chars(key):
        value = (value ^ char) * 0x01000193 & _MASK
    return value


def one_at_a_time(key: bytes) -> int:
    value = 0
    for char in _chars(key):
        value = (value + char) * 0x401 & _MASK
        value ^= value >> 6
    value = value * 9 & _MASK
    value ^= value >> 11
    return value * 0x8001 & _MASK


def md5(key: bytes) -> int:
    return int.from_bytes(hashlib.md5(key, usedforsecurity=False).digest()[:4], "little")


_CRC16 = tuple(binascii.crc_hqx(bytes((byte,)), 0) for byte in range(256))


def crc16(key: bytes) -> int:
    value = 0
    for byte in key:
        value = (value << 8 & _MASK) ^ _CRC16[(value >> 8 ^ byte) & 0xFF]
    return value


def crc32(key: bytes) -> int:
    return zlib.crc32(key) >> 16 & 0x7FFF


def crc32a(key: bytes) -> int:
    return zlib.crc32(key)


def hsieh(key: bytes) -> int:
    if not key:
        return 0
    value = 0
    whole = len(key) & ~3
    for low, high in struct.iter_unpack("<HH", key[:whole]):
        value = value + low & _MASK
        value = (value << 16 & _MASK) ^ (high << 11) ^ value
        value = value + (value >> 11) & _MASK
    rest = key[whole:]
    if len(rest) == 3:
        value = value + (rest[0] | rest[1] << 8) & _MASK
        value ^= value << 16 & _MASK
        value ^= _SIGNED[rest[2]] << 18 & _MASK
        value = value + (value >> 11) & _MASK
    elif len(rest) == 2:
        value = value + (rest[0] | rest[1] << 8) & _MASK
        value ^= value << 11 & _MASK
        value = value + (value >> 17) & _MASK
    elif rest:
        value = value + rest[0] & _MASK
        value ^= value << 10 & _MASK
        value = value + (value >> 1) & _MASK
    value ^= value << 3 & _MASK
    value = value + (value >> 5) & _MASK
    value ^= value << 4 & _MASK
    value = value + (value >> 17) & _MASK
    value ^= value << 25 & _MASK
    return value + (value >> 6) & _MASK


def murmur(key: bytes) -> int:
    m = 0x5BD1E995
    value = (0xDEADBEEF * len(key) ^ len(key)) & _MASK
    whole = len(key) & ~3
    for (word,) in struct.iter_unpack("<I", key[:whole]):
        word = word * m & _MASK
        word = (word ^ word >> 24) * m & _MASK
        value = (value * m & _MASK) ^ word
    if rest := key[whole:]:
        value = (value ^ int.from_bytes(rest, "little")) * m & _MASK
    value = (value ^ value >> 13) * m & _MASK
    return value ^ value >> 15


def _rotate(value: int, bits: int) -> int:
    return (value << bits | value >> (32 - bits)) & _MASK


def jenkins(key: bytes) -> int:
    a = b = c = 0xDEADBEEF + len(key) + 13 & _MASK
    if not key:
        return c
    # A short last block is padded with zeros; it gets the final step only, without a mix.
    words: list[tuple[int, int, int]]
    words = list(struct.iter_unpack("<III", key + bytes(-len(key) % 12)))
    *blocks, last = words
    for x, y, z in blocks:
        a, b, c = a + x & _MASK, b + y & _MASK, c + z & _MASK
        a = (a - c & _MASK) ^ _rotate(c, 4)
        c = c + b & _MASK
        b = (b - a & _MASK) ^ _rotate(a, 6)
        a = a + c & _MASK
        c = (c - b & _MASK) ^ _rotate(b, 8)
        b = b + a & _MASK
        a = (a - c & _MASK) ^ _rotate(c, 16)
        c = c + b & _MASK
        b = (b - a & _MASK) ^ _rotate(a, 19)
        a = a + c & _MASK
        c = (c - b & _MASK) ^ _rotate(b, 4)
        b = b + a & _MASK
    a, b, c = a + last[0] & _MASK, b + last[1] & _MASK, c + last[2] & _MASK
    c = (c ^ b) - _rotate(b, 14) & _MASK
    a = (a ^ c) - _rotate(c, 11) & _MASK
    b = (b ^ a) - _rotate(a, 25) & _MASK
    c = (c ^ b) - _rotate(b, 16) & _MASK
    a = (a ^ c) - _rotate(c, 4) & _MASK
    b = (b ^ a) - _rotate(a, 14) & _MASK
    return (c ^ b) - _rotate(b, 24) & _MASK


HASHES: dict[str, Callable[[bytes], int]] = {
    hash_.__name__: hash_
    for hash_ in (
        *(one_at_a_time, md5, crc16, crc32, crc32a, fnv1_64, fnv1a_64, fnv1_32, fnv1a_32),
        *(hsieh, murmur, jenkins),
    )
}
"""The hashes by their names in twemproxy's `hash:`."""


def bits(name: str) -> int:
    """How many bits the values of a hash have."""
    return 15 if name == "crc32" else 32
