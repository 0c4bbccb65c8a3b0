"""Recovery: from the region to verified pages and a verdict. Synchronous and pure but for the device it reads.

It trusts the identity it was given (which dump is looked for) and the extents; every frame must prove the rest. It
needs neither header: the headers only explain. It keeps no object per page: runs, and one buffer for a slot.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, Protocol

from dumpwriter.crash.dump import header_offsets_bytes
from dumpwriter.formats.region import PAGE_SIZE_BYTES, SLOT_SIZE_BYTES, FrameKind
from dumpwriter.frames import (
    decode_dump_header,
    decode_header,
    is_in_place,
    page_count,
    payload_is_true,
    slot_count,
    slot_offset_bytes,
)
from dumpwriter.metadata import decode_metadata
from dumpwriter.recovery.blobs import BlobAssembly, Secondary
from dumpwriter.recovery.judgement import Evidence, judge, judge_closed
from dumpwriter.recovery.opening import ClosedFrames, Opened, WithoutKey
from dumpwriter.recovery.pageset import PageSet
from vdisk.blockdevice import BLOCK_SIZE_BYTES
from vdisk.errors import DeviceError, FormatError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from dumpwriter.formats.region import DumpHeader, PageRun
    from dumpwriter.frames import DumpIdentity, Frame
    from dumpwriter.metadata import Metadata
    from dumpwriter.recovery.judgement import Judgement
    from dumpwriter.recovery.opening import Opener
    from dumpwriter.verdict import Reason, Verdict
    from vdisk.blockdevice import BlockDevice
    from vdisk.layers.mapped import Mapped


class PageSink(Protocol):
    """Takes verified pages, in no order."""

    def data(self, first_page: int, content: memoryview) -> None:
        """Whole pages from `first_page` on; the memory is reused after the call."""

    def zeros(self, run: PageRun) -> None:
        """Pages that are known to hold zeros."""


class Findings(NamedTuple):
    """What the region holds of one dump. Page runs are ascending and disjoint."""

    judgement: Judgement
    header: DumpHeader | None
    metadata: Metadata | None
    present: tuple[PageRun, ...]
    frames_damaged: int
    reads_failed: int  # what could not be read now; another time it may be
    sealed_for: bytes | None = None  # fingerprint of the public key; None where the dump is not sealed
    closed_size_bytes: int = 0  # of frames that stayed sealed: pages are then those that they say they hold
    secondary: Secondary = Secondary()

    @property
    def is_closed(self) -> bool:
        """Whether it is a sealed dump of which no page could be read."""
        return self.closed_size_bytes > 0

    @property
    def verdict(self) -> Verdict:
        return self.judgement.verdict

    @property
    def reason(self) -> Reason:
        return self.judgement.reason

    @property
    def pages_present(self) -> int:
        return page_count(self.present)


def recover(
    region: Mapped,
    identity: DumpIdentity,
    sink: PageSink,
    progress: Callable[[int, int], None] | None = None,
    opener: Opener | None = None,
) -> Findings:
    """Read every slot once and hand what proves true to the sink. Never raises for what the region holds."""
    header = newest_header(region, identity)
    assembly = _Assembly(sink, header, opener)
    slots = _slots_to_read(region, header)
    for slot in range(slots):
        _take_slot(region, identity, slot, assembly)
        if progress is not None:
            progress(slot + 1, slots)
    return assembly.findings()


def read_metadata(region: Mapped, identity: DumpIdentity) -> Metadata | None:
    """What the first frame of a dump says, or where it is lost the last one; None where both are."""
    header = newest_header(region, identity)
    assembly = _Assembly(_Deaf(), header, opener=None)
    for slot in (0, _slots_to_read(region, header) - 1):
        if assembly.metadata is None and slot >= 0:
            _take_slot(region, identity, slot, assembly)
    return assembly.metadata


class _Deaf:
    """A sink that takes no page."""

    def data(self, first_page: int, content: memoryview) -> None: ...

    def zeros(self, run: PageRun) -> None: ...


def recover_scattered(
    disk: BlockDevice,
    identity: DumpIdentity,
    frames: Sequence[Frame],
    sink: PageSink,
    progress: Callable[[int, int], None],
    opener: Opener | None = None,
) -> Findings:
    """The same from frames that were found one by one, each at the places that it names itself."""
    assembly = _Assembly(sink, None, opener)
    for number, found in enumerate(frames, start=1):
        buffer = assembly.buffer[: sum(place.length_bytes for place in found.places)]
        position = 0
        is_read = True
        for physical_bytes, length_bytes in found.places:
            is_read = is_read and assembly.read(disk, physical_bytes, buffer[position : position + length_bytes])
            position += length_bytes
        frame = decode_header(buffer[:BLOCK_SIZE_BYTES], identity) if is_read else None
        if frame is not None and payload_is_true(buffer, frame):
            assembly.take(frame, buffer[BLOCK_SIZE_BYTES:])
        else:
            assembly.frames_damaged += 1
        progress(number, len(frames))
    return assembly.findings()


def recover_one_behind_the_other(
    file: BlockDevice,
    identity: DumpIdentity,
    header: DumpHeader | None,
    sink: PageSink,
    progress: Callable[[int, int], None],
    opener: Opener | None = None,
) -> Findings:
    """The same from a file that frames were copied to. What is no frame there is passed over, block by block."""
    assembly = _Assembly(sink, header, opener)
    position = 0
    while position < file.size_bytes:
        position += _take_piece(file, identity, position, assembly)
        progress(position, file.size_bytes)
    return assembly.findings()


def _take_piece(file: BlockDevice, identity: DumpIdentity, position: int, assembly: _Assembly) -> int:
    """How far it is to where the next piece may be."""
    head = assembly.buffer[:BLOCK_SIZE_BYTES]
    frame = decode_header(head, identity) if assembly.read(file, position, head) else None
    if frame is None:
        return BLOCK_SIZE_BYTES
    slot = assembly.buffer[: frame.size_bytes]
    is_there = position + slot.nbytes <= file.size_bytes and assembly.read(file, position, slot)
    if is_there and payload_is_true(slot, frame):
        assembly.take(frame, slot[BLOCK_SIZE_BYTES:])
        return slot.nbytes
    assembly.frames_damaged += 1
    return BLOCK_SIZE_BYTES


def _slots_to_read(region: Mapped, header: DumpHeader | None) -> int:
    """All slots; or, where a header of this dump says how many were planned, just those."""
    slots = slot_count(region.size_bytes)
    planned = header.frames_planned if header else 0
    return min(slots, planned) if planned else slots


def _take_slot(region: Mapped, identity: DumpIdentity, slot: int, assembly: _Assembly) -> None:
    offset_bytes = slot_offset_bytes(slot)
    head = assembly.buffer[:BLOCK_SIZE_BYTES]
    if not assembly.read(region, offset_bytes, head):
        return
    frame = decode_header(head, identity)
    if frame is None or not is_in_place(frame, region.extents) or frame.header.sequence != slot:
        return
    payload = assembly.buffer[BLOCK_SIZE_BYTES : BLOCK_SIZE_BYTES + frame.header.payload_size_bytes]
    if assembly.read(region, offset_bytes + BLOCK_SIZE_BYTES, payload) and payload_is_true(assembly.buffer, frame):
        assembly.take(frame, payload)
    else:
        assembly.frames_damaged += 1


class _Assembly:
    """Frames that proved true, becoming a dump."""

    def __init__(self, sink: PageSink, header: DumpHeader | None, opener: Opener | None) -> None:
        self.buffer = memoryview(bytearray(SLOT_SIZE_BYTES))
        self.frames_damaged = 0
        self.reads_failed = 0
        self._sink = sink
        self._header = header
        self._opener = opener or WithoutKey()
        self._closed = ClosedFrames()
        self._frames_open = 0
        self._sealed_for: bytes | None = None
        self._present = PageSet()
        self._blobs = BlobAssembly()
        self.metadata: Metadata | None = None
        self._pages_total = 0

    def read(self, device: BlockDevice, offset_bytes: int, buffer: memoryview) -> bool:
        """False where the disk cannot read it: what is there is lost for now, the rest is not."""
        try:
            device.read_into(offset_bytes, buffer)
        except DeviceError:
            self.reads_failed += 1
            return False
        return True

    def take(self, frame: Frame, payload: memoryview) -> None:
        """Take a frame that stands in `buffer` and was believed as bytes, as far as it can be opened."""
        opened = self._opener.open(frame, self.buffer)
        if opened is Opened.FALSE:
            self.frames_damaged += 1
        elif opened is Opened.CLOSED:
            self._closed.add(frame)
        else:
            self._take_open(frame, payload)

    def _take_open(self, frame: Frame, payload: memoryview) -> None:
        self._frames_open += 1
        self._sealed_for = frame.seal.record.fingerprint if frame.seal else None
        self._pages_total = frame.header.pages_total
        try:
            if frame.header.kind == FrameKind.META:
                self.metadata = decode_metadata(bytes(payload))
            elif frame.header.kind == FrameKind.SECONDARY:
                self._blobs.take(bytes(payload[: frame.header.payload_size_bytes]))
        except FormatError:
            self.frames_damaged += 1  # digested, yet wrong: the writer's memory was broken
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
        if self._closed.fingerprint is not None:
            return self._closed_findings(self._closed.fingerprint)
        if self._header is not None and not self._opener.explains(self._header):
            self._header = None
        evidence = Evidence(
            self._header, self.metadata, self._pages_total, self._present, self.frames_damaged, self.reads_failed
        )
        return Findings(
            judge(evidence),
            self._header,
            self.metadata,
            self._present.runs(),
            self.frames_damaged,
            self.reads_failed,
            self._sealed_for,
            secondary=self._blobs.outcome(self.metadata.secondary if self.metadata else ()),
        )

    def _closed_findings(self, fingerprint: bytes) -> Findings:
        """As far as it can be known without the key. What is plain in a sealed dump is not of it."""
        closed, damaged = self._closed, self.frames_damaged + self._frames_open
        evidence = Evidence(self._header, None, closed.pages_total, closed.pages, damaged, self.reads_failed)
        return Findings(
            judge_closed(evidence, has_metadata=closed.has_metadata),
            self._header,
            None,
            closed.pages.runs(),
            damaged,
            self.reads_failed,
            fingerprint,
            closed.size_bytes,
        )


def newest_header(region: Mapped, identity: DumpIdentity) -> DumpHeader | None:
    """The whole header copy of this dump that knows most; None where neither is whole."""
    return newest(header for header, _ in _header_copies(region, identity))


def header_blocks(region: Mapped, identity: DumpIdentity) -> list[bytes]:
    """The whole header copies of this dump, as they lie."""
    return [block for _, block in _header_copies(region, identity)]


def newest(headers: Iterable[DumpHeader]) -> DumpHeader | None:
    return max(headers, key=lambda header: header.state, default=None)


def _header_copies(region: Mapped, identity: DumpIdentity) -> Iterator[tuple[DumpHeader, bytes]]:
    for offset_bytes in header_offsets_bytes(region.size_bytes):
        (place,) = region.extents.runs(offset_bytes, BLOCK_SIZE_BYTES)
        try:
            block = region.read(offset_bytes, BLOCK_SIZE_BYTES)
        except DeviceError:
            continue  # the other copy is there for this
        header = decode_dump_header(block, identity, place.physical_bytes)
        if header is not None:
            yield header, block
