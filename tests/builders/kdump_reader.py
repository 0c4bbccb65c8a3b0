"""Reads a kdump-compressed file, plain or flattened. Written from makedumpfile's format notes; imports nothing of the
product."""

from __future__ import annotations

import struct
import zlib
from typing import TYPE_CHECKING, NamedTuple

import lzallright
import zstandard

if TYPE_CHECKING:
    from collections.abc import Callable

PAGE = 4096


class Descriptor(NamedTuple):
    offset: int
    size: int
    flags: int
    page_flags: int


class KdumpFile:
    """A file in memory. Reading a page that it does not hold is a KeyError."""

    def __init__(self, content: bytes) -> None:
        if content[:8] != b"KDUMP   ":
            raise ValueError("not a kdump-compressed file")
        self.content = content
        (self.version,) = struct.unpack_from("<I", content, 8)
        self.system_names = [content[at : at + 65].rstrip(b"\0") for at in range(12, 402, 65)]
        self.crash_seconds, _, self.status, self.block_size, sub_blocks, bitmap_blocks, self.max_mapnr_32 = (
            struct.unpack_from("<QQIiiII", content, 408)
        )
        self.cpu_count = struct.unpack_from("<i", content, 460)[0]
        self.phys_base, self.dump_level, self.split = struct.unpack_from("<qii", content, 4096)
        self._vmcoreinfo = struct.unpack_from("<QQ", content, 4128)
        self._notes = struct.unpack_from("<QQ", content, 4144)
        (self.max_mapnr,) = struct.unpack_from("<Q", content, 4192)
        bitmaps = (1 + sub_blocks) * self.block_size
        half = bitmap_blocks // 2 * self.block_size
        if half * 8 < self.max_mapnr:
            raise ValueError(f"bitmaps of {half} bytes for {self.max_mapnr} pages")
        self.memory = _bits(content[bitmaps : bitmaps + half])
        self.dumped = _bits(content[bitmaps + half : bitmaps + 2 * half])
        first, end = struct.unpack_from("<QQ", content, 4176) if self.split else (0, self.max_mapnr)
        self.described = [page for page in self.dumped if first <= page < end]
        self._ranks = {page: rank for rank, page in enumerate(self.described)}
        self._table = bitmaps + 2 * half

    def vmcoreinfo(self) -> bytes:
        return self._slice(*self._vmcoreinfo)

    def notes(self) -> bytes:
        return self._slice(*self._notes)

    def descriptor(self, page: int) -> Descriptor:
        return Descriptor(*struct.unpack_from("<QIIQ", self.content, self._table + 24 * self._ranks[page]))

    def page(self, page: int) -> bytes:
        offset, size, flags, _ = self.descriptor(page)
        content = DECOMPRESS[flags](self._slice(offset, size))
        if len(content) != PAGE:
            raise ValueError(f"page {page:#x} has {len(content)} bytes")
        return content

    def _slice(self, offset: int, size: int) -> bytes:
        if offset + size > len(self.content):
            raise ValueError(f"{size} bytes at {offset} are not in the file")
        return self.content[offset : offset + size]


def _bits(bitmap: bytes) -> list[int]:
    return [byte * 8 + bit for byte, value in enumerate(bitmap) if value for bit in range(8) if value >> bit & 1]


def _raw(content: bytes) -> bytes:
    return content


def _lzo(content: bytes) -> bytes:
    return lzallright.LZOCompressor.decompress(content, PAGE)


DECOMPRESS: dict[int, Callable[[bytes], bytes]] = {
    0: _raw,
    1: zlib.decompress,
    2: _lzo,
    0x20: zstandard.ZstdDecompressor().decompress,
}


def rearranged(flattened: bytes) -> bytes:
    """The file that a flattened one describes."""
    if flattened[:13] != b"makedumpfile\0" or struct.unpack_from(">QQ", flattened, 16) != (1, 1):
        raise ValueError("not a flattened file")
    content, position = bytearray(), PAGE
    while True:
        offset, size = struct.unpack_from(">qq", flattened, position)
        position += 16
        if offset == size == -1:
            break
        content.extend(bytes(max(0, offset + size - len(content))))
        content[offset : offset + size] = flattened[position : position + size]
        position += size
    if position != len(flattened):
        raise ValueError("bytes behind the end of a flattened file")
    return bytes(content)


def dumped_pages(content: bytes) -> set[int]:
    """The numbers of the pages in the second bitmap, the one of what was written."""
    return set(KdumpFile(content).dumped)
