"""Memory as it was, from physical address 0 on, without any header. Nothing tells it from other bytes, so it is never
guessed: the caller says that a file is one."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy

from dumpwriter.dumpfile.segments import SegmentDump, Segments

if TYPE_CHECKING:
    from dumpwriter.dumpfile.file import File


def open_raw(file: File) -> SegmentDump:
    """The file as memory, padded with zeros to whole pages. FormatError where it is empty or larger than any memory."""
    start, length = (numpy.array([number], numpy.uint64) for number in (0, file.size_bytes))
    return SegmentDump("raw", file, Segments.of(file, start, length, start))
