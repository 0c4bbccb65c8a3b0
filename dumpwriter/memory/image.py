"""A machine whose memory comes from a file: raw bytes from physical address 0 on, or an ELF core.

Nothing is known of what the pages hold, so they are all of one class; the notes of an ELF core are kept as they are.
"""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING

from dumpwriter.export import elf_format as elf
from dumpwriter.memory.elf_core import PHYSICAL_MAXIMUM_BYTES, ElfCore, Segment, parse_elf_core
from dumpwriter.memory.physical import NOTES_AREA_BYTES, NOTES_LENGTH, PAGE_SIZE_BYTES, PhysicalMemory, next_data
from dumpwriter.memory.source import ClassRun, PageClass
from vdisk.errors import FormatError, UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from dumpwriter.memory.usermemory import UserMemory

_COPY_BYTES = 4 * 1024 * 1024
_DISK_UNIT_BYTES = 512  # of st_blocks


class ImageMemory:
    """The memory in the file at `path`, padded with zeros to whole pages.

    Raises UsageError where the file cannot be opened or is larger than the host's memory, and FormatError where it does
    not hold what it claims. Holes of the file stay holes.
    """

    kind = "image"
    user_memory: UserMemory | None = None

    def __init__(self, path: str) -> None:
        fd = _open(path)
        try:
            self.memory = _load(fd)
        except FormatError as error:
            raise FormatError(f"memory image {path}: {error}") from None
        finally:
            os.close(fd)

    def close(self) -> None:
        self.memory.close()

    def log(self, text: str) -> None:
        """Where a foreign memory keeps its log is not known."""

    def bugcheck(self, code: int, parameters: tuple[int, int, int, int], reason: str) -> None:
        """The memory and its notes stay as the file has them."""

    def page_classes(self) -> list[ClassRun]:
        return [
            ClassRun(
                PageClass.KERNEL_DATA, part.physical_bytes // PAGE_SIZE_BYTES, part.length_bytes // PAGE_SIZE_BYTES
            )
            for part in self.memory.ranges
        ]


def _open(path: str) -> int:
    """Open without waiting for the other end of a pipe, and only what has a size."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        raise UsageError(f"memory image {path}: {error.strerror}") from None
    status = os.fstat(fd)
    host_bytes = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    problem = None
    if not stat.S_ISREG(status.st_mode):
        problem = "not a regular file"
    elif status.st_size == 0:
        problem = "the file is empty"
    elif status.st_blocks * _DISK_UNIT_BYTES > host_bytes:
        problem = f"it holds more than this host's {host_bytes} bytes of memory"
    if problem:
        os.close(fd)
        raise UsageError(f"memory image {path}: {problem}")
    return fd


def _load(fd: int) -> PhysicalMemory:
    core = _describe(fd, os.fstat(fd).st_size)
    memory = PhysicalMemory.create(core.spans())
    try:
        memory.write_notes(core.notes)
        for segment in core.segments:
            _copy(fd, segment, memory)
    except BaseException:
        memory.close()
        raise
    return memory


def _describe(fd: int, size_bytes: int) -> ElfCore:
    def read(offset_bytes: int, length_bytes: int) -> bytes:
        content = bytearray(length_bytes)
        _read_into(fd, offset_bytes, memoryview(content))
        return bytes(content)

    if os.pread(fd, len(elf.MAGIC), 0) == elf.MAGIC:
        return parse_elf_core(read, size_bytes, NOTES_AREA_BYTES - NOTES_LENGTH.size)
    if size_bytes > PHYSICAL_MAXIMUM_BYTES:
        raise FormatError(f"{size_bytes} bytes are beyond any physical memory")
    return ElfCore((Segment(0, size_bytes, 0),), notes=b"")


def _copy(fd: int, segment: Segment, memory: PhysicalMemory) -> None:
    buffer = memoryview(bytearray(min(_COPY_BYTES, segment.length_bytes)))
    to_physical_bytes = segment.physical_bytes - segment.file_offset_bytes
    for offset_bytes, length_bytes in _pieces(fd, segment.file_offset_bytes, segment.length_bytes):
        piece = buffer[:length_bytes]
        _read_into(fd, offset_bytes, piece)
        memory.write(offset_bytes + to_physical_bytes, piece)


def _pieces(fd: int, offset_bytes: int, length_bytes: int) -> Iterator[tuple[int, int]]:
    """What is no hole in a part of the file, in pieces that the buffer holds."""
    position, end = offset_bytes, offset_bytes + length_bytes
    while (data := next_data(fd, position, end)) < end:
        position = min(os.lseek(fd, data, os.SEEK_HOLE), end, data + _COPY_BYTES)
        yield data, position - data


def _read_into(fd: int, offset_bytes: int, view: memoryview) -> None:
    done_bytes = 0
    while done_bytes < view.nbytes:
        count = os.preadv(fd, [view[done_bytes:]], offset_bytes + done_bytes)
        if count == 0:
            raise FormatError(f"the file ends at {offset_bytes + done_bytes}; it was cut while it was read")
        done_bytes += count
