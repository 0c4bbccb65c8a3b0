"""kdump-compressed dump files: each page compressed for itself, as makedumpfile writes them.

Pages are appended in the order in which they come. Their descriptors have fixed places, by the rank of a page among
those present, so they are written beside the pages and never kept. All pages of zeros share one stored page. A missing
page is not in the second bitmap, so readers report it as excluded instead of showing zeros.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from dumpwriter.export import kdump_format as kdump
from dumpwriter.export.export import Piece, Prepared
from dumpwriter.export.notes import vmcoreinfo_number, vmcoreinfo_place, why_unreadable
from dumpwriter.export.pageindex import PageIndex
from dumpwriter.formats.region import PAGE_SIZE_BYTES

if TYPE_CHECKING:
    from collections.abc import Iterable

    from dumpwriter.dumpfile.dump import Contents
    from dumpwriter.export.about import About
    from dumpwriter.export.compression import Compress, Compression
    from dumpwriter.formats.region import PageRun

_PAGE_WORDS = PAGE_SIZE_BYTES // 8
_ZEROS_AT_ONCE = 1 << 15
_U32_MAX = 0xFFFF_FFFF


class KdumpExport:
    """An `Export`. Notes that do not parse are left out, and `notes_dropped` says why."""

    def __init__(self, contents: Contents, about: About, compression: Compression) -> None:
        self.notes_dropped = why_unreadable(contents.notes)
        self._notes = b"" if self.notes_dropped else contents.notes
        self._is_partial = contents.is_partial
        self._about = about
        self._compression = compression
        self._memory, self._present = PageIndex(contents.memory), PageIndex(contents.present)
        self._end_page = max(self._memory.end_page, self._present.end_page)
        self._sub_header_blocks = _blocks(kdump.SUB_HEADER.size_bytes + len(self._notes))
        self._blocks_per_bitmap = _blocks(-(-self._end_page // 8))
        self._bitmaps_offset_bytes = kdump.SUB_HEADER_OFFSET_BYTES + self._sub_header_blocks * kdump.BLOCK_SIZE_BYTES
        self._table_offset_bytes = self._bitmaps_offset_bytes + 2 * self._bitmap_bytes
        self._zero_page_offset_bytes = self._place_of_descriptor(self._present.page_count)
        self._end_bytes = self._zero_page_offset_bytes + PAGE_SIZE_BYTES

    @property
    def size_bytes(self) -> int:
        return self._end_bytes

    @property
    def _bitmap_bytes(self) -> int:
        return self._blocks_per_bitmap * kdump.BLOCK_SIZE_BYTES

    def _place_of_descriptor(self, rank: int) -> int:
        return self._table_offset_bytes + rank * kdump.PAGE_DESCRIPTOR.itemsize

    def begin(self) -> Iterable[Piece]:
        yield Piece(0, kdump.DUMP_HEADER.pack(self._dump_header()))
        yield Piece(kdump.SUB_HEADER_OFFSET_BYTES, kdump.SUB_HEADER.pack(self._sub_header()) + self._notes)
        for number, pages in enumerate((self._memory, self._present)):
            for offset_bytes, bits in pages.bitmap():
                yield Piece(self._bitmaps_offset_bytes + number * self._bitmap_bytes + offset_bytes, bits)
        yield Piece(self._zero_page_offset_bytes, bytes(PAGE_SIZE_BYTES))

    def _dump_header(self) -> kdump.DumpHeader:
        names = b"".join(
            name[: kdump.SYSTEM_NAME_SIZE_BYTES - 1].ljust(kdump.SYSTEM_NAME_SIZE_BYTES, b"\0")
            for name in self._about.system_names
        )
        return kdump.DumpHeader(
            signature=kdump.SIGNATURE,
            header_version=kdump.HEADER_VERSION,
            system_names=names,
            padding=b"",
            crash_seconds=self._about.crash_seconds,
            crash_microseconds=0,
            status=self._compression.flag | self._is_partial * kdump.Flag.INCOMPLETE,
            block_size_bytes=kdump.BLOCK_SIZE_BYTES,
            sub_header_blocks=self._sub_header_blocks,
            bitmap_blocks=2 * self._blocks_per_bitmap,
            max_mapnr=min(self._end_page, _U32_MAX),
            total_ram_blocks=min(self._memory.page_count, _U32_MAX),
            device_blocks=0,
            written_blocks=min(self._present.page_count, _U32_MAX),
            current_cpu=0,
            cpu_count=self._about.cpu_count,
        )

    def _sub_header(self) -> kdump.SubHeader:
        notes_offset_bytes = kdump.SUB_HEADER_OFFSET_BYTES + kdump.SUB_HEADER.size_bytes
        vmcoreinfo_offset_bytes, vmcoreinfo_size_bytes = vmcoreinfo_place(self._notes)
        return kdump.SubHeader(
            phys_base=vmcoreinfo_number(self._notes, b"NUMBER(phys_base)"),
            dump_level=self._about.dump_level,
            is_split=0,
            start_page_32=0,
            end_page_32=0,
            vmcoreinfo_offset_bytes=(notes_offset_bytes + vmcoreinfo_offset_bytes) * bool(vmcoreinfo_size_bytes),
            vmcoreinfo_size_bytes=vmcoreinfo_size_bytes,
            notes_offset_bytes=notes_offset_bytes * bool(self._notes),
            notes_size_bytes=len(self._notes),
            erase_info_offset_bytes=0,
            erase_info_size_bytes=0,
            start_page=0,
            end_page=self._end_page,
            max_mapnr=self._end_page,
        )

    def prepare(self, first_page: int, content: memoryview) -> Prepared:
        """Find the pages of zeros and compress the others; what does not shrink stays as it is."""
        compress = self._compression.compressor()
        has_data = np.frombuffer(content, np.uint64).reshape(-1, _PAGE_WORDS).any(axis=1)
        places = np.flatnonzero(has_data) * PAGE_SIZE_BYTES
        stored = [_smaller(compress, content[place : place + PAGE_SIZE_BYTES]) for place in places.tolist()]
        sizes = np.zeros(has_data.size, np.uint32)
        sizes[has_data] = [len(page) for page in stored]
        return Prepared(first_page, b"".join(stored), sizes)

    def data(self, prepared: Prepared) -> Iterable[Piece]:
        sizes = prepared.sizes_bytes
        is_stored = sizes > 0
        ends = self._end_bytes + np.cumsum(sizes, dtype=np.uint64)
        descriptors = np.zeros(sizes.size, kdump.PAGE_DESCRIPTOR)
        descriptors["offset_bytes"] = np.where(is_stored, ends - sizes, self._zero_page_offset_bytes)
        descriptors["size_bytes"] = np.where(is_stored, sizes, PAGE_SIZE_BYTES)
        descriptors["flags"] = np.where(descriptors["size_bytes"] < PAGE_SIZE_BYTES, self._compression.flag, 0)
        rank = self._present.rank(prepared.first_page, sizes.size)
        content_offset_bytes, self._end_bytes = self._end_bytes, int(ends[-1])
        yield Piece(self._place_of_descriptor(rank), descriptors.tobytes())
        if is_stored.any():
            yield Piece(content_offset_bytes, prepared.content)

    def zeros(self, run: PageRun) -> Iterable[Piece]:
        rank = self._present.rank(*run)
        descriptors = np.zeros(min(run.page_count, _ZEROS_AT_ONCE), kdump.PAGE_DESCRIPTOR)
        descriptors["offset_bytes"] = self._zero_page_offset_bytes
        descriptors["size_bytes"] = PAGE_SIZE_BYTES
        for done in range(0, run.page_count, _ZEROS_AT_ONCE):
            yield Piece(self._place_of_descriptor(rank + done), descriptors[: run.page_count - done].tobytes())

    def finish(self) -> Iterable[Piece]:
        return ()


def _smaller(compress: Compress, page: memoryview) -> bytes | memoryview:
    compressed = compress(page)
    return compressed if len(compressed) < PAGE_SIZE_BYTES else page


def _blocks(size_bytes: int) -> int:
    return -(-size_bytes // kdump.BLOCK_SIZE_BYTES)
