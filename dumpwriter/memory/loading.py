"""Loads a machine's memory from a file: a dump in any format that can be read, or raw bytes from address 0 on.

Pages that the dump left out are no memory of the machine. What is a hole or known to be zeros stays untouched.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from dumpwriter.dumpfile.opening import find_opener
from dumpwriter.dumpfile.raw import open_raw
from dumpwriter.hostfile import HostFile
from dumpwriter.memory.image import ImageMemory
from dumpwriter.memory.physical import PAGE_SIZE_BYTES, PhysicalMemory
from vdisk.errors import FormatError, UsageError

if TYPE_CHECKING:
    from dumpwriter.dumpfile.dump import Dump, DumpRun

COPY_PAGES = 1024
RANGES_MAXIMUM = 1 << 16


def load_image(path: str) -> ImageMemory:
    """The memory in that file, padded with zeros to whole pages.

    Raises UsageError where the file cannot be opened, and FormatError where it is larger than the host's memory or
    does not hold what it claims.
    """
    try:
        with HostFile(path) as file:
            return ImageMemory(_load((find_opener(file) or open_raw)(file)))
    except UsageError as error:
        raise UsageError(f"memory image {error}") from None
    except FormatError as error:
        raise FormatError(f"memory image {path}: {error}") from None


def _load(dump: Dump) -> PhysicalMemory:
    _require_room(dump)
    memory = PhysicalMemory.create(
        (first_page * PAGE_SIZE_BYTES, page_count * PAGE_SIZE_BYTES) for first_page, page_count in dump.contents.present
    )
    try:
        memory.write_notes(dump.contents.notes)
        buffer = memoryview(bytearray(COPY_PAGES * PAGE_SIZE_BYTES))
        for run in dump.runs():
            if not run.is_zero:
                _copy(dump, run, buffer, memory)
    except BaseException:
        memory.close()
        raise
    return memory


def _require_room(dump: Dump) -> None:
    """Before a page of it is read: a file that takes little room on the disk may unpack to more than the host has."""
    range_count = len(dump.contents.present)
    if range_count > RANGES_MAXIMUM:
        raise FormatError(
            f"its memory is in {range_count} pieces, more than a machine can have ({RANGES_MAXIMUM}); "
            "give a dump from which fewer pages were left out"
        )
    host_bytes = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    if sum(run.page_count for run in dump.runs() if not run.is_zero) * PAGE_SIZE_BYTES > host_bytes:
        raise FormatError(f"it holds more than this host's {host_bytes} bytes of memory")


def _copy(dump: Dump, run: DumpRun, buffer: memoryview, memory: PhysicalMemory) -> None:
    end = run.first_page + run.page_count
    for first_page in range(run.first_page, end, COPY_PAGES):
        piece = buffer[: min(COPY_PAGES, end - first_page) * PAGE_SIZE_BYTES]
        dump.read_into(first_page, piece)
        memory.write(first_page * PAGE_SIZE_BYTES, piece)
