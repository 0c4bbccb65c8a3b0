"""Small good files of each format, and which of their bytes say something: headers, tables, bitmaps, packed pages."""

from __future__ import annotations

import random
from functools import cache
from typing import NamedTuple

from tests.builders.elf_writer import NOTE, ElfCoreBuilder, Piece, note
from tests.builders.flattened_writer import cut_up, flattened
from tests.builders.kdump_writer import INCOMPLETE, LZO, RAW, ZLIB, ZSTD, KdumpBuilder
from tests.builders.lime_writer import LimeRange
from tests.builders.pagedump_writer import BITMAP, PagedumpBuilder

PAGE = 4096
REACH_BYTES = 16  # around a byte that is not zero: the rest of its field, and the next one


class Seed(NamedTuple):
    """`places` are the offsets of the bytes that are worth a change, in order."""

    content: bytes
    places: tuple[int, ...]


def _seed(content: bytes, *bulk: bytes) -> Seed:
    """Bulk is content whose inside says nothing to a reader."""
    told = bytearray(content)
    for part in bulk:
        at = content.find(part)
        while at >= 0:
            told[at : at + len(part)] = bytes(len(part))
            at = content.find(part, at + len(part))
    near: set[int] = set()
    for at, byte in enumerate(told):
        if byte:
            near.update(range(at - REACH_BYTES, at + REACH_BYTES))
    return Seed(content, tuple(sorted(place for place in near if 0 <= place < len(content))))


NOTES = note(b"CORE", 1, b"r" * 36) + note(b"VMCOREINFO", 0, b"OSRELEASE=5.4\nPAGESIZE=4096\n")
RANDOM_PAGE = random.Random(6).randbytes(PAGE)
PAGES = {1: b"text " * 819 + b"!", 2: bytes(PAGE), 3: bytes(PAGE), 5: RANDOM_PAGE, 900: b"\1" * PAGE}


@cache
def elf() -> tuple[Seed, ...]:
    plain = [Piece(PAGE, PAGES[1]), Piece(0x10_0000, RANDOM_PAGE, in_memory=3 * PAGE)]
    ragged = [Piece(100, b"a" * 5000), Piece(PAGE, b"b" * 3000), Piece(9000, b"c" * 30)]
    extended = ElfCoreBuilder(plain, header_count=0xFFFF, extended_count=2)
    cores = (ElfCoreBuilder([Piece(0, NOTES, NOTE), *plain]), ElfCoreBuilder(ragged), extended)
    return tuple(_seed(core.build(), RANDOM_PAGE, PAGES[1], b"a" * 5000, b"b" * 3000) for core in cores)


@cache
def kdump() -> tuple[Seed, ...]:
    memory = {*range(8), *range(900, 910)}
    builders = (
        *(KdumpBuilder(PAGES, memory, kind, notes=NOTES) for kind in (ZLIB, LZO, ZSTD, RAW)),
        KdumpBuilder(PAGES, memory, status=INCOMPLETE, unwritten={3}),
        KdumpBuilder(PAGES, memory, split=(2, 900)),
        *(KdumpBuilder(PAGES, memory, version=version, vmcoreinfo=b"OSRELEASE=3\n") for version in (1, 3)),
    )
    return tuple(_seed(builder.build(), RANDOM_PAGE, PAGES[1], PAGES[900]) for builder in builders)


@cache
def pagedump() -> tuple[Seed, ...]:
    builders = PagedumpBuilder(PAGES), PagedumpBuilder(PAGES, BITMAP, runs=[(0, 8), (800, 200)])
    return tuple(_seed(builder.build(), RANDOM_PAGE, PAGES[1], PAGES[900]) for builder in builders)


@cache
def lime() -> tuple[Seed, ...]:
    ranges = LimeRange(PAGE, PAGES[1]), LimeRange(9 * PAGE + 5, b"inside"), LimeRange(5 * PAGE, RANDOM_PAGE)
    return (_seed(b"".join(part.build() for part in ranges), RANDOM_PAGE, PAGES[1]),)


@cache
def flat() -> tuple[Seed, ...]:
    plain = (elf()[0].content, 3000), (kdump()[0].content, 5000), (lime()[0].content, 700)
    files = (flattened([(0, b"twice" * 20), *reversed(cut_up(content, piece))]) for content, piece in plain)
    parts = (RANDOM_PAGE[at : at + 64] for at in range(0, PAGE, 64))
    bulk = (PAGES[1][:640], PAGES[1][:60], *parts)  # the borders of records are anywhere in the pages
    return tuple(_seed(file, *bulk) for file in files)
