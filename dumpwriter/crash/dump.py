"""A dump, step by step and without a clock or a thread: what the writer does in parallel and a laboratory one by one.

    begin      headers say WRITING, each flushed before the next
    requests   in any order, any number of them in flight; behind the last one of a set, the set's parity
    finish     the parity of sets that were begun, where requests were left out
    end        flush; headers say WRITTEN, each flushed before the next

A write that fails is tried frame by frame. A frame that its own slot does not take is moved to a spare one behind the
plan; where there is none left it is counted as failed, and the dump goes on without it. A cipher that fails stops the
dump: nothing goes out unsealed, and nothing says WRITTEN.
"""

from __future__ import annotations

import contextlib
import itertools
import struct
import threading
from typing import TYPE_CHECKING, NamedTuple, Protocol

from dumpwriter.crash.protection import REQUEST_FRAMES
from dumpwriter.formats.region import (
    DUMP_HEADER,
    HEADER_MAGIC,
    PAGE_SIZE_BYTES,
    SLOT_SIZE_BYTES,
    VERSION,
    CauseKind,
    DumpEnding,
    DumpHeader,
    DumpLevel,
    DumpState,
    FrameKind,
)
from dumpwriter.frames import DumpIdentity, encode_dump_header, encode_frame, page_count, slot_offset_bytes
from dumpwriter.sealing import UNSEALED
from dumpwriter.secondary import fill, payload_size_bytes
from dumpwriter.verdict import Verdict
from vdisk.blockdevice import BLOCK_SIZE_BYTES
from vdisk.bootarea import BootStage
from vdisk.errors import DeviceError, EncryptionError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from typing_extensions import Buffer

    from dumpwriter.crash.parity import Parity
    from dumpwriter.crash.plan import DumpPlan
    from dumpwriter.crash.protection import ParitySet
    from dumpwriter.frames import FramePlan
    from dumpwriter.sealing import Sealer
    from dumpwriter.secondary import Piece
    from vdisk.blockdevice import BlockDevice
    from vdisk.extent import ExtentMap

REQUEST_BUFFER_SIZE_BYTES = (REQUEST_FRAMES + 1) * SLOT_SIZE_BYTES  # the last for a frame that goes elsewhere
TAKEOVER_SIZE_BYTES = DUMP_HEADER.field("takeover_text").size_bytes


class MemoryReader(Protocol):
    """Physical memory, as the writer reads it."""

    def read_into(self, physical_bytes: int, buffer: Buffer) -> None: ...


class BlobReader(Protocol):
    """Secondary data, by offsets in the file that it lies in."""

    def read_into(self, offset_bytes: int, buffer: Buffer) -> None: ...


class Cause(NamedTuple):
    """Why the machine stopped. The text is cut to 128 bytes on the disk."""

    kind: CauseKind
    code: int
    parameters: tuple[int, int, int, int]
    text: str
    time_ns: int
    boot_stage: int = BootStage.RUNNING  # how far the machine was


class Writer(NamedTuple):
    """Who writes the dump: 1 + the rank, 0 for nobody; and why those of a lower rank did not, cut to 84 bytes."""

    number: int
    takeover: str


NOBODY = Writer(0, "")


class DumpJob(NamedTuple):
    """All that carrying a plan out needs. `region` is the region as a device, `metadata` an encoded META payload."""

    plan: DumpPlan
    identity: DumpIdentity
    extents: ExtentMap
    region: BlockDevice
    memory: MemoryReader
    metadata: bytes
    cause: Cause
    armed_time_ns: int
    sealer: Sealer = UNSEALED
    level: DumpLevel = DumpLevel.AUTOMATIC
    blobs: BlobReader | None = None
    writer: Writer = NOBODY
    pieces: Sequence[Sequence[Piece]] = ()  # of secondary data, for each of the plan's frames of that kind
    parity: Parity | None = None  # None: the sets of the plan go without theirs

    @property
    def spare_slots(self) -> range:
        return self.plan.spare_slots(self.extents.size_bytes)


class Progress:
    """How far a dump is; shared by the threads that write it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.frames_written = self.frames_moved = self.frames_failed = self.pages_written = self.bytes_written = 0
        self._spares_tried = 0
        self._has_metadata = False
        self.failure = ""
        self.is_out_of_time = False
        self.is_committed = False
        self.is_stopped = False

    def count_written(self, frames: Sequence[FramePlan], bytes_written: int, moved: int = 0) -> None:
        with self._lock:
            self.frames_moved += moved
            self.frames_written += len(frames)
            self._has_metadata |= any(frame.kind == FrameKind.META for frame in frames)
            self.pages_written += sum(page_count(frame.runs) for frame in frames)
            self.bytes_written += bytes_written

    def try_spare(self, spare_slots: range) -> int | None:
        """A slot that nobody has tried yet; None where there is no more."""
        with self._lock:
            if self._spares_tried == len(spare_slots):
                return None
            self._spares_tried += 1
            return spare_slots[self._spares_tried - 1]

    def count_failed(self, failure: OSError | None) -> None:
        with self._lock:
            self.frames_failed += 1
            self.failure = self.failure or str(failure)

    def verdict(self, plan: DumpPlan) -> Verdict:
        """The writer's own word, in the terms of recovery, and never a better one: parity may yet make it better."""
        is_whole = self.pages_written == plan.pages_wanted and self._has_metadata
        if not self.pages_written:
            return Verdict.NONE
        return Verdict.COMPLETE if self.is_committed and is_whole else Verdict.PARTIAL

    @contextlib.contextmanager
    def stopping(self) -> Iterator[None]:
        """What is done in here ends the dump where it is, if the cipher fails."""
        try:
            yield
        except EncryptionError as failure:
            self.is_stopped = True
            self.failure = self.failure or str(failure)


def arm_region(region: BlockDevice, identity: DumpIdentity, extents: ExtentMap, armed_time_ns: int) -> None:
    """Put headers of an empty dump over whatever the region held. Raises `DeviceError`."""
    for header in _headers(extents, _header(identity, extents, DumpState.ARMED, armed_time_ns), UNSEALED):
        region.write_through(*header)


def begin(job: DumpJob, progress: Progress) -> None:
    with progress.stopping():
        _write_headers(job, progress, DumpState.WRITING, end_time_ns=0)


def end(job: DumpJob, progress: Progress, end_time_ns: int) -> None:
    """Commit. Where the flush fails, frames may be lost that were thought written, and nothing says WRITTEN."""
    try:
        job.region.flush()
    except DeviceError as failure:
        progress.failure = progress.failure or str(failure)
        return
    with progress.stopping():
        if not progress.is_stopped:
            _write_headers(job, progress, DumpState.WRITTEN, end_time_ns)
    progress.is_committed = not progress.is_stopped


def write_request(job: DumpJob, frames: Sequence[FramePlan], buffer: memoryview, progress: Progress) -> None:
    """Carry out one request in a buffer of `REQUEST_BUFFER_SIZE_BYTES`. What fails is counted, not raised.

    Where it is the last of a set, it writes the set's parity as well.
    """
    with progress.stopping():
        _write_together(job, frames, buffer, progress)
        parity_frames = job.parity.finish(frames) if job.parity is not None else []
        if job.parity is not None and parity_frames:
            _write_parity(job, job.parity, parity_frames, buffer, progress)


def finish_sets(job: DumpJob, buffer: memoryview, progress: Progress) -> None:
    """When no request is under way any more: parity for the frames of sets of which some were left out.

    Any number of threads may do it together, each with a buffer of its own.
    """
    with progress.stopping():
        if job.parity is not None and not progress.is_stopped:
            for parity_frames in job.parity.finish_begun():
                _write_parity(job, job.parity, parity_frames, buffer, progress)


def _write_parity(
    job: DumpJob, parity: Parity, parity_frames: Sequence[FramePlan], buffer: memoryview, progress: Progress
) -> None:
    """Of the frames of a set those that cover anything: a group may have got no frame."""
    for covers_any, run in itertools.groupby(parity_frames, key=lambda frame: bool(frame.covers)):
        if covers_any:
            _write_together(job, list(run), buffer, progress)
    parity.release(parity_frames)


def _write_together(job: DumpJob, frames: Sequence[FramePlan], buffer: memoryview, progress: Progress) -> None:
    elsewhere = _slot_of(buffer, REQUEST_FRAMES)
    try:
        contents = fill_request(job, frames, buffer)
    except OSError:  # of memory: what can be read of it goes out
        _write_what_can_be_read(job, frames, buffer, progress)
        return
    size_bytes = (len(frames) - 1) * SLOT_SIZE_BYTES + contents[-1].nbytes
    try:
        job.region.write_from(frames[0].region_offset_bytes, buffer[:size_bytes])
    except DeviceError:
        for frame, content in zip(frames, contents, strict=True):
            _write_alone(job, frame, content, elsewhere, progress)
        return
    progress.count_written(frames, size_bytes)
    for frame, content in zip(frames, contents, strict=True):
        _cover(job, frame, frame.sequence, content)


def _write_what_can_be_read(job: DumpJob, frames: Sequence[FramePlan], buffer: memoryview, progress: Progress) -> None:
    for number, frame in enumerate(frames):
        try:
            content = _fill_slot(job, frame, _slot_of(buffer, number))
        except OSError as failure:
            progress.count_failed(failure)
        else:
            _write_alone(job, frame, content, _slot_of(buffer, REQUEST_FRAMES), progress)


def _slot_of(buffer: memoryview, number: int) -> memoryview:
    return buffer[number * SLOT_SIZE_BYTES : (number + 1) * SLOT_SIZE_BYTES]


def _write_alone(
    job: DumpJob, frame: FramePlan, content: memoryview, elsewhere: memoryview, progress: Progress
) -> None:
    """To its own slot, byte for byte as in the request: what was given up may still come, and must be the same."""
    try:
        job.region.write_from(frame.region_offset_bytes, content)
    except DeviceError as failure:
        _write_further_on(job, frame, content, elsewhere, progress, failure)
    else:
        progress.count_written([frame], content.nbytes)
        _cover(job, frame, frame.sequence, content)


def _write_further_on(
    job: DumpJob,
    frame: FramePlan,
    content: memoryview,
    elsewhere: memoryview,
    progress: Progress,
    failure: DeviceError,
) -> None:
    """To the first spare slot that takes it, made anew for that place.

    Where none does, parity has it, if it has none of its group yet: with the bytes that its own slot was given, which
    may have come there after all.
    """
    while (spare := progress.try_spare(job.spare_slots)) is not None:
        moved = _fill_slot(job, frame._replace(sequence=spare), elsewhere)
        try:
            job.region.write_from(slot_offset_bytes(spare), moved)
        except DeviceError:
            continue
        progress.count_written([frame], moved.nbytes, moved=1)
        _cover(job, frame, spare, moved)
        return
    progress.count_failed(failure)
    if job.parity is not None and frame.kind != FrameKind.PARITY:
        job.parity.cover_lost(frame.sequence, content)


def _cover(job: DumpJob, frame: FramePlan, slot: int, content: memoryview) -> None:
    if job.parity is not None and frame.kind != FrameKind.PARITY:
        job.parity.cover(frame.sequence, slot, content)


def fill_request(job: DumpJob, frames: Sequence[FramePlan], buffer: memoryview) -> list[memoryview]:
    """Each frame in its slot, one behind the other; what a short frame leaves of its slot is zero."""
    contents: list[memoryview] = []
    for number, frame in enumerate(frames):
        slot = _slot_of(buffer, number)
        content = _fill_slot(job, frame, slot)
        slot[content.nbytes :] = bytes(slot.nbytes - content.nbytes)
        contents.append(content)
    return contents


def bytes_to_write(job: DumpJob) -> int:
    """What carrying a job out writes to the disk where no write fails, headers and parity and all."""
    headers_bytes = 2 * len(header_offsets_bytes(job.extents.size_bytes)) * BLOCK_SIZE_BYTES
    requests = [[frame_size_bytes(job, frame) for frame in frames] for frames in job.plan.requests()]
    requests += [_parity_sizes_bytes(job, one) for one in job.plan.sets]
    return headers_bytes + sum((len(sizes_bytes) - 1) * SLOT_SIZE_BYTES + sizes_bytes[-1] for sizes_bytes in requests)


def _parity_sizes_bytes(job: DumpJob, one: ParitySet) -> list[int]:
    """Of the parity frames of a set, in the order of their slots."""
    longest = dict.fromkeys(map(one.group_of, one.parity_slots), 0)
    for frame in job.plan.frames_of(one):
        group = one.group_of(frame.sequence)
        longest[group] = max(longest[group], frame_size_bytes(job, frame))
    return [BLOCK_SIZE_BYTES + size_bytes for size_bytes in longest.values()]


def frame_size_bytes(job: DumpJob, frame: FramePlan) -> int:
    """What a frame of the plan takes of its slot: its header block and its payload."""
    if frame.kind == FrameKind.META:
        return BLOCK_SIZE_BYTES + len(job.metadata)
    if frame.kind == FrameKind.SECONDARY:
        return BLOCK_SIZE_BYTES + payload_size_bytes(job.pieces[frame.part])
    return BLOCK_SIZE_BYTES + (frame.kind == FrameKind.PAGES) * page_count(frame.runs) * PAGE_SIZE_BYTES


def _fill_slot(job: DumpJob, frame: FramePlan, slot: memoryview) -> memoryview:
    payload_bytes = 0
    if frame.kind == FrameKind.META:
        payload_bytes = len(job.metadata)
        slot[BLOCK_SIZE_BYTES : BLOCK_SIZE_BYTES + payload_bytes] = job.metadata
    elif frame.kind == FrameKind.SECONDARY:
        assert job.blobs is not None
        payload_bytes = fill(slot[BLOCK_SIZE_BYTES:], job.pieces[frame.part], job.blobs.read_into)
    elif frame.kind == FrameKind.PARITY:
        assert job.parity is not None
        payload_bytes = job.parity.fill(frame, slot[BLOCK_SIZE_BYTES:])
    elif frame.kind == FrameKind.PAGES:
        for run in frame.runs:
            start_bytes = BLOCK_SIZE_BYTES + payload_bytes
            length_bytes = run.page_count * PAGE_SIZE_BYTES
            job.memory.read_into(run.first_page * PAGE_SIZE_BYTES, slot[start_bytes : start_bytes + length_bytes])
            payload_bytes += length_bytes
    sealer = UNSEALED if frame.kind == FrameKind.PARITY else job.sealer  # what it covers is sealed
    return encode_frame(slot, frame, job.identity, job.extents, job.plan.pages_total, payload_bytes, sealer)


def _write_headers(job: DumpJob, progress: Progress, state: DumpState, end_time_ns: int) -> None:
    cause = job.cause
    ending = DumpEnding.TIME_BUDGET if progress.is_out_of_time else DumpEnding.THROUGH
    header = _header(job.identity, job.extents, state, job.armed_time_ns)._replace(
        dump_level=job.level,
        ending=ending if state == DumpState.WRITTEN else DumpEnding.NONE,
        frames_planned=job.plan.frame_count,
        slots_planned=job.spare_slots.stop,
        frames_moved=progress.frames_moved,
        frames_written=progress.frames_written,
        frames_failed=progress.frames_failed,
        pages_total=job.plan.pages_total,
        pages_wanted=job.plan.pages_wanted,
        pages_planned=job.plan.pages_planned,
        pages_written=progress.pages_written,
        bytes_written=progress.bytes_written,
        cause_kind=cause.kind,
        bugcheck_code=cause.code,
        bugcheck_parameters=struct.pack("<4Q", *cause.parameters),
        crash_time_ns=cause.time_ns,
        end_time_ns=end_time_ns,
        cause_text=cut_text(cause.text, 128),
        boot_stage=cause.boot_stage,
        writer=job.writer.number,
        takeover_text=cut_text(job.writer.takeover, TAKEOVER_SIZE_BYTES),
    )
    for offset_bytes, block in _headers(job.extents, header, job.sealer):
        try:
            job.region.write_through(offset_bytes, block)
        except DeviceError as failure:
            progress.failure = progress.failure or str(failure)  # frames speak for themselves without a header


def _headers(extents: ExtentMap, header: DumpHeader, sealer: Sealer) -> list[tuple[int, bytes]]:
    """Each copy with its offset in the region, bound to its place on the disk."""
    copies = []
    for offset_bytes in header_offsets_bytes(extents.size_bytes):
        (place,) = extents.runs(offset_bytes, BLOCK_SIZE_BYTES)
        placed = sealer.seal_header(header._replace(physical_bytes=place.physical_bytes))
        copies.append((offset_bytes, encode_dump_header(placed)))
    return copies


def header_offsets_bytes(region_size_bytes: int) -> tuple[int, int]:
    return 0, region_size_bytes - BLOCK_SIZE_BYTES


def cut_text(text: str, size_bytes: int) -> bytes:
    """UTF-8 of at most `size_bytes`, never ending inside a character."""
    return text.encode(errors="replace")[:size_bytes].decode(errors="ignore").encode()


def _header(identity: DumpIdentity, extents: ExtentMap, state: DumpState, armed_time_ns: int) -> DumpHeader:
    return DumpHeader(
        magic=HEADER_MAGIC,
        version=VERSION,
        state=state,
        dump_id=identity.dump_id,
        generation=identity.generation,
        physical_bytes=0,
        region_size_bytes=extents.size_bytes,
        frames_planned=0,
        frames_written=0,
        frames_failed=0,
        cause_kind=CauseKind.NONE,
        dump_level=DumpLevel.AUTOMATIC,
        ending=DumpEnding.NONE,
        pages_total=0,
        pages_wanted=0,
        pages_planned=0,
        pages_written=0,
        bytes_written=0,
        bugcheck_code=0,
        bugcheck_parameters=bytes(32),
        armed_time_ns=armed_time_ns,
        crash_time_ns=0,
        end_time_ns=0,
        cause_text=b"",
        boot_stage=BootStage.OFF,
        writer=NOBODY.number,
        slots_planned=0,
        frames_moved=0,
        takeover_text=b"",
        seal_fingerprint=bytes(32),
        seal_nonce=bytes(12),
        seal_tag=bytes(16),
        digest=bytes(32),
    )
