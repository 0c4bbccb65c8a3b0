"""Reads a 64-bit Windows crash dump, full or bitmap. Written from the structure tables of volatility3; imports nothing
of the product."""

from __future__ import annotations

import struct

PAGE = 4096


class PageDumpFile:
    """A file in memory. Reading a page that it does not hold is a KeyError."""

    def __init__(self, content: bytes) -> None:
        if content[:8] != b"PAGEDU64":
            raise ValueError("not a 64-bit Windows crash dump")
        self.content = content
        (self.directory_table_base,) = struct.unpack_from("<Q", content, 16)
        self.machine, self.processors, self.bugcheck_code = struct.unpack_from("<III", content, 48)
        self.bugcheck_parameters = struct.unpack_from("<4Q", content, 64)
        run_count, self.page_count = struct.unpack_from("<I4xQ", content, 136)
        if run_count > 42:
            raise ValueError(f"{run_count} runs")
        self.runs = [struct.unpack_from("<QQ", content, 152 + 16 * run) for run in range(run_count)]
        self.context = content[840:3840]
        self.kind, self.required_size, self.system_time = struct.unpack_from("<I4xQQ", content, 3992)
        self.comment = content[4016:4144].rstrip(b"\0")
        first_page_at, pages = {1: self._full, 5: self._bitmap}[self.kind]()
        self._places = {page: first_page_at + rank * PAGE for rank, page in enumerate(pages)}
        if first_page_at + len(pages) * PAGE != len(content):
            raise ValueError(f"{len(pages)} pages in a file of {len(content)} bytes")

    def _full(self) -> tuple[int, list[int]]:
        return 0x2000, [page for start, count in self.runs for page in range(start, start + count)]

    def _bitmap(self) -> tuple[int, list[int]]:
        if self.content[0x2000:0x2008] != b"FDMPDUMP":
            raise ValueError("no bitmap")
        first_page_at, present, bits = struct.unpack_from("<QQQ", self.content, 0x2020)
        bitmap = self.content[0x2038 : 0x2038 + (bits + 7) // 8]
        pages = [byte * 8 + bit for byte, value in enumerate(bitmap) if value for bit in range(8) if value >> bit & 1]
        if len(pages) != present:
            raise ValueError(f"{len(pages)} pages, but {present} are told")
        return first_page_at, pages

    def pages(self) -> list[int]:
        return list(self._places)

    def page(self, page: int) -> bytes:
        place = self._places[page]
        return self.content[place : place + PAGE]
