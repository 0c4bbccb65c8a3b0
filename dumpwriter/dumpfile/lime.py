"""Reads LiME files: ranges of memory, each behind a header. Sources: see dumpwriter/export/lime.py.

The format does not say how many ranges there are, or that something is missing: the file ends behind the last one.
"""

from __future__ import annotations

from array import array
from typing import TYPE_CHECKING

import numpy

from dumpwriter.dumpfile.segments import SEGMENTS_MAXIMUM, SegmentDump, Segments
from dumpwriter.export import lime
from vdisk.errors import FormatError

if TYPE_CHECKING:
    from dumpwriter.dumpfile.file import File


def open_lime(file: File) -> SegmentDump:
    """FormatError where the file is no LiME file of version 1, or is cut off."""
    starts, lengths, offsets = array("Q"), array("Q"), array("Q")
    position = 0
    while position < file.size_bytes:
        header = lime.RANGE_HEADER.unpack_from(file.read(position, lime.RANGE_HEADER.size_bytes))
        position += lime.RANGE_HEADER.size_bytes
        _check(header, position)
        if len(starts) == SEGMENTS_MAXIMUM:
            raise FormatError(f"more than {SEGMENTS_MAXIMUM} ranges in a LiME file are not read here")
        starts.append(header.first_address)
        lengths.append(header.last_address - header.first_address + 1)
        offsets.append(position)
        position += lengths[-1]
    columns = (numpy.array(column, numpy.uint64) for column in (starts, lengths, offsets))
    return SegmentDump("lime", file, Segments.of(file, *columns))


def _check(header: lime.RangeHeader, position: int) -> None:
    if (header.magic, header.version) != (lime.MAGIC, lime.VERSION):
        raise FormatError(f"no header of a LiME file, version {lime.VERSION}, stands in front of {position}")
    if not header.first_address <= header.last_address < 1 << 63:
        raise FormatError(f"the range of the LiME header in front of {position} is none")
