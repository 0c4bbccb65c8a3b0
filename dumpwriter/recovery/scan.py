"""Recovery: from the region to verified pages and a verdict. Synchronous and pure but for the device it reads.

It trusts the identity it was given (which dump is looked for) and the extents; every frame must prove the rest. It
needs neither header: the headers only explain. It keeps no object per page: runs, and one buffer for a slot. What a
slot holds is found out in `slots`, from its own bytes; here a dump is made of that, and of what `rebuilding` makes of
the slots together.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, Protocol

from dumpwriter.formats.region import PAGE_SIZE_BYTES, SLOT_SIZE_BYTES, FrameKind
from dumpwriter.frames import page_count, slot_count
from dumpwriter.metadata import decode_metadata
from dumpwriter.recovery.blobs import BlobAssembly, Secondary
from dumpwriter.recovery.headers import newest_header
from dumpwriter.recovery.judgement import Evidence, judge, judge_closed
from dumpwriter.recovery.opening import ClosedFrames, Opened, WithoutKey
from dumpwriter.recovery.pageset import PageSet
from dumpwriter.recovery.rebuilding import Rebuilding, SlotReader
from dumpwriter.recovery.slots import NOTHING, read_piece, read_places, read_slot, slot_buffer, true_frame
from vdisk.blockdevice import BLOCK_SIZE_BYTES
from vdisk.errors import FormatError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from dumpwriter.formats.region import DumpHeader, PageRun
    from dumpwriter.frames import DumpIdentity, Frame
    from dumpwriter.metadata import Metadata
    from dumpwriter.recovery.judgement import Judgement
    from dumpwriter.recovery.opening import Opener
    from dumpwriter.recovery.rebuilding import Rebuilt
    from dumpwriter.recovery.slots import Slot
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
    frames_rebuilt: int = 0  # not counted as damaged, nor as failed reads

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


class Slots(SlotReader, Protocol):
    """The slots of a region, and what its headers say."""

    count: int

    def header(self) -> DumpHeader | None:
        """The newest of this dump; None where there is none."""


class RegionSlots:
    """Read one at a time, into one buffer."""

    def __init__(self, region: Mapped, identity: DumpIdentity) -> None:
        self.count = slot_count(region.size_bytes)
        self._region = region
        self._identity = identity
        self._buffer = slot_buffer()

    def header(self) -> DumpHeader | None:
        return newest_header(self._region, self._identity)

    def read(self, sequence: int) -> Slot:
        return read_slot(self._region, self._identity, sequence, self._buffer)

    def prove(self, sequence: int, content: memoryview) -> Frame | None:
        return true_frame(content, self._identity, sequence, self._region.extents)


class ScatteredSlots:
    """Frames that were found one by one, by the slots that they name."""

    def __init__(self, disk: BlockDevice, identity: DumpIdentity, frames: Sequence[Frame]) -> None:
        self._disk = disk
        self._identity = identity
        self._places = {frame.header.sequence: frame.places for frame in frames}
        self._buffer = slot_buffer()

    def read(self, sequence: int) -> Slot:
        places = self._places.get(sequence)
        return read_places(self._disk, self._identity, places, self._buffer) if places else NOTHING

    def prove(self, sequence: int, content: memoryview) -> Frame | None:
        return true_frame(content, self._identity, sequence, extents=None)


def recover(
    region: Mapped,
    identity: DumpIdentity,
    sink: PageSink,
    progress: Callable[[int, int], None] | None = None,
    opener: Opener | None = None,
) -> Findings:
    """Read every slot and hand what proves true to the sink. Never raises for what the region holds."""
    return assemble(RegionSlots(region, identity), sink, progress, opener)


def assemble(
    slots: Slots,
    sink: PageSink,
    progress: Callable[[int, int], None] | None = None,
    opener: Opener | None = None,
) -> Findings:
    """Make a dump of what the slots hold."""
    header = slots.header()
    assembly = _Assembly(sink, header, opener)
    count = _slots_to_read(slots, header)
    rebuilding = Rebuilding(slots, count)
    for sequence in range(count):
        slot = slots.read(sequence)
        rebuilding.see(sequence, slot)
        assembly.take(slot)
        if progress is not None:
            progress(sequence + 1, count)
    assembly.rebuild(rebuilding)
    return assembly.findings()


def read_metadata(region: Mapped, identity: DumpIdentity) -> Metadata | None:
    """What the first frame of a dump says, or where it is lost any other; None where there is none."""
    slots = RegionSlots(region, identity)
    assembly = _Assembly(_Deaf(), None, opener=None)
    assembly.take(slots.read(0))
    return assembly.metadata or assemble(slots, _Deaf()).metadata


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
    """The same from frames that were found one by one, in the order of their slots, each where it says it is."""
    assembly, buffer = _Assembly(sink, None, opener), slot_buffer()
    rebuilding = Rebuilding(ScatteredSlots(disk, identity, frames), disk.size_bytes // SLOT_SIZE_BYTES)
    for number, found in enumerate(frames, start=1):
        slot = read_places(disk, identity, found.places, buffer)
        rebuilding.see(found.header.sequence, slot)
        assembly.take(slot)
        progress(number, len(frames))
    assembly.rebuild(rebuilding)
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
    assembly, buffer = _Assembly(sink, header, opener), slot_buffer()
    position_bytes = 0
    while position_bytes < file.size_bytes:
        piece = read_piece(file, identity, position_bytes, buffer)
        assembly.take(piece)
        position_bytes += piece.frame.size_bytes if piece.frame else BLOCK_SIZE_BYTES
        progress(position_bytes, file.size_bytes)
    return assembly.findings()


def _slots_to_read(slots: Slots, header: DumpHeader | None) -> int:
    """All slots; or, where a header of this dump says how many were planned, just those."""
    planned = header.slots_planned if header else 0
    return min(slots.count, planned) if planned else slots.count


class _Assembly:
    """Frames that proved true, becoming a dump."""

    def __init__(self, sink: PageSink, header: DumpHeader | None, opener: Opener | None) -> None:
        self._frames_damaged = 0
        self._reads_failed = 0
        self._sink = sink
        self._header = header
        self._opener = opener or WithoutKey()
        self._closed = ClosedFrames()
        self._frames_open = self._frames_rebuilt = 0
        self._sealed_for: bytes | None = None
        self._present = PageSet()
        self._blobs = BlobAssembly()
        self.metadata: Metadata | None = None
        self._pages_total = 0

    def take(self, slot: Slot) -> None:
        """Count what is damaged, and take a frame that was believed as bytes as far as it can be opened."""
        self._frames_damaged += slot.frames_damaged
        self._reads_failed += slot.reads_failed
        if slot.frame is None or slot.frame.header.kind == FrameKind.PARITY:
            return
        opened = self._opener.open(slot.frame, slot.content)
        if opened is Opened.FALSE:
            self._frames_damaged += 1
        elif opened is Opened.CLOSED:
            self._closed.add(slot.frame)
        else:
            self._take_open(slot.frame, slot.content[BLOCK_SIZE_BYTES:])

    def rebuild(self, rebuilding: Rebuilding) -> None:
        """Take what can be had of the slots that gave nothing. What cannot be read now may be so another time."""
        for rebuilt in rebuilding.rebuilt():
            self._take_rebuilt(rebuilt)
        self._reads_failed += rebuilding.reads_failed

    def _take_rebuilt(self, rebuilt: Rebuilt) -> None:
        """The frame stands for what its slot gave."""
        self._frames_rebuilt += 1
        self._frames_damaged -= rebuilt.instead.frames_damaged
        self._reads_failed -= rebuilt.instead.reads_failed
        self.take(rebuilt.slot)

    def _take_open(self, frame: Frame, payload: memoryview) -> None:
        self._frames_open += 1
        self._sealed_for = frame.seal.record.fingerprint if frame.seal else None
        self._pages_total = frame.header.pages_total
        try:
            if frame.header.kind == FrameKind.META:
                self.metadata = decode_metadata(bytes(payload))
            elif frame.header.kind == FrameKind.SECONDARY:
                self._blobs.take(bytes(payload))
        except FormatError:
            self._frames_damaged += 1  # digested, yet wrong: the writer's memory was broken
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
            self._header, self.metadata, self._pages_total, self._present, self._frames_damaged, self._reads_failed
        )
        return Findings(
            judge(evidence),
            self._header,
            self.metadata,
            self._present.runs(),
            self._frames_damaged,
            self._reads_failed,
            self._sealed_for,
            secondary=self._blobs.outcome(self.metadata.secondary if self.metadata else ()),
            frames_rebuilt=self._frames_rebuilt,
        )

    def _closed_findings(self, fingerprint: bytes) -> Findings:
        """As far as it can be known without the key. What is plain in a sealed dump is not of it."""
        closed, damaged = self._closed, self._frames_damaged + self._frames_open
        evidence = Evidence(self._header, None, closed.pages_total, closed.pages, damaged, self._reads_failed)
        return Findings(
            judge_closed(evidence, has_metadata=closed.has_metadata),
            self._header,
            None,
            closed.pages.runs(),
            damaged,
            self._reads_failed,
            fingerprint,
            closed.size_bytes,
            frames_rebuilt=self._frames_rebuilt,
        )
