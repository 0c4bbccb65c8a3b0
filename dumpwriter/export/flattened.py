"""makedumpfile's flattened format: a file as the list of its pieces, so that it can go through a pipe.

Source: makedumpfile 1.7.2, IMPLEMENTATION and makedumpfile.h (struct makedumpfile_header, makedumpfile_data_header).
`makedumpfile -R` makes the file of it; crash reads it as it is. All numbers are big-endian.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

from dumpwriter.export.export import Piece

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from dumpwriter.export.export import Export, Prepared
    from dumpwriter.formats.region import PageRun

SIGNATURE = b"makedumpfile"
TYPE, VERSION = 1, 1
HEADER_SIZE_BYTES = 4096
HEADER = struct.Struct(">16sqq")  # signature, type, version
RECORD = struct.Struct(">qq")  # where the bytes go, and how many they are
END = RECORD.pack(-1, -1)


class FlattenedExport:
    """An `Export` around another one. Its pieces follow each other without a gap, in the order in which they come."""

    def __init__(self, export: Export) -> None:
        self._export = export
        self._end_bytes = 0
        self._covered_bytes = 0

    @property
    def size_bytes(self) -> int:
        return self._end_bytes

    def begin(self) -> Iterable[Piece]:
        yield self._append(HEADER.pack(SIGNATURE, TYPE, VERSION).ljust(HEADER_SIZE_BYTES, b"\0"))
        yield from self._records(self._export.begin())

    def prepare(self, first_page: int, content: memoryview) -> Prepared:
        return self._export.prepare(first_page, content)

    def data(self, prepared: Prepared) -> Iterable[Piece]:
        return self._records(self._export.data(prepared))

    def zeros(self, run: PageRun) -> Iterable[Piece]:
        return self._records(self._export.zeros(run))

    def finish(self) -> Iterable[Piece]:
        yield from self._records(self._export.finish())
        if self._covered_bytes < self._export.size_bytes:  # a hole at its end is part of the file
            yield from self._records([Piece(self._export.size_bytes - 1, b"\0")])
        yield self._append(END)

    def _records(self, pieces: Iterable[Piece]) -> Iterator[Piece]:
        for offset_bytes, content in pieces:
            view = memoryview(content).cast("B")
            if view.nbytes:
                yield self._append(RECORD.pack(offset_bytes, view.nbytes))
                yield self._append(view)
                self._covered_bytes = max(self._covered_bytes, offset_bytes + view.nbytes)

    def _append(self, content: bytes | memoryview) -> Piece:
        piece = Piece(self._end_bytes, content)
        self._end_bytes += len(content)
        return piece
