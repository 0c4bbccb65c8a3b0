"""makedumpfile's flattened files, read as the file that they describe.

A flattened file went through a pipe: it is the list of what would have been written, each piece with its place. What
was written twice counts as it was written last; what was never written is a hole. Sources: see
dumpwriter/export/flattened.py.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy

from dumpwriter.dumpfile.file import File, Span
from dumpwriter.dumpfile.overlay import Columns, visible
from dumpwriter.export import flattened as format_of
from vdisk.errors import FormatError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from dumpwriter.dumpfile.overlay import Pieces

RECORDS_MAXIMUM = 1 << 21
OFFSET_LIMIT_BYTES = 1 << 62


class FlattenedFile(File):
    """The file that a flattened one describes. Its records are walked once, and their places kept.

    FormatError where a record is damaged, or where the file ends without its mark.
    """

    def __init__(self, file: File) -> None:
        self._file = file
        _check_header(file)
        self._pieces = visible(_records(file))
        super().__init__(int(self._pieces.ends.max(initial=0)))

    @property
    def memory_bytes_max(self) -> int:
        """What was written: one record far behind the others makes a hole of any size, and takes 17 bytes."""
        return int((self._pieces.ends - self._pieces.starts).sum())

    def _fill(self, offset_bytes: int, buffer: memoryview) -> None:
        position, end = offset_bytes, offset_bytes + buffer.nbytes
        for start, stop, source in self._within(offset_bytes, end):
            _zero(buffer[position - offset_bytes : start - offset_bytes])
            self._file.read_into(source, buffer[start - offset_bytes : stop - offset_bytes])
            position = stop
        _zero(buffer[position - offset_bytes :])

    def data_spans(self, offset_bytes: int, length_bytes: int) -> Iterator[Span]:
        for start, stop, source in self._within(offset_bytes, offset_bytes + length_bytes):
            for held in self._file.data_spans(source, stop - start):
                yield Span(held.offset_bytes - source + start, held.length_bytes)

    def _within(self, start: int, stop: int) -> Iterator[tuple[int, int, int]]:
        """The pieces of a part of the file, cut to it: start, end, and where the bytes stand."""
        starts, ends, sources = self._pieces
        index = int(numpy.searchsorted(ends, start, "right"))
        while index < len(starts) and starts[index] < stop:
            piece_start = int(starts[index])
            first, last = max(piece_start, start), min(int(ends[index]), stop)
            yield first, last, int(sources[index]) + first - piece_start
            index += 1


def _check_header(file: File) -> None:
    signature, kind, version = format_of.HEADER.unpack(file.read(0, format_of.HEADER.size))
    if signature.rstrip(b"\0") != format_of.SIGNATURE:
        raise FormatError("not a flattened file")
    if (kind, version) != (format_of.TYPE, format_of.VERSION):
        raise FormatError(f"a flattened file of type {kind}, version {version} is not read here")


def _records(file: File) -> Pieces:
    records = Columns()
    position = format_of.HEADER_SIZE_BYTES
    while (record := file.read(position, format_of.RECORD.size)) != format_of.END:
        offset_bytes, size_bytes = format_of.RECORD.unpack(record)
        position += format_of.RECORD.size
        if not (0 <= offset_bytes < OFFSET_LIMIT_BYTES and 0 < size_bytes <= file.size_bytes - position):
            raise FormatError(f"a record of the flattened file is damaged or cut off at {position}")
        if len(records) == RECORDS_MAXIMUM:
            raise FormatError(f"a flattened file of more than {RECORDS_MAXIMUM} records is not read here")
        records.add(offset_bytes, offset_bytes + size_bytes, position)
        position += size_bytes
    return records.pieces()


def _zero(view: memoryview) -> None:
    view[:] = bytes(view.nbytes)
