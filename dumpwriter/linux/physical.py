"""Physical memory as the modules of this package read it, and the pages of a dump as such a memory."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Protocol

from dumpwriter.dumpfile.pageruns import PageRuns
from dumpwriter.formats.region import PAGE_SIZE_BYTES
from vdisk.errors import PageMissingError

if TYPE_CHECKING:
    from dumpwriter.dumpfile.dump import Dump

CACHED_PAGES = 512  # page tables and descriptors are read a few bytes at a time


class PhysicalReader(Protocol):
    """All that this package wants to know of a dump."""

    def read_physical(self, address: int, length_bytes: int) -> bytes:
        """Raises `PageMissingError` where the dump lacks a page of it. The caller bounds the length."""


class PageReader(PhysicalReader, Protocol):
    """One whose size is known, for those who look at every page."""

    @property
    def page_count(self) -> int:
        """How many pages it holds."""


class DumpMemory:
    """The pages of a dump."""

    def __init__(self, dump: Dump) -> None:
        self._dump = dump
        self._page = lru_cache(CACHED_PAGES)(self._read_page)

    @property
    def page_count(self) -> int:
        return PageRuns.of(self._dump.contents.present).page_count

    def read_physical(self, address: int, length_bytes: int) -> bytes:
        first_page, inside_bytes = divmod(address, PAGE_SIZE_BYTES)
        if inside_bytes + length_bytes <= PAGE_SIZE_BYTES:
            return self._page(first_page)[inside_bytes : inside_bytes + length_bytes]
        page_count = -(-(inside_bytes + length_bytes) // PAGE_SIZE_BYTES)
        return self._read_pages(first_page, page_count)[inside_bytes : inside_bytes + length_bytes]

    def _read_page(self, page: int) -> bytes:
        return self._read_pages(page, 1)

    def _read_pages(self, first_page: int, page_count: int) -> bytes:
        content = bytearray(page_count * PAGE_SIZE_BYTES)
        try:
            self._dump.read_into(first_page, memoryview(content))
        except ValueError:
            pages = "the page" if page_count == 1 else f"all {page_count} pages"
            place = f"{first_page * PAGE_SIZE_BYTES:#x}"
            raise PageMissingError(f"the dump does not hold {pages} at {place}") from None
        return bytes(content)
