"""A dump in which memory stands as it was: pieces of it, each at its place in the file.

Pieces need not begin or end at a page; the rest of such a page is zeros. Pieces may share addresses (kexec describes
the kernel's text twice): both are then the same memory, and the first of them is taken. What is a hole of the file is
told as pages of zeros without being read.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy

from dumpwriter.dumpfile.dump import Contents, DumpRun
from dumpwriter.dumpfile.pageruns import PageRuns
from dumpwriter.formats.region import PAGE_SIZE_BYTES, PAGES_MAX
from vdisk.errors import FormatError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from dumpwriter.dumpfile.file import File
    from dumpwriter.dumpfile.pageruns import Integers

    Unsigned = NDArray[numpy.uint64]

SEGMENTS_MAXIMUM = 1 << 20
PHYSICAL_MAXIMUM_BYTES = PAGES_MAX * PAGE_SIZE_BYTES
ROUNDING_ALLOWANCE_BYTES = 1 << 20
CLAIMED_PAGES_MAXIMUM = 1 << 34
"""64 TiB: a header of a few bytes can claim any memory, and a bitmap of it is written in other formats."""


class Segments(NamedTuple):
    """Pieces of memory in ascending order, of which no two share an address. Three arrays of one length, in bytes."""

    starts: Integers
    ends: Integers
    file_offsets: Integers

    @classmethod
    def of(cls, file: File, physical: Unsigned, length: Unsigned, file_offset: Unsigned) -> Segments:
        """From pieces in any order, as a file claims them: 64 bits each, and nothing is true of them yet.

        FormatError where a piece is not in the file, where memory is none that can be, or where the pieces together
        claim more than the file holds.
        """
        _require_within(length, file_offset, file.size_bytes, "a segment leaves the file: it is cut off or damaged")
        _require_within(length, physical, PHYSICAL_MAXIMUM_BYTES, "a segment lies beyond any physical memory")
        order = numpy.lexsort((file_offset, length, physical))
        starts, lengths, offsets = (part[order].astype(numpy.int64) for part in (physical, length, file_offset))
        ends = starts + lengths
        skip = numpy.maximum(_reached_before(ends) - starts, 0)
        kept = skip < lengths
        segments = cls((starts + skip)[kept], ends[kept], (offsets + skip)[kept])
        if segments.pages().page_count * PAGE_SIZE_BYTES > file.memory_bytes_max + ROUNDING_ALLOWANCE_BYTES:
            raise FormatError("the segments claim more memory than the file holds")
        return segments

    def pages(self) -> PageRuns:
        return PageRuns.covering(self.starts, self.ends)


def _reached_before(ends: Integers) -> Integers:
    """How far the pieces in front of each one reach."""
    return numpy.concatenate((numpy.zeros(min(len(ends), 1), numpy.int64), numpy.maximum.accumulate(ends)[:-1]))


def _require_within(length: Unsigned, start: Unsigned, limit_bytes: int, problem: str) -> None:
    """Without adding, which would wrap around."""
    limit = numpy.uint64(limit_bytes)
    if (length > limit).any() or (start > limit - length).any():
        raise FormatError(problem)


class SegmentDump:
    """The `Dump` of a format that keeps memory as it was. `memory` is what the machine had besides what is present."""

    def __init__(
        self,
        format_name: str,
        file: File,
        segments: Segments,
        *,
        memory: PageRuns | None = None,
        notes: bytes = b"",
        is_partial: bool = False,
    ) -> None:
        if not len(segments.starts):
            raise FormatError("the file holds no memory")
        self.format = format_name
        self._file = file
        self._segments = segments
        self._present = segments.pages()
        memory = memory or self._present
        if memory.page_count > CLAIMED_PAGES_MAXIMUM:
            raise FormatError(f"the file claims {memory.page_count} pages of memory, more than any machine has")
        self.contents = Contents(memory, self._present, notes, is_partial)

    def runs(self) -> Iterator[DumpRun]:
        data = self._data_pages()
        start, end = next(data, (PAGES_MAX, PAGES_MAX))
        for first_page, page_count in self._present:
            position, stop = first_page, first_page + page_count
            while position < stop:
                if start > position:
                    yield DumpRun(position, min(start, stop) - position, is_zero=True)
                if start < stop:
                    yield DumpRun(start, end - start, is_zero=False)
                    position = end
                    start, end = next(data, (PAGES_MAX, PAGES_MAX))
                else:
                    position = stop

    def _data_pages(self) -> Iterator[tuple[int, int]]:
        """Pages of which at least a byte stands in the file, as first page and end; each within one present run."""
        taken = 0
        for start_bytes, end_bytes in self._data_bytes():
            first, end = max(start_bytes // PAGE_SIZE_BYTES, taken), -(-end_bytes // PAGE_SIZE_BYTES)
            if first < end:
                yield first, end
                taken = end

    def _data_bytes(self) -> Iterator[tuple[int, int]]:
        """Physical addresses of what is no hole of the file, as start and end."""
        for start, end, file_offset in zip(*self._segments, strict=True):
            to_physical = int(start) - int(file_offset)
            for offset_bytes, length_bytes in self._file.data_spans(int(file_offset), int(end - start)):
                yield offset_bytes + to_physical, offset_bytes + to_physical + length_bytes

    def read_into(self, first_page: int, buffer: memoryview) -> None:
        view = buffer.cast("B")
        self._present.find(first_page, -(-view.nbytes // PAGE_SIZE_BYTES))
        base = first_page * PAGE_SIZE_BYTES
        position = base
        for start, end, file_offset in self._segments_within(base, base + view.nbytes):
            first, last = max(start, base), min(end, base + view.nbytes)
            _zero(view[position - base : first - base])
            self._file.read_into(file_offset + first - start, view[first - base : last - base])
            position = last
        _zero(view[position - base :])

    def _segments_within(self, start: int, stop: int) -> Iterator[tuple[int, int, int]]:
        index = int(numpy.searchsorted(self._segments.ends, start, "right"))
        while index < len(self._segments.starts) and self._segments.starts[index] < stop:
            yield tuple(int(column[index]) for column in self._segments)  # type: ignore[misc]
            index += 1


def _zero(view: memoryview) -> None:
    """The rest of a page: never more than that lies between two pieces."""
    view[:] = bytes(view.nbytes)
