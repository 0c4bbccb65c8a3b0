"""A dump that still lies in its frames, as one that can be read anywhere: each page is proved again as it is read."""

from __future__ import annotations

from array import array
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy

from dumpwriter.dumpfile.dump import DumpRun
from dumpwriter.formats.region import PAGE_SIZE_BYTES, FrameKind
from dumpwriter.frames import decode_header, payload_is_true
from dumpwriter.recovery.opening import Opened
from dumpwriter.recovery.pageset import PageSet
from dumpwriter.recovery.slots import could_read
from dumpwriter.xor import xor_of
from vdisk.blockdevice import BLOCK_SIZE_BYTES
from vdisk.errors import RecoveryError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from dumpwriter.dumpfile.dump import Contents
    from dumpwriter.formats.region import DumpHeader
    from dumpwriter.frames import DumpIdentity, Frame
    from dumpwriter.recovery.opening import Opener
    from vdisk.blockdevice import BlockDevice

CACHED_FRAMES = 16
TWO_ANSWERS = "the disk gave two different answers while the dump was read: run the recovery again"


class FrameIndex:
    """An opener around another one, which remembers where each frame lies that was opened. Numbers, not objects.

    Of pages that are in two frames it keeps the first, as recovery does: a write that failed may have come all the
    same, and then the frame lies in its own slot and in a spare one.
    """

    def __init__(self, opener: Opener) -> None:
        self.opener = opener
        self._present = PageSet()
        self.first_pages = array("q")
        self.page_counts = array("q")
        self.kinds = array("q")
        self.frame_of = array("q")  # the number of the frame that holds a run
        self._places = array("q")  # physical address and length, in pairs
        self._part_ends = array("q", [0])  # where the places of each part end; of several parts a frame is the XOR
        self._ends = array("q", [0])  # where the parts of each frame end

    def open(self, frame: Frame, slot: memoryview) -> Opened:
        opened = self.opener.open(frame, slot)
        if opened is Opened.OPEN and frame.runs:
            self._add(frame)
        return opened

    def explains(self, header: DumpHeader) -> bool:
        return self.opener.explains(header)

    def why_nothing(self) -> str:
        return self.opener.why_nothing()

    def parts(self, number: int) -> Iterator[list[tuple[int, int]]]:
        """Of what a frame is made: itself, or where it was rebuilt, that of which it is the XOR."""
        for part in range(self._ends[number], self._ends[number + 1]):
            places = range(self._part_ends[part], self._part_ends[part + 1], 2)
            yield [(self._places[at], self._places[at + 1]) for at in places]

    def _add(self, frame: Frame) -> None:
        for run in filter(self._present.add, frame.runs):
            self.first_pages.append(run.first_page)
            self.page_counts.append(run.page_count)
            self.kinds.append(frame.header.kind)
            self.frame_of.append(len(self._ends) - 1)
        for places in frame.made_of or (frame.places,):
            for place in places:
                self._places.extend(place)
            self._part_ends.append(len(self._places))
        self._ends.append(len(self._part_ends) - 1)


class FoundDump:
    """A `Dump`. RecoveryError where a frame is no longer what it was when it was found."""

    format = "region"

    def __init__(self, disk: BlockDevice, identity: DumpIdentity, index: FrameIndex, contents: Contents) -> None:
        self.contents = contents
        self._disk = disk
        self._identity = identity
        self._index = index
        first_pages = numpy.frombuffer(index.first_pages, numpy.int64)
        self._order = numpy.argsort(first_pages, kind="stable")
        self._first_pages = first_pages[self._order]
        self._frame = lru_cache(CACHED_FRAMES)(self._read_frame)

    def runs(self) -> Iterator[DumpRun]:
        for row in self._order.tolist():
            is_zero = self._index.kinds[row] == FrameKind.ZEROS
            yield DumpRun(self._index.first_pages[row], self._index.page_counts[row], is_zero)

    def read_into(self, first_page: int, buffer: memoryview) -> None:
        while buffer.nbytes:
            content = self._run_from(first_page, buffer.nbytes)
            buffer[: len(content)] = content
            buffer = buffer[len(content) :]
            first_page += len(content) // PAGE_SIZE_BYTES

    def _run_from(self, first_page: int, length_bytes: int) -> bytes:
        """The pages of one frame's run from a page on, as many as it has and are asked for."""
        position = int(numpy.searchsorted(self._first_pages, first_page, "right")) - 1
        row = int(self._order[position]) if position >= 0 else -1
        inside = first_page - self._index.first_pages[row] if row >= 0 else -1
        if inside < 0 or inside >= self._index.page_counts[row]:
            raise ValueError(f"page {first_page:#x} is not in the dump")
        length_bytes = min(length_bytes, (self._index.page_counts[row] - inside) * PAGE_SIZE_BYTES)
        if self._index.kinds[row] == FrameKind.ZEROS:
            return bytes(length_bytes)
        return self._content(row, inside * PAGE_SIZE_BYTES, length_bytes)

    def _content(self, row: int, inside_bytes: int, length_bytes: int) -> bytes:
        frame, payload = self._frame(self._index.frame_of[row])
        for run in frame.runs:
            if run.first_page == self._index.first_pages[row]:
                return payload[inside_bytes : inside_bytes + length_bytes]
            inside_bytes += run.page_count * PAGE_SIZE_BYTES
        raise RecoveryError(TWO_ANSWERS)

    def _read_frame(self, number: int) -> tuple[Frame, bytes]:
        parts = list(self._index.parts(number))
        slot = self._read_part(parts[0])
        if len(parts) > 1:
            slot = xor_of([slot, *map(self._read_part, parts[1:])])
        frame = decode_header(slot[:BLOCK_SIZE_BYTES], self._identity)
        is_true = frame is not None and frame.size_bytes <= slot.nbytes and payload_is_true(slot, frame)
        if frame is None or not is_true or self._index.opener.open(frame, slot) is not Opened.OPEN:
            raise RecoveryError(TWO_ANSWERS)
        return frame, bytes(slot[BLOCK_SIZE_BYTES : frame.size_bytes])

    def _read_part(self, places: list[tuple[int, int]]) -> memoryview:
        content = memoryview(bytearray(sum(length_bytes for _, length_bytes in places)))
        position_bytes = 0
        for physical_bytes, length_bytes in places:
            if not could_read(self._disk, physical_bytes, content[position_bytes : position_bytes + length_bytes]):
                raise RecoveryError(TWO_ANSWERS)
            position_bytes += length_bytes
        return content
