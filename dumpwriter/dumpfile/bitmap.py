"""Bitmaps of pages in a file: one bit a page, the lowest bit of a byte first."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy

from dumpwriter.dumpfile.pageruns import PageRuns
from dumpwriter.formats.region import PAGES_MAX
from vdisk.errors import FormatError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from dumpwriter.dumpfile.file import File
    from dumpwriter.dumpfile.pageruns import Integers

CHUNK_BYTES = 256 << 10


def read_bitmap(file: File, offset_bytes: int, page_count: int) -> PageRuns:
    """The pages whose bit is set. Holes of the file are passed over, so a bitmap of a vast memory takes no time.

    FormatError where it leaves the file, or tells of more runs than can be kept.
    """
    if page_count > PAGES_MAX:
        raise FormatError(f"a bitmap of {page_count} pages is larger than any memory")
    length_bytes = -(-page_count // 8)
    file.require(offset_bytes, length_bytes)
    return PageRuns.gathered(_runs(file, offset_bytes, length_bytes, page_count))


def _runs(file: File, offset_bytes: int, length_bytes: int, page_count: int) -> Iterator[tuple[Integers, Integers]]:
    for span in file.data_spans(offset_bytes, length_bytes):
        end = span.offset_bytes + span.length_bytes
        for start in range(span.offset_bytes, end, CHUNK_BYTES):
            borders = _borders(file.read(start, min(CHUNK_BYTES, end - start)), (start - offset_bytes) * 8, page_count)
            yield borders[::2], borders[1::2]


def _borders(content: bytes, first_page: int, page_count: int) -> Integers:
    """Where runs begin and end, in turn."""
    bits = numpy.unpackbits(numpy.frombuffer(content, numpy.uint8), bitorder="little")[: page_count - first_page]
    return numpy.flatnonzero(numpy.diff(bits, prepend=0, append=0)) + first_page
