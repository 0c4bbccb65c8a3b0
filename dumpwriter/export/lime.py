"""LiME: each run of pages behind a header of its own. Source: LiME, doc/README.md, version 1 of the header.

The format says nothing of the machine, and has no mark for a dump that is incomplete: a missing page is in no run.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, NamedTuple

from dumpwriter.export.export import Piece
from dumpwriter.export.pageindex import PageIndex
from dumpwriter.formats.region import PAGE_SIZE_BYTES
from vdisk.layout import Layout

if TYPE_CHECKING:
    from collections.abc import Iterable

    from dumpwriter.dumpfile.dump import Contents

MAGIC = b"EMiL"
VERSION = 1


class RangeHeader(NamedTuple):
    """lime_mem_range_header. `last_address` is the address of the last byte."""

    magic: Annotated[bytes, "4s"]
    version: Annotated[int, "I"]
    first_address: Annotated[int, "Q"]
    last_address: Annotated[int, "Q"]
    reserved: Annotated[bytes, "8s"]


RANGE_HEADER = Layout(RangeHeader, size_bytes=32)


class LimeLayout:
    """A `FixedLayout`."""

    def __init__(self, contents: Contents) -> None:
        self._present = PageIndex(contents.present)
        headers_bytes = len(self._present.runs) * RANGE_HEADER.size_bytes
        self.size_bytes = headers_bytes + self._present.page_count * PAGE_SIZE_BYTES

    def headers(self) -> Iterable[Piece]:
        for first_page, page_count in self._present.runs:
            start, end = first_page * PAGE_SIZE_BYTES, (first_page + page_count) * PAGE_SIZE_BYTES
            header = RANGE_HEADER.pack(RangeHeader(MAGIC, VERSION, start, end - 1, b""))
            yield Piece(self.file_offset_bytes(start) - RANGE_HEADER.size_bytes, header)

    def file_offset_bytes(self, physical_bytes: int) -> int:
        run = self._present.runs.find(physical_bytes // PAGE_SIZE_BYTES, 1)
        return self._present.offset_bytes(physical_bytes) + (run + 1) * RANGE_HEADER.size_bytes
