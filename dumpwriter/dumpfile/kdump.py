"""Reads kdump-compressed files, header versions 1 to 6: makedumpfile's, and what others write in its format.

    header, sub-header and notes │ bitmap of memory │ bitmap of present pages │ descriptor of each page │ pages

A descriptor says where its page is stored and how; the how-manieth descriptor is that of a page follows from the
bitmap. All pages of zeros have one stored page in common. Sources: see dumpwriter/export/kdump_format.py.
"""

from __future__ import annotations

from functools import lru_cache
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy

from dumpwriter.dumpfile.bitmap import read_bitmap
from dumpwriter.dumpfile.decompression import STORED_SIZE_BYTES_MAX, unpack
from dumpwriter.dumpfile.dump import Contents, DumpRun
from dumpwriter.dumpfile.file import read_table
from dumpwriter.dumpfile.kdump_header import read_header
from dumpwriter.dumpfile.pageruns import PageRuns
from dumpwriter.export import kdump_format as kdump
from dumpwriter.formats.region import PAGE_SIZE_BYTES
from vdisk.errors import FormatError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from dumpwriter.dumpfile.file import File
    from dumpwriter.dumpfile.pageruns import Integers

    Descriptors = NDArray[Any]

CACHED_PAGES = 256
UNPACKED_AT_ONCE = 256


class KdumpDump:
    """The `Dump` in a kdump-compressed file.

    FormatError where it is none, is damaged or cut off in front of the pages, or has pages that are not of 4096 bytes.
    Of a file that says that it is incomplete those pages are present whose descriptor points into the file.
    """

    format = "kdump"

    def __init__(self, file: File) -> None:
        header = read_header(file)
        self._file = file
        self._table_offset_bytes = header.descriptors_offset_bytes
        memory = read_bitmap(file, header.memory_bitmap_offset_bytes, header.page_count)
        dumped = read_bitmap(file, header.present_bitmap_offset_bytes, header.page_count)
        self._described = dumped.within(header.first_page, header.end_page)
        file.require(self._table_offset_bytes, self._described.page_count * kdump.PAGE_DESCRIPTOR.itemsize)
        self._is_incomplete = header.is_incomplete
        present = self._described
        if header.is_incomplete:  # what its writer came to
            present = PageRuns.of_pages(pages for pages, _ in self._stored_rows())
        if not len(present):
            raise FormatError("the file holds no memory")
        self.contents = Contents(memory.union(present), present, header.notes, header.is_incomplete or header.is_split)
        self._cached_page = lru_cache(CACHED_PAGES)(self._lone_page)

    def _stored_rows(self) -> Iterator[tuple[Integers, Descriptors]]:
        """The descriptors of all present pages in order, with the numbers of the pages; about 1 MiB at a time."""
        rank = 0
        table = read_table(self._file, self._table_offset_bytes, self._described.page_count, kdump.PAGE_DESCRIPTOR)
        for rows in table:
            pages = self._described.pages(rank, len(rows))
            rank += len(rows)
            if self._is_incomplete:
                stored = _is_stored(rows, self._file.size_bytes)
                pages, rows = pages[stored], rows[stored]
            yield pages, rows

    def runs(self) -> Iterator[DumpRun]:
        zeros: Descriptors | None = None
        for pages, rows in self._stored_rows():
            if zeros is None:
                zeros = self._shared_zeros(rows)
            is_zero = numpy.zeros(len(rows), bool) if zeros is None else rows == zeros
            yield from _runs(pages, is_zero)

    def _shared_zeros(self, rows: Descriptors) -> Descriptors | None:
        """The descriptor that most of these have in common, if what it points at is a page of zeros."""
        _, first, counts = numpy.unique(rows["offset_bytes"], return_index=True, return_counts=True)
        if not len(rows) or counts.max() == 1:
            return None
        candidate: Descriptors = rows[first[counts.argmax()]]
        try:
            _require_sizes(rows[first])
            return None if any(self._cached_page(*_place(candidate))) else candidate
        except FormatError:
            return None

    def read_into(self, first_page: int, buffer: memoryview) -> None:
        view = buffer.cast("B")
        page_count = -(-view.nbytes // PAGE_SIZE_BYTES)
        present = self.contents.present
        assert isinstance(present, PageRuns)
        present.find(first_page, page_count)
        rank = self._described.rank(first_page)
        for done in range(0, page_count, UNPACKED_AT_ONCE):
            count = min(UNPACKED_AT_ONCE, page_count - done)
            part = view[done * PAGE_SIZE_BYTES : (done + count) * PAGE_SIZE_BYTES]
            try:
                self._unpack_into(self._rows(rank + done, count), part)
            except FormatError as error:
                raise FormatError(f"among {count} pages from {first_page + done:#x} on: {error}") from None

    def _rows(self, rank: int, count: int) -> Descriptors:
        size_bytes = kdump.PAGE_DESCRIPTOR.itemsize
        table = self._file.read(self._table_offset_bytes + rank * size_bytes, count * size_bytes)
        return numpy.frombuffer(table, kdump.PAGE_DESCRIPTOR)

    def _unpack_into(self, rows: Descriptors, view: memoryview) -> None:
        """What is stored in a row is read in one go; a lone page may be one of those that were read just now."""
        _require_sizes(rows)
        places = [_place(row) for row in rows.tolist()]
        ends = rows["offset_bytes"] + rows["size_bytes"]
        borders = [0, *(numpy.flatnonzero(rows["offset_bytes"][1:] != ends[:-1]) + 1).tolist(), len(rows)]
        position = 0
        for first, stop in pairwise(borders):
            for page in self._unpacked(places[first:stop]):
                view[position : position + PAGE_SIZE_BYTES] = page
                position += PAGE_SIZE_BYTES

    def _unpacked(self, places: list[tuple[int, int, int]]) -> Iterator[bytes]:
        if len(places) == 1:
            yield self._cached_page(*places[0])
            return
        start = places[0][0]
        stored = memoryview(self._file.read(start, places[-1][0] + places[-1][1] - start))
        for offset_bytes, size_bytes, flags in places:
            yield unpack(stored[offset_bytes - start : offset_bytes - start + size_bytes], flags)

    def _lone_page(self, offset_bytes: int, size_bytes: int, flags: int) -> bytes:
        return unpack(memoryview(self._file.read(offset_bytes, size_bytes)), flags)


def _is_stored(rows: Descriptors, file_size_bytes: int) -> NDArray[numpy.bool_]:
    starts, limit = rows["offset_bytes"], numpy.uint64(file_size_bytes)
    return (starts > 0) & (starts < limit) & (rows["size_bytes"] > 0) & (rows["size_bytes"] <= limit - starts)


def _require_sizes(rows: Descriptors) -> None:
    if rows["size_bytes"].max() > STORED_SIZE_BYTES_MAX:
        raise FormatError("a page is stored in more bytes than it has")


def _place(row: Any) -> tuple[int, int, int]:
    """Where a page is stored, in how many bytes, and how."""
    return int(row[0]), int(row[1]), int(row[2])


def _runs(pages: Integers, is_zero: NDArray[numpy.bool_]) -> Iterator[DumpRun]:
    """Pages that follow each other and are of one kind."""
    is_border = (numpy.diff(pages) != 1) | (is_zero[1:] != is_zero[:-1])
    starts = numpy.concatenate(([0], numpy.flatnonzero(is_border) + 1))[: len(pages)]
    counts = numpy.diff(starts, append=len(pages))
    yield from map(DumpRun, pages[starts].tolist(), counts.tolist(), is_zero[starts].tolist())
