"""Writes kdump-compressed files, good and bad, from makedumpfile's format notes; imports nothing of the product."""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import lzallright
import zstandard

if TYPE_CHECKING:
    from collections.abc import Callable

PAGE = 4096
RAW, ZLIB, LZO, SNAPPY, INCOMPLETE, ZSTD = 0, 1, 2, 4, 8, 0x20
HEADER_END = {1: 12, 2: 32, 3: 48, 4: 64, 5: 80, 6: 104}


def pack_page(page: bytes, kind: int) -> bytes:
    if kind == ZLIB:
        return zlib.compress(page, 1)
    if kind == LZO:
        return lzallright.LZOCompressor().compress(page)
    if kind == ZSTD:
        return zstandard.ZstdCompressor().compress(page)
    return page


@dataclass
class KdumpBuilder:
    """`pages` are those in the file; `memory` those that the machine had. What is not said follows from them."""

    pages: dict[int, bytes]
    memory: set[int] = field(default_factory=set)
    kind: int = ZLIB
    version: int = 6
    status: int = 0
    block_size: int = PAGE
    notes: bytes = b""
    vmcoreinfo: bytes = b""
    split: tuple[int, int] | None = None
    max_mapnr: int | None = None
    unwritten: set[int] = field(default_factory=set)
    share_zeros: bool = True
    pack: Callable[[bytes, int], bytes] = pack_page

    def build(self) -> bytes:
        last = max([*self.pages, *self.memory], default=-1) + 1
        end = last if self.max_mapnr is None else self.max_mapnr
        blocks = -(-last // (8 * PAGE))
        sub = self._sub_header(end) + self.notes + self.vmcoreinfo
        sub_blocks = -(-len(sub) // PAGE)
        front = self._header(end, sub_blocks, 2 * blocks).ljust(PAGE, b"\0") + sub.ljust(sub_blocks * PAGE, b"\0")
        bitmaps = self._bitmap(self.memory | set(self.pages), blocks) + self._bitmap(set(self.pages), blocks)
        return front + bitmaps + self._table_and_pages(len(front) + len(bitmaps))

    def _header(self, end: int, sub_blocks: int, bitmap_blocks: int) -> bytes:
        names = b"".join(name.ljust(65, b"\0") for name in (b"Linux", b"host", b"5.4", b"#1", b"x86_64", b"(none)"))
        numbers = (self.status | self.kind, self.block_size, sub_blocks, bitmap_blocks, end & 0xFFFFFFFF)
        start = struct.pack("<8sI390s6xQQ", b"KDUMP   ", self.version, names, 1_600_000_000, 0)
        return start + struct.pack("<10I", *numbers, len(self.memory), 0, len(self.pages), 0, 1)

    def _sub_header(self, end: int) -> bytes:
        """Fields that a version does not have are filled with what would do harm if it were believed."""
        first, last = self.split or (0, end)
        text_at, notes_at = PAGE + 104 + len(self.notes), PAGE + 104
        fields = struct.pack(
            "<qii12Q",
            *(0, 0, self.split is not None, first & 0xFFFFFFFF, last & 0xFFFFFFFF),
            *(text_at if self.vmcoreinfo else 0, len(self.vmcoreinfo), notes_at, len(self.notes)),
            *(0, 0, first, last, end, 0),
        )
        return fields[: HEADER_END[self.version]].ljust(104, b"\xee")

    def _bitmap(self, pages: set[int], blocks: int) -> bytes:
        bits = bytearray(blocks * PAGE)
        for page in pages:
            bits[page // 8] |= 1 << page % 8
        return bytes(bits)

    def _table_and_pages(self, table_at: int) -> bytes:
        described = sorted(page for page in self.pages if self.split is None or page in range(*self.split))
        zeros_at = table_at + 24 * len(described)
        table, bodies = b"", self.pack(bytes(PAGE), self.kind) if self.share_zeros else b""
        shared = len(bodies)
        for page in described:
            place, size, kind = zeros_at, shared, self.kind
            if page in self.unwritten:
                place, size, kind = 0, 0, 0
            elif any(self.pages[page]) or not self.share_zeros:
                stored = self.pack(self.pages[page], self.kind)
                if len(stored) >= PAGE:
                    stored, kind = self.pages[page], RAW
                place, size = zeros_at + len(bodies), len(stored)
                bodies += stored
            table += struct.pack("<QIIQ", place, size, kind, 0)
        return table + bodies
