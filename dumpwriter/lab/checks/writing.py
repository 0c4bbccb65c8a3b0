"""Checks of the writer: what it asks of the disk and in which order, and what it does where the disk refuses."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dumpwriter.crash import dump
from dumpwriter.formats.region import DUMP_HEADER, FRAME_MAGIC, HEADER_MAGIC, DumpEnding, DumpState, FrameKind
from dumpwriter.lab.checks.refuted import must
from dumpwriter.lab.checks.specimen import Specimen, Subject, written
from dumpwriter.lab.faults import Fault, FaultKind
from dumpwriter.lab.telling import telling
from dumpwriter.lab.world import CAUSE, END_TIME_NS
from dumpwriter.verdict import Verdict
from vdisk.blockdevice import BLOCK_SIZE_BYTES
from vdisk.errors import EncryptionError
from vdisk.layers.trace import Event, Trace

if TYPE_CHECKING:
    from dumpwriter.crash.dump import Progress
    from dumpwriter.formats.region import DumpHeader
    from vdisk.extent import Run

# In three requests, the last frames short; with pages left out, and slots to spare.
SUBJECT = Subject("written", {page: 1 + page % 5 for page in range(1200)}, frozenset(range(900, 950)), slots=40)


def headers_in_time() -> None:
    """WRITING before all else, WRITTEN when all else was flushed, each copy flushed before the next is written."""
    specimen, events = _traced(SUBJECT)
    unflushed: list[Event] = []
    states = []
    for event in events:
        if event.kind == "flush":
            unflushed = []
            continue
        if event.content.startswith(HEADER_MAGIC):
            header = DUMP_HEADER.unpack_from(event.content)
            must(not unflushed, f"a header is written while {len(unflushed)} writes are in flight")
            must(header.physical_bytes == event.offset_bytes, "a header does not say where it lies")
            states.append((DumpState(header.state), event.offset_bytes))
        else:
            must([state for state, _ in states] == [DumpState.WRITING] * 2, "a frame is written out of its time")
        unflushed.append(event)
    must(not unflushed, "the last header is not flushed")
    ends = [run.physical_bytes for run in _ends(specimen)]
    expected = [(state, place) for state in (DumpState.WRITING, DumpState.WRITTEN) for place in ends]
    must(states == expected, f"headers were written as {states}")


def headers_that_tell() -> None:
    """What the headers say at the end is what was asked for and what was done, wherever a write failed."""
    whole = Specimen(SUBJECT)
    progress = whole.write()
    _must_tell(whole, progress, moved=0)
    second = _first_write_of_a_frame(_traced(SUBJECT)[1])
    broken = Specimen(SUBJECT)
    place, length = second.offset_bytes, 512
    progress = broken.write(lambda disk: telling(disk, [Fault(FaultKind.BAD_SECTORS, 0, place, length)]))
    must(progress.frames_moved >= 1, "a frame whose slot is bad was not written elsewhere")
    _must_tell(broken, progress, moved=progress.frames_moved)


def operations_that_fail() -> None:
    """Each operation once: the dump is whole all the same, unless it was the flush that commits it."""
    _, events = _traced(SUBJECT)
    for number in range(len(events)):
        specimen = Specimen(SUBJECT)
        faults = [Fault(FaultKind.FAILED, number)]
        progress = specimen.write(lambda disk, faults=faults: telling(disk, faults))  # type: ignore[misc]
        findings, pages = specimen.read(specimen.disk.content)
        what = f"{events[number].kind} {number} fails once"
        must(findings.verdict == Verdict.COMPLETE and not specimen.wrong_pages(pages), f"{what}: {findings.verdict}")
        must(not progress.frames_failed and progress.pages_written == len(pages), f"{what}: counted wrongly")
        is_told = any(_state(specimen, run.physical_bytes) == DumpState.WRITTEN for run in _ends(specimen))
        must(is_told == progress.is_committed, f"{what}: a header says WRITTEN, or none does, against what came")
    _flushes_that_fail()


def _flushes_that_fail() -> None:
    specimen = Specimen(SUBJECT)
    progress = specimen.write(lambda disk: telling(disk, [Fault(FaultKind.FAILED_FLUSHES, 0)]))
    must(not progress.is_committed, "a dump is called committed that was never flushed")
    states = [_state(specimen, run.physical_bytes) for run in _ends(specimen)]
    must(DumpState.WRITTEN not in states, "a header says WRITTEN of a dump that was never flushed")
    must(progress.failure, "it is not told why nothing was committed")


def bad_sectors() -> None:
    """Under each frame in turn: it is written to a spare slot, and none is lost; with all spares bad it is counted."""
    specimen = written(SUBJECT)
    for frame in specimen.job().plan.frames:
        (place, _), *_ = specimen.extents.runs(frame.region_offset_bytes, BLOCK_SIZE_BYTES)
        damaged = Specimen(SUBJECT)
        bad = Fault(FaultKind.BAD_SECTORS, 0, place, 512)
        progress = damaged.write(lambda disk, bad=bad: telling(disk, [bad]))  # type: ignore[misc]
        findings, pages = damaged.read(damaged.disk.content)
        must(progress.frames_moved == 1 and not progress.frames_failed, f"frame {frame.sequence} was not moved")
        must(findings.verdict == Verdict.COMPLETE, f"frame {frame.sequence} on a bad sector: {findings.verdict}")
        must(not damaged.wrong_pages(pages), f"frame {frame.sequence} on a bad sector: wrong pages")
    gone = Specimen(SUBJECT)
    progress = gone.write(lambda disk: telling(disk, [Fault(FaultKind.GONE, 0)]))
    must(progress.frames_failed == len(gone.job().plan.frames), f"{progress.frames_failed} frames count as failed")
    must(not progress.frames_written and not progress.pages_written, "what failed counts as written")


def nothing_outside() -> None:
    """The region's neighbours are as they were; what short frames leave of their slots is blank, not somebody's."""
    specimen = Specimen(SUBJECT)
    before = bytes(specimen.disk.content)
    specimen.write()
    behind = bytearray(specimen.disk.content)
    for place, length in specimen.extents.runs(0, specimen.extents.size_bytes):
        behind[place : place + length] = before[place : place + length]
    must(behind == before, "a byte outside of the region changed")
    _, events = _traced(SUBJECT)
    must(sum(event.length_bytes for event in events) == dump.bytes_to_write(specimen.job()), "more or less is written")
    memory = specimen.job()
    buffer = memoryview(bytearray(b"\xdb" * dump.REQUEST_BUFFER_SIZE_BYTES))
    for request in memory.plan.requests():
        dump.fill_request(memory, request, buffer)
        for number, frame in enumerate(request[:-1]):
            end_bytes = number * (65 * 4096) + dump.frame_size_bytes(memory, frame)
            must(not any(buffer[end_bytes : (number + 1) * 65 * 4096]), "what is behind a short frame is not blank")


class FailingSealer:
    """Seals so many frames, and then fails."""

    record_size_bytes = 0

    def __init__(self, left: int) -> None:
        self._left = left

    def seal_frame(self, block: memoryview, record_offset_bytes: int, payload: memoryview, sequence: int) -> None:  # noqa: ARG002 - the interface
        if not self._left:
            raise EncryptionError("the cipher fails")
        self._left -= 1

    def seal_header(self, header: DumpHeader) -> DumpHeader:
        return header


def ciphers_that_fail() -> None:
    """At each frame: what was not sealed is not written, and nothing says WRITTEN."""
    frames = Specimen(SUBJECT).job().plan.frames
    for count in range(len(frames)):
        specimen, events = _traced(SUBJECT._replace(sealer=FailingSealer(count)))
        sent = sum(_frames_in(event) for event in events)
        must(sent <= count, f"{sent} frames go out of {count} that were sealed")
        must(_state(specimen, _ends(specimen)[0].physical_bytes) == DumpState.WRITING, "an unsealed dump says WRITTEN")
        must(not specimen.progress.is_committed, "a dump that was not sealed is called committed")


def _traced(subject: Subject) -> tuple[Specimen, list[Event]]:
    specimen, events = Specimen(subject), list[Event]()
    specimen.write(lambda disk: Trace(disk, events.append))
    return specimen, events


def _ends(specimen: Specimen) -> list[Run]:
    size_bytes = specimen.extents.size_bytes
    offsets = (0, size_bytes - BLOCK_SIZE_BYTES)
    return [next(specimen.extents.runs(offset, BLOCK_SIZE_BYTES)) for offset in offsets]


def _state(specimen: Specimen, place_bytes: int) -> int:
    return DUMP_HEADER.unpack_from(specimen.disk.content, place_bytes).state


def _first_write_of_a_frame(events: list[Event]) -> Event:
    return next(event for event in events if event.content.startswith(FRAME_MAGIC))


def _frames_in(event: Event) -> int:
    return sum(event.content[at:].startswith(FRAME_MAGIC) for at in range(0, event.length_bytes, BLOCK_SIZE_BYTES))


def _must_tell(specimen: Specimen, progress: Progress, moved: int) -> None:
    job = specimen.job()
    frames, pages = len(job.plan.frames), len(specimen.subject.ranks)
    expected = {
        "state": DumpState.WRITTEN,
        "ending": DumpEnding.THROUGH,
        "dump_level": specimen.subject.level,
        "frames_planned": frames,
        "frames_written": frames,
        "frames_failed": 0,
        "frames_moved": moved,
        "pages_total": pages,
        "pages_wanted": pages,
        "pages_planned": pages,
        "pages_written": pages,
        "bytes_written": progress.bytes_written,
        "cause_kind": CAUSE.kind,
        "bugcheck_code": CAUSE.code,
        "crash_time_ns": CAUSE.time_ns,
        "end_time_ns": END_TIME_NS,
        "region_size_bytes": specimen.extents.size_bytes,
    }
    findings, _ = specimen.read(specimen.disk.content)
    must(findings.header is not None, "no header is believed at the end")
    told = findings.header._asdict() if findings.header is not None else {}
    wrong = {name: told.get(name) for name, value in expected.items() if told.get(name) != value}
    must(not wrong, f"the header says {wrong}")
    data = sum(frame.kind == FrameKind.PAGES for frame in job.plan.frames)
    must(progress.bytes_written >= data * 4096, "bytes that were written are not counted")
