"""Writes 64-bit Windows crash dumps, good and bad, from the layouts that their readers publish; imports nothing of the
product."""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

PAGE = 4096
FULL, KERNEL, BITMAP = 1, 2, 5


@dataclass
class PagedumpBuilder:
    """`runs` are those of the header. What is not said follows from the pages."""

    pages: dict[int, bytes]
    kind: int = FULL
    runs: list[tuple[int, int]] = field(default_factory=list)
    run_count: int | None = None
    bitmap_magic: bytes = b"FDMPDUMP"
    bitmap_pages: int | None = None
    present_pages: int | None = None
    comment: bytes = b""

    def build(self) -> bytes:
        body = b"".join(self.pages[page] for page in sorted(self.pages))
        return self._header() + (self._bitmap() if self.kind in (KERNEL, BITMAP) else b"") + body

    def _header(self) -> bytes:
        runs = self.runs or runs_of(self.pages)
        count = len(runs) if self.run_count is None else self.run_count
        content = bytearray(0x2000)
        struct.pack_into("<8sII", content, 0, b"PAGEDU64", 15, 19041)
        struct.pack_into("<III", content, 0x30, 0x8664, 1, 0xE2)
        struct.pack_into("<I4xQ", content, 0x88, count, sum(length for _, length in runs))
        for index, run in enumerate(runs[:42]):
            struct.pack_into("<QQ", content, 0x98 + 16 * index, *run)
        struct.pack_into("<I", content, 0xF98, self.kind)
        struct.pack_into("<128s", content, 0xFB0, self.comment)
        return bytes(content)

    def _bitmap(self) -> bytes:
        size = (max(self.pages) // 64 + 1) * 8
        bits = bytearray(size)
        for page in self.pages:
            bits[page // 8] |= 1 << page % 8
        first_page_at = 0x2000 + -(-(0x38 + size) // PAGE) * PAGE
        present = len(self.pages) if self.present_pages is None else self.present_pages
        told = size * 8 if self.bitmap_pages is None else self.bitmap_pages
        header = struct.pack("<8s24xQQQ", self.bitmap_magic, first_page_at, present, told)
        return (header + bits).ljust(first_page_at - 0x2000, b"\0")


def runs_of(pages: Iterable[int]) -> list[tuple[int, int]]:
    """Pages as (first page, count), ascending."""
    found: list[tuple[int, int]] = []
    for page in sorted(pages):
        if found and sum(found[-1]) == page:
            found[-1] = (found[-1][0], found[-1][1] + 1)
        else:
            found.append((page, 1))
    return found
