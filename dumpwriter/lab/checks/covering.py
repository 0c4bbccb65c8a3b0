"""Checks of what spare slots and parity make up for: frames that fail, come late, or are left out when time is over."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from dumpwriter.cipher import GcmSealer
from dumpwriter.crash import dump
from dumpwriter.crash.dump import REQUEST_BUFFER_SIZE_BYTES, Progress
from dumpwriter.dumpkeys import new_seal
from dumpwriter.formats.region import SLOT_SIZE_BYTES
from dumpwriter.frames import slot_offset_bytes
from dumpwriter.lab.checks.refuted import must
from dumpwriter.lab.checks.specimen import Pages, Specimen, Subject, disk_of, written
from dumpwriter.lab.world import END_TIME_NS
from dumpwriter.recovery.copies import contents_of
from dumpwriter.recovery.founddump import FoundDump, FrameIndex
from dumpwriter.recovery.opening import WithoutKey
from dumpwriter.recovery.scan import recover
from dumpwriter.recovery.unsealing import WithPrivateKey
from dumpwriter.verdict import Verdict
from vdisk.blockdevice import BLOCK_SIZE_BYTES, SECTOR_SIZE_BYTES, BlockDevice, Layer
from vdisk.errors import DeviceError
from vdisk.extent import Run
from vdisk.layers.mapped import Mapped
from vdisk.layers.media_faults import MediaFaults
from vdisk.layers.passing_errors import PassingErrors

if TYPE_CHECKING:
    from collections.abc import Iterable

    from typing_extensions import Buffer

    from dumpwriter.recovery.scan import Findings

SUBJECT = Subject("covering", dict.fromkeys(range(1100), 4), frozenset(range(300, 310)), slots=48, parity_percent=50)
PLAIN = SUBJECT._replace(name="covering, plain", slots=28, parity_percent=0)
KEY = X25519PrivateKey.from_private_bytes(bytes([3]) * 32)


def frames_that_no_slot_takes() -> None:
    """Moved while there is a spare slot, and covered there; then covered in their own, one of a group."""
    one, *_ = Specimen(SUBJECT).job().plan.sets
    spares = Specimen(SUBJECT).job().spare_slots
    for bad, lost, rebuilt, is_whole in (
        ((2,), (), 0, True),
        ((2,), (spares[0],), 1, True),
        ((2, *spares), (), 1, True),
        ((2, *spares), (3,), 2, True),
        ((2, 2 + one.groups, *spares), (), 1, False),
        ((2, 2 + one.groups, *spares[1:]), (), 1, True),
    ):
        specimen = _written_to(SUBJECT, bad)
        findings, pages = specimen.read(_without(specimen, lost))
        what = f"slots {bad} are bad and {lost} are lost"
        must(not specimen.wrong_pages(pages), f"{what}: wrong pages")
        must(findings.frames_rebuilt == rebuilt, f"{what}: {findings.frames_rebuilt} frames are rebuilt")
        must((findings.verdict == Verdict.COMPLETE) == is_whole, f"{what}: {findings.verdict}")


def words_of_the_writer() -> None:
    """Of a dump that lacks frames it says what recovery says of it: without parity just that."""
    plan = Specimen(PLAIN).job().plan
    first, last = plan.frames[0].sequence, plan.frames[-1].sequence
    spares = Specimen(PLAIN).job().spare_slots
    for bad in ((), (first,), (last,), (first, last), (first, last, *spares), (first, *spares), (1, *spares)):
        specimen = _written_to(PLAIN, bad)
        findings, _ = specimen.read(specimen.disk.content)
        word = specimen.progress.verdict(plan)
        must(word == findings.verdict, f"with bad slots {bad} the writer says {word}, and recovery {findings.verdict}")


def requests_that_come_late() -> None:
    """What was given up and comes all the same brings the very bytes that parity covers, under the sealing too."""
    specimen = Specimen(SUBJECT._replace(sealer=GcmSealer(new_seal(KEY.public_key()))))
    late = _ComesLate(specimen.disk)
    specimen.write(lambda _: late)
    must(late.come() > 0, "no request was given up")
    for slot in (3, 12):
        findings, pages = specimen.read(_without(specimen, [slot]), WithPrivateKey(KEY))
        must(findings.frames_rebuilt == 1 and not specimen.wrong_pages(pages), f"slot {slot} does not come back")


def sets_that_were_cut() -> None:
    """After each request: what was written has its parity, whatever was left out, and no frame covers nothing."""
    requests = list(Specimen(SUBJECT).job().plan.requests())
    for count in range(1, len(requests)):
        specimen = Specimen(SUBJECT)
        specimen.arm()
        job, progress, buffer = specimen.job(), Progress(), memoryview(bytearray(REQUEST_BUFFER_SIZE_BYTES))
        dump.begin(job, progress)
        for request in requests[:count]:
            dump.write_request(job, request, buffer, progress)
        dump.finish_sets(job, buffer, progress)
        dump.end(job, progress, END_TIME_NS)
        for frame in requests[count - 1]:
            findings, pages = specimen.read(_without(specimen, [frame.sequence]))
            what = f"cut after {count} requests, without slot {frame.sequence}"
            must(findings.frames_rebuilt == 1, f"{what}: {findings.frames_rebuilt} frames are rebuilt")
            must(len(pages) == progress.pages_written and not specimen.wrong_pages(pages), f"{what}: other pages")


def reads_that_fail() -> None:
    """Those that pass cost nothing; one that fails while a frame is rebuilt is counted: it may pass another time."""
    specimen = written(PLAIN)
    for slot in (0, 1, 7):
        runs = specimen.extents.runs(slot_offset_bytes(slot) + BLOCK_SIZE_BYTES, 3 * BLOCK_SIZE_BYTES)
        starts = [run.physical_bytes + at for run in runs for at in range(0, run.length_bytes, BLOCK_SIZE_BYTES)]
        passing = [Run(start, SECTOR_SIZE_BYTES) for start in starts]
        findings = _found_on(specimen, _OneByOne(specimen.disk, passing))
        counts = findings.verdict, findings.reads_failed
        must(counts == (Verdict.COMPLETE, 0), f"errors in slot {slot} that pass make of it {counts}")
    specimen = written(SUBJECT)
    one, *_ = specimen.job().plan.sets
    (beside, *_) = specimen.extents.runs(slot_offset_bytes(2 + one.groups), BLOCK_SIZE_BYTES)
    failing = _FailsLater(disk_of(_without(specimen, [2])), beside)
    findings = _found_on(specimen, failing)
    counts = findings.verdict, findings.reads_failed
    must(counts == (Verdict.PARTIAL, 1), f"a read that fails while a frame is rebuilt makes of it {counts}")


def frames_that_lie_twice() -> None:
    """A write that failed and came all the same: each page is told once, and can be read though an error passes."""
    specimen = Specimen(PLAIN)
    (place, *_) = specimen.extents.runs(slot_offset_bytes(2), BLOCK_SIZE_BYTES)
    progress = specimen.write(lambda disk: FailsThoughItCame(disk, place))
    must(progress.frames_moved == 1, "a frame whose write failed was not moved")
    index = FrameIndex(WithoutKey())
    region = Mapped(specimen.disk, specimen.extents)
    findings = recover(region, specimen.identity, Pages(), opener=index)
    passing = PassingErrors(specimen.disk, [place])
    memory = FoundDump(passing, specimen.identity, index, contents_of(findings))
    told = [page for run in memory.runs() for page in range(run.first_page, run.first_page + run.page_count)]
    must(told == sorted(PLAIN.ranks), "pages are told twice, or not at all")
    for page in told[::9]:
        content = bytearray(BLOCK_SIZE_BYTES)
        memory.read_into(page, memoryview(content))
        must(content == PLAIN.page(page), f"page {page} is read wrong")


class _ComesLate(Layer):
    """Refuses each write of more than a frame, and does it when all is written."""

    def __init__(self, lower: BlockDevice) -> None:
        super().__init__(lower)
        self._late: list[tuple[int, bytes]] = []

    def write_from(self, offset_bytes: int, buffer: Buffer) -> None:
        content = bytes(buffer)
        if len(content) > SLOT_SIZE_BYTES:
            self._late.append((offset_bytes, content))
            raise DeviceError("given up")
        self.lower.write_from(offset_bytes, content)

    def come(self) -> int:
        for write in self._late:
            self.lower.write_from(*write)
        return len(self._late)


class FailsThoughItCame(Layer):
    """Says of each write that touches a run that it failed, and has done it."""

    def __init__(self, lower: BlockDevice, run: Run) -> None:
        super().__init__(lower)
        self._run = run

    def write_from(self, offset_bytes: int, buffer: Buffer) -> None:
        self.lower.write_from(offset_bytes, buffer)
        if Run(offset_bytes, memoryview(buffer).nbytes).meets(self._run):
            raise DeviceError("no answer")


class _OneByOne(Layer):
    """Of the runs that a read touches, each makes one read fail, and no two the same."""

    def __init__(self, lower: BlockDevice, runs: list[Run]) -> None:
        super().__init__(lower)
        self._left = runs

    def read_into(self, offset_bytes: int, buffer: Buffer) -> None:
        touched = [run for run in self._left if run.meets(Run(offset_bytes, memoryview(buffer).nbytes))]
        if touched:
            self._left.remove(touched[0])
            raise DeviceError("an error that passes")
        self.lower.read_into(offset_bytes, buffer)


class _FailsLater(Layer):
    """What touches a run is read once, and never again."""

    def __init__(self, lower: BlockDevice, run: Run) -> None:
        super().__init__(lower)
        self._run = run
        self._reads = 0

    def read_into(self, offset_bytes: int, buffer: Buffer) -> None:
        if Run(offset_bytes, memoryview(buffer).nbytes).meets(self._run):
            self._reads += 1
            if self._reads > 1:
                raise DeviceError("medium error")
        self.lower.read_into(offset_bytes, buffer)


def _written_to(subject: Subject, bad_slots: Iterable[int]) -> Specimen:
    """A dump on a disk that takes nothing at the beginning of these slots."""
    specimen = Specimen(subject)
    bad = [run for slot in bad_slots for run in specimen.extents.runs(slot_offset_bytes(slot), SECTOR_SIZE_BYTES)]
    specimen.write(lambda disk: MediaFaults(disk, lambda: bad))
    return specimen


def _without(specimen: Specimen, slots: Iterable[int]) -> bytes:
    """The disk with these slots blank."""
    disk = disk_of(specimen.disk.content)
    for slot in slots:
        Mapped(disk, specimen.extents).write_from(slot_offset_bytes(slot), bytes(SLOT_SIZE_BYTES))
    return bytes(disk.content)


def _found_on(specimen: Specimen, disk: BlockDevice) -> Findings:
    return recover(Mapped(disk, specimen.extents), specimen.identity, Pages())
