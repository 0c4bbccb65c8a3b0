"""A dump file as its reader sees it: bytes with a size, of which some may be known to be holes. No I/O here."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, NamedTuple

import numpy

from vdisk.errors import FormatError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

    from numpy.typing import NDArray

    from vdisk.layout import Layout

    Row = numpy.dtype[numpy.void]

TABLE_CHUNK_BYTES = 1 << 20


class Span(NamedTuple):
    """A piece of a file, in bytes."""

    offset_bytes: int
    length_bytes: int


class File(ABC):
    """Where the bytes come from. Every length that a reader takes from the file itself ends in the check made here."""

    def __init__(self, size_bytes: int) -> None:
        self.size_bytes = size_bytes

    @property
    def memory_bytes_max(self) -> int:
        """How much memory can stand in it as it was. Holes count where whoever made the file had to make them."""
        return self.size_bytes

    def read(self, offset_bytes: int, length_bytes: int) -> bytes:
        """For headers and other small things: the caller bounds the length. FormatError where it leaves the file."""
        self.require(offset_bytes, length_bytes)
        content = bytearray(length_bytes)
        self._fill(offset_bytes, memoryview(content))
        return bytes(content)

    def read_into(self, offset_bytes: int, buffer: memoryview) -> None:
        """Fill the whole of a buffer of bytes. FormatError where it leaves the file."""
        self.require(offset_bytes, buffer.nbytes)
        self._fill(offset_bytes, buffer)

    def require(self, offset_bytes: int, length_bytes: int) -> None:
        """FormatError where this is not a piece of the file."""
        if min(offset_bytes, length_bytes) < 0 or offset_bytes + length_bytes > self.size_bytes:
            raise FormatError(
                f"{length_bytes} bytes at {offset_bytes} are not in the file of {self.size_bytes} bytes: "
                "it is damaged or cut off"
            )

    @abstractmethod
    def _fill(self, offset_bytes: int, buffer: memoryview) -> None:
        """Read what is known to be inside the file."""

    def data_spans(self, offset_bytes: int, length_bytes: int) -> Iterator[Span]:
        """The parts of a piece of the file that are no holes, in order. All of it where holes cannot be told."""
        if length_bytes:
            yield Span(offset_bytes, length_bytes)


def read_table(
    file: File, offset_bytes: int, count: int, row: numpy.dtype[numpy.void]
) -> Iterator[NDArray[numpy.void]]:
    """A table of records in pieces of about 1 MiB."""
    rows_maximum = TABLE_CHUNK_BYTES // row.itemsize
    file.require(offset_bytes, count * row.itemsize)
    for first in range(0, count, rows_maximum):
        rows = min(rows_maximum, count - first)
        yield numpy.frombuffer(file.read(offset_bytes + first * row.itemsize, rows * row.itemsize), row)


def row_of(layout: Layout[Any]) -> Row:
    """A record of numbers as a row of an array."""
    return numpy.dtype([(field.name, f"<{field.code}") for field in layout.fields])
