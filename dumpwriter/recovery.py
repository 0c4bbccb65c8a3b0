"""Recovery: from the region to verified pages and a verdict. Synchronous and pure but for the device it reads.

It trusts the identity it was given (which dump is looked for) and the extents; every frame must prove the rest. It
needs neither header: the headers only explain. It keeps no object per page: runs, and one buffer for a slot.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, Protocol

from dumpwriter.dump import header_offsets_bytes
from dumpwriter.formats.region import PAGE_SIZE_BYTES, SLOT_SIZE_BYTES, FrameKind, PageRun
from dumpwriter.frames import (
    decode_dump_header,
    decode_header,
    is_in_place,
    page_count,
    payload_is_true,
    slot_count,
    slot_offset_bytes,
)
from dumpwriter.metadata import decode_metadata, pages_of
from dumpwriter.pageset import PageSet
from dumpwriter.verdict import Reason, Verdict
from vdisk.blockdevice import BLOCK_SIZE_BYTES
from vdisk.errors import DeviceError, FormatError

if TYPE_CHECKING:
    from collections.abc import Callable

    from dumpwriter.formats.region import DumpHeader
    from dumpwriter.frames import DumpIdentity, Frame
    from dumpwriter.metadata import Metadata
    from vdisk.layers.mapped import Mapped


class PageSink(Protocol):
    """Takes verified pages, in no order."""

    def data(self, first_page: int, content: memoryview) -> None:
        """Whole pages from `first_page` on; the memory is reused after the call."""

    def zeros(self, run: PageRun) -> None:
        """Pages that are known to hold zeros."""


class Findings(NamedTuple):
    """What the region holds of one dump. Page runs are ascending and disjoint."""

    verdict: Verdict
    reason: Reason
    header: DumpHeader | None
    metadata: Metadata | None
    pages_total: int
    present: tuple[PageRun, ...]
    missing: tuple[PageRun, ...]
    frames_damaged: int

    @property
    def pages_present(self) -> int:
        return page_count(self.present)


def recover(
    region: Mapped, identity: DumpIdentity, sink: PageSink, progress: Callable[[int, int], None] | None = None
) -> Findings:
    """Read every slot once and hand what proves true to the sink. Never raises for what the region holds."""
    scan = _Scan(region, identity, sink)
    slots = scan.slots_to_read()
    for slot in range(slots):
        scan.take_slot(slot)
        if progress is not None:
            progress(slot + 1, slots)
    return scan.findings()


class _Scan:
    def __init__(self, region: Mapped, identity: DumpIdentity, sink: PageSink) -> None:
        self._region = region
        self._identity = identity
        self._sink = sink
        self._buffer = memoryview(bytearray(SLOT_SIZE_BYTES))
        self._present = PageSet()
        self._metadata: Metadata | None = None
        self._pages_total = 0
        self._frames_damaged = 0
        self._header = newest_header(region, identity)

    def slots_to_read(self) -> int:
        """All slots; or, where a header of this dump says how many were planned, just those."""
        slots = slot_count(self._region.size_bytes)
        planned = self._header.frames_planned if self._header else 0
        return min(slots, planned) if planned else slots

    def take_slot(self, slot: int) -> None:
        offset_bytes = slot_offset_bytes(slot)
        head = self._buffer[:BLOCK_SIZE_BYTES]
        if not self._read(offset_bytes, head):
            return
        frame = decode_header(head, self._identity)
        if frame is None or not is_in_place(frame, self._region.extents) or frame.header.sequence != slot:
            return
        end_bytes = BLOCK_SIZE_BYTES + frame.header.payload_size_bytes
        payload = self._buffer[BLOCK_SIZE_BYTES:end_bytes]
        if self._read(offset_bytes + BLOCK_SIZE_BYTES, payload) and payload_is_true(self._buffer, frame):
            self._take_frame(frame, payload)
        else:
            self._frames_damaged += 1

    def _take_frame(self, frame: Frame, payload: memoryview) -> None:
        self._pages_total = frame.header.pages_total
        if frame.header.kind == FrameKind.META:
            try:
                self._metadata = decode_metadata(bytes(payload))
            except FormatError:
                self._frames_damaged += 1  # digested, yet wrong: the writer's memory was broken
            return
        for run in frame.runs:
            length_bytes = 0 if frame.header.kind == FrameKind.ZEROS else run.page_count * PAGE_SIZE_BYTES
            if self._present.add(run):
                self._hand_over(frame, run, payload[:length_bytes])
            payload = payload[length_bytes:]

    def _hand_over(self, frame: Frame, run: PageRun, content: memoryview) -> None:
        if frame.header.kind == FrameKind.ZEROS:
            self._sink.zeros(run)
        else:
            self._sink.data(run.first_page, content)

    def findings(self) -> Findings:
        present = self._present.runs()
        # Without metadata the memory map is lost, and missing pages are named as if memory had no gaps.
        expected = pages_of(self._metadata.ranges) if self._metadata else [PageRun(0, self._pages_total)]
        missing = tuple(self._present.missing_from(expected))
        total = page_count(expected)
        verdict, reason = self._judge(page_count(present), total)
        return Findings(verdict, reason, self._header, self._metadata, total, present, missing, self._frames_damaged)

    def _judge(self, present: int, total: int) -> tuple[Verdict, Reason]:
        if self._metadata is not None and 0 < present == total:
            return Verdict.COMPLETE, Reason.WHOLE
        if not present:
            begun = self._header is not None and self._header.frames_planned
            damaged = self._frames_damaged or self._metadata is not None
            return Verdict.NONE, Reason.NO_PAGES if begun or damaged else Reason.NO_DUMP
        if self._frames_damaged:
            return Verdict.PARTIAL, Reason.FRAMES_LOST
        if self._header and self._header.pages_planned < total and present == self._header.pages_planned:
            return Verdict.PARTIAL, Reason.REGION_TOO_SMALL
        return Verdict.PARTIAL, Reason.CUT

    def _read(self, offset_bytes: int, buffer: memoryview) -> bool:
        """False where the disk cannot read it: what is there is lost, the rest is not."""
        try:
            self._region.read_into(offset_bytes, buffer)
        except DeviceError:
            return False
        return True


def newest_header(region: Mapped, identity: DumpIdentity) -> DumpHeader | None:
    """The whole header copy of this dump that knows most; None where neither is whole."""
    found = []
    for offset_bytes in header_offsets_bytes(region.size_bytes):
        (place,) = region.extents.runs(offset_bytes, BLOCK_SIZE_BYTES)
        try:
            block = region.read(offset_bytes, BLOCK_SIZE_BYTES)
        except DeviceError:
            continue  # the other copy is there for this
        header = decode_dump_header(block, identity, place.physical_bytes)
        found += [header] if header else []
    return max(found, key=lambda header: header.state, default=None)
