"""A fuzzer's bytes as a program that edits a good file where it says something.

Random bytes in a file of 20 KiB, nearly all of which are zeros or pages, find nothing. A program of a few bytes is what
a fuzzer is good at changing, and what it found is small enough to keep.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from tests.fuzz.seeds import Seed

STEP = struct.Struct("<BHQ")  # which edit, where, with which value
STEPS_MAXIMUM = 16
TELLING = (
    *(0, 1, 2, 7, 8, 23, 24, 31, 32, 4095, 4096, 4097, 8192, 0xFFFE, 0xFFFF, 0x10000),
    *((1 << bits) + by for bits in (20, 31, 32, 40, 52, 62, 63) for by in (-1, 0, 1)),
    *((1 << 64) - by for by in (1, 8, 4096)),
)


def edited(seeds: Sequence[Seed], program: bytes) -> bytes:
    """The first byte chooses the file; the rest are steps, the last of which may be cut."""
    seed = seeds[program[0] % len(seeds)] if program else seeds[0]
    content = bytearray(seed.content)
    for start in range(1, min(len(program), STEPS_MAXIMUM * STEP.size), STEP.size):
        kind, where, value = STEP.unpack(program[start : start + STEP.size].ljust(STEP.size, b"\0"))
        place = seed.places[where % len(seed.places)]
        _EDITS[kind % len(_EDITS)](content, place, value)
    return bytes(content)


def _put(size: int) -> Callable[[bytearray, int, int], None]:
    def put(content: bytearray, place: int, value: int) -> None:
        content[place : place + size] = (value & (1 << 8 * size) - 1).to_bytes(size, "little")

    return put


def _telling(size: int) -> Callable[[bytearray, int, int], None]:
    def put(content: bytearray, place: int, value: int) -> None:
        numbers = (*TELLING, len(content), len(content) - 1, len(content) + 1, place)
        content[place : place + size] = (numbers[value % len(numbers)] & (1 << 8 * size) - 1).to_bytes(size, "little")

    return put


def _telling_backwards(content: bytearray, place: int, value: int) -> None:
    content[place : place + 8] = TELLING[value % len(TELLING)].to_bytes(8, "big")


def _flip(content: bytearray, place: int, value: int) -> None:
    if place < len(content):
        content[place] ^= 1 << value % 8


def _add(content: bytearray, place: int, value: int) -> None:
    number = int.from_bytes(content[place : place + 4], "little") + value % 512 - 256
    content[place : place + 4] = (number & 0xFFFF_FFFF).to_bytes(4, "little")


def _cut(content: bytearray, place: int, value: int) -> None:
    del content[place + value % 3 :]


def _extend(content: bytearray, place: int, value: int) -> None:
    content += bytes(value % 65536)


def _copy(content: bytearray, place: int, value: int) -> None:
    source, size = value % (len(content) or 1), value >> 48 & 0x7F
    content[place : place + size] = content[source : source + size]


_EDITS = (_flip, _put(1), _put(2), _put(4), _put(8), _telling(4), _telling(8), _telling_backwards, _add, _cut, _extend,
          _copy)  # fmt: skip
FLIP, PUT_TELLING, CUT = _EDITS.index(_flip), 6, _EDITS.index(_cut)
