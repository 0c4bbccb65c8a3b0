"""Reads Windows crash dumps of 64-bit machines: full ones, and those with a bitmap of the pages that they hold.

Of a Linux machine such a dump holds no notes. Sources: see dumpwriter/export/pagedump_format.py.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy

from dumpwriter.dumpfile.bitmap import read_bitmap
from dumpwriter.dumpfile.pageruns import PageRuns
from dumpwriter.dumpfile.segments import SegmentDump, Segments
from dumpwriter.export import pagedump_format as pagedump
from dumpwriter.export.pagedump import PARTIAL_COMMENT
from dumpwriter.formats.region import PAGE_SIZE_BYTES, PAGES_MAX
from vdisk.errors import FormatError

if TYPE_CHECKING:
    from dumpwriter.dumpfile.file import File

BITMAP_SIGNATURES = (pagedump.BITMAP_SIGNATURE, b"SDMPDUMP")
KERNEL_DUMP = 2
"""Of the kernel's pages alone: as a bitmap dump in all that concerns its pages."""


def open_pagedump(file: File) -> SegmentDump:
    """FormatError where the file is no such dump, or contradicts itself."""
    header = pagedump.DUMP_HEADER.unpack_from(file.read(0, min(pagedump.HEADER_SIZE_BYTES, file.size_bytes)))
    if header.signature != pagedump.SIGNATURE:
        raise FormatError("not a 64-bit Windows crash dump")
    memory = _memory(header)
    if header.dump_type == pagedump.DumpType.FULL:
        present, first_page_offset_bytes = memory, pagedump.HEADER_SIZE_BYTES
    elif header.dump_type in (pagedump.DumpType.BITMAP, KERNEL_DUMP):
        present, first_page_offset_bytes = _bitmap(file)
    else:
        raise FormatError(
            f"a Windows crash dump of type {header.dump_type} is not read here; full and bitmap dumps are"
        )
    return SegmentDump(
        f"windows-{'full' if present is memory else 'bitmap'}",
        file,
        _segments(present, first_page_offset_bytes, file),
        memory=memory.union(present),
        is_partial=header.comment.startswith(PARTIAL_COMMENT),
    )


def _memory(header: pagedump.DumpHeader) -> PageRuns:
    if header.run_count > pagedump.RUNS_MAX:
        raise FormatError(f"{header.run_count} runs of memory do not fit in the header of a Windows crash dump")
    runs = pagedump.PHYSICAL_RUN.unpack_table(header.physical_runs, 0, header.run_count)
    end = 0
    for first_page, page_count in runs:
        if first_page < end or not 0 < page_count <= PAGES_MAX - first_page:
            raise FormatError(f"a run of {page_count} pages at {first_page:#x} is not in order or beyond any memory")
        end = first_page + page_count
    return PageRuns.of(runs)


def _bitmap(file: File) -> tuple[PageRuns, int]:
    """The pages that are there, and where the first of them stands."""
    start = pagedump.HEADER_SIZE_BYTES
    header = pagedump.BITMAP_HEADER.unpack_from(file.read(start, pagedump.BITMAP_HEADER.size_bytes))
    if header.signature not in BITMAP_SIGNATURES:
        raise FormatError("the bitmap of the Windows crash dump is not where it should be")
    present = read_bitmap(file, start + pagedump.BITMAP_HEADER.size_bytes, header.bitmap_pages)
    if present.page_count != header.present_pages:
        raise FormatError(f"the bitmap names {present.page_count} pages, its header {header.present_pages}")
    return present, header.first_page_offset_bytes


def _segments(present: PageRuns, first_page_offset_bytes: int, file: File) -> Segments:
    """Pages follow each other in the file, whatever lies between them in memory."""
    size_bytes = present.page_count * PAGE_SIZE_BYTES
    file.require(first_page_offset_bytes, size_bytes)
    lengths = present.page_counts * PAGE_SIZE_BYTES
    offsets = numpy.cumsum(lengths) - lengths + first_page_offset_bytes
    columns = (present.first_pages * PAGE_SIZE_BYTES, lengths, offsets)
    return Segments.of(file, *(column.astype(numpy.uint64) for column in columns))
