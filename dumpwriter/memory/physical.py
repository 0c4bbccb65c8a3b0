"""Physical memory of the machine: one memfd that outlives the process that dies.

    ┌──────────────┬──────────────┬───┬────────────────────────────┐
    │ RAM range 0  │ RAM range 1  │ … │ notes area, 64 KiB         │
    └──────────────┴──────────────┴───┴────────────────────────────┘

The RAM ranges follow each other without a gap. The notes area holds a little-endian u64 length and that many bytes of
an ELF PT_NOTE segment: registers and VMCOREINFO. Memory is read with `pread` and never through a mapping, because a
mapped read fills the holes that stand for untouched pages.
"""

from __future__ import annotations

import errno
import fcntl
import itertools
import os
import struct
from bisect import bisect_right
from typing import TYPE_CHECKING, NamedTuple

from vdisk.errors import FormatError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from typing_extensions import Buffer

PAGE_SIZE_BYTES = 4096
NOTES_AREA_BYTES = 64 * 1024
NOTES_LENGTH = struct.Struct("<Q")


class MemoryRange(NamedTuple):
    """A range of RAM: where the machine sees it, how long it is, where the memfd holds it. All in bytes."""

    physical_bytes: int
    length_bytes: int
    file_offset_bytes: int


class MemoryRun(NamedTuple):
    """A run of whole pages of one kind: all of them data, or all of them untouched (they read as zeros)."""

    physical_bytes: int
    length_bytes: int
    is_hole: bool


class PhysicalMemory:
    """RAM ranges and a notes area in a file descriptor, usable in every process that holds the descriptor.

    Raises ValueError where the ranges are not what `create` makes, or are more than the descriptor holds.
    """

    def __init__(self, fd: int, ranges: Iterable[MemoryRange]) -> None:
        self.fd = fd
        self.ranges = tuple(MemoryRange(*memory_range) for memory_range in ranges)
        self.size_bytes = sum(memory_range.length_bytes for memory_range in self.ranges)
        self.notes_offset_bytes = self.size_bytes
        self.notes_capacity_bytes = NOTES_AREA_BYTES - NOTES_LENGTH.size
        self._starts = [memory_range.physical_bytes for memory_range in self.ranges]
        _check_ranges(self.ranges)
        if os.fstat(fd).st_size < self.notes_offset_bytes + NOTES_AREA_BYTES:
            raise ValueError(f"descriptor {fd} does not hold {self.size_bytes} bytes of memory and a notes area")

    @classmethod
    def create(cls, spans: Iterable[tuple[int, int]]) -> PhysicalMemory:
        """Make an untouched memory of (physical address, length) spans in ascending order, in whole pages."""
        ranges = list(_lay_out(spans))
        total_bytes = sum(memory_range.length_bytes for memory_range in ranges)
        fd = os.memfd_create("ghostdump-memory", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        try:
            os.ftruncate(fd, total_bytes + NOTES_AREA_BYTES)
            fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW)
            return cls(fd, ranges)
        except BaseException:
            os.close(fd)
            raise

    def close(self) -> None:
        """Give the descriptor up; other processes keep theirs. Harmless when done twice."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1

    def offset_bytes(self, physical_bytes: int, length_bytes: int) -> int:
        """Where the memfd holds a piece of RAM; ValueError where it is not inside one range."""
        index = bisect_right(self._starts, physical_bytes) - 1
        if index >= 0 and length_bytes >= 0:
            found = self.ranges[index]
            inside_bytes = physical_bytes - found.physical_bytes
            if inside_bytes + length_bytes <= found.length_bytes:
                return found.file_offset_bytes + inside_bytes
        raise ValueError(f"{length_bytes} bytes at {physical_bytes:#x} are not RAM")

    def read_into(self, physical_bytes: int, buffer: Buffer) -> None:
        """Fill the whole of a writable buffer from RAM."""
        view = memoryview(buffer).cast("B")
        offset_bytes = self.offset_bytes(physical_bytes, view.nbytes)
        done_bytes = 0
        while done_bytes < view.nbytes:
            count = os.preadv(self.fd, [view[done_bytes:]], offset_bytes + done_bytes)
            if count == 0:
                raise OSError(errno.EIO, f"memory ends at {physical_bytes + done_bytes:#x}")
            done_bytes += count

    def read(self, physical_bytes: int, length_bytes: int) -> bytes:
        """Read into fresh bytes: for structures, not for the fast path."""
        buffer = bytearray(length_bytes)
        self.read_into(physical_bytes, buffer)
        return bytes(buffer)

    def write(self, physical_bytes: int, content: Buffer) -> None:
        """Write the whole of a buffer to RAM."""
        view = memoryview(content).cast("B")
        _write_all(self.fd, self.offset_bytes(physical_bytes, view.nbytes), view)

    def runs(self) -> Iterator[MemoryRun]:
        """All of RAM in ascending order as runs of data and runs of holes, each inside one range."""
        for memory_range in self.ranges:
            yield from self._runs_of(memory_range)

    def _runs_of(self, memory_range: MemoryRange) -> Iterator[MemoryRun]:
        to_physical_bytes = memory_range.physical_bytes - memory_range.file_offset_bytes
        position, end = memory_range.file_offset_bytes, memory_range.file_offset_bytes + memory_range.length_bytes
        while position < end:
            data = min(next_data(self.fd, position, end), end)
            if data > position:
                yield MemoryRun(position + to_physical_bytes, data - position, is_hole=True)
            if data == end:
                return
            position = min(os.lseek(self.fd, data, os.SEEK_HOLE), end)
            yield MemoryRun(data + to_physical_bytes, position - data, is_hole=False)

    def read_notes(self) -> bytes:
        """The PT_NOTE segment; FormatError where the length before it is no possible one."""
        area = os.pread(self.fd, NOTES_AREA_BYTES, self.notes_offset_bytes)
        (length_bytes,) = NOTES_LENGTH.unpack_from(area)
        if length_bytes > self.notes_capacity_bytes:
            raise FormatError(f"notes area claims {length_bytes} bytes of at most {self.notes_capacity_bytes}")
        return area[NOTES_LENGTH.size : NOTES_LENGTH.size + length_bytes]

    def write_notes(self, notes: bytes) -> None:
        """Replace the PT_NOTE segment; FormatError where it is larger than the notes area."""
        if len(notes) > self.notes_capacity_bytes:
            raise FormatError(f"notes take {len(notes)} bytes, the notes area holds {self.notes_capacity_bytes}")
        content = memoryview(NOTES_LENGTH.pack(len(notes)) + notes)
        _write_all(self.fd, self.notes_offset_bytes, content)


def next_data(fd: int, position: int, end: int) -> int:
    """The first byte at or behind `position` that is no hole, or `end` where only a hole follows."""
    try:
        return os.lseek(fd, position, os.SEEK_DATA)
    except OSError as error:
        if error.errno != errno.ENXIO:
            raise
        return end


def _lay_out(spans: Iterable[tuple[int, int]]) -> Iterator[MemoryRange]:
    offset_bytes = 0
    for physical_bytes, length_bytes in spans:
        yield MemoryRange(physical_bytes, length_bytes, offset_bytes)
        offset_bytes += length_bytes


def _check_ranges(ranges: tuple[MemoryRange, ...]) -> None:
    if not ranges or any(value < 0 or value % PAGE_SIZE_BYTES for part in ranges for value in part):
        raise ValueError("memory ranges are not whole pages")
    if any(part.length_bytes == 0 for part in ranges) or ranges[0].file_offset_bytes:
        raise ValueError("memory ranges are empty or do not begin at the front")
    for low, high in itertools.pairwise(ranges):
        if low.physical_bytes + low.length_bytes > high.physical_bytes:
            raise ValueError(f"memory ranges overlap or are not in order at {high.physical_bytes:#x}")
        if low.file_offset_bytes + low.length_bytes != high.file_offset_bytes:
            raise ValueError(f"memory ranges leave a gap in the descriptor at {high.file_offset_bytes}")


def _write_all(fd: int, offset_bytes: int, view: memoryview) -> None:
    done_bytes = 0
    while done_bytes < view.nbytes:
        done_bytes += os.pwrite(fd, view[done_bytes:], offset_bytes + done_bytes)
