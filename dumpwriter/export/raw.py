"""Raw memory: every byte of the file is the byte of that physical address. No header, so nothing says what is missing.

A page that is not there reads as zeros, and so do the gaps between ranges of RAM: the caller has to tell the user.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from dumpwriter.export.pageindex import PageIndex
from dumpwriter.formats.region import PAGE_SIZE_BYTES

if TYPE_CHECKING:
    from collections.abc import Iterable

    from dumpwriter.dumpfile.dump import Contents
    from dumpwriter.export.export import Piece


class RawLayout:
    """A `FixedLayout`, up to the last page of RAM."""

    def __init__(self, contents: Contents) -> None:
        self._present = PageIndex(contents.present)
        self.size_bytes = max(PageIndex(contents.memory).end_page, self._present.end_page) * PAGE_SIZE_BYTES

    def headers(self) -> Iterable[Piece]:
        return ()

    def file_offset_bytes(self, physical_bytes: int) -> int:
        self._present.offset_bytes(physical_bytes)
        return physical_bytes
