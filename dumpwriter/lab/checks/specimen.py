"""Specimens: dumps with all that a dump may have, written by the real plan and the real steps to a disk in memory.

The worlds of the laboratory are made for counting states, and know neither levels nor gaps in memory, nor secondary
data, nor seals. What is looked at here is one state of a disk at a time.
"""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, NamedTuple

import blake3

from dumpwriter.crash import dump
from dumpwriter.crash.dump import REQUEST_BUFFER_SIZE_BYTES, DumpJob, Progress
from dumpwriter.crash.parity import Parity, SetBuffers
from dumpwriter.crash.plan import memory_parts, plan_dump
from dumpwriter.crash.protection import NO_PARITY
from dumpwriter.formats.region import (
    PAGE_SIZE_BYTES,
    ClassRunRecord,
    DumpLevel,
    MemoryRangeRecord,
    PageRun,
)
from dumpwriter.frames import DumpIdentity, slot_offset_bytes
from dumpwriter.lab.chance import CaseKey, Chance
from dumpwriter.lab.checks.refuted import must
from dumpwriter.lab.world import ARMED_TIME_NS, CAUSE, END_TIME_NS
from dumpwriter.levels import RANK_UNKNOWN
from dumpwriter.memory.physical import MemoryRun
from dumpwriter.metadata import Metadata, encode_metadata
from dumpwriter.recovery.scan import Findings, recover
from dumpwriter.sealing import UNSEALED
from dumpwriter.secondary import Blob, pack
from vdisk.blockdevice import BLOCK_SIZE_BYTES
from vdisk.extent import Extent, ExtentMap
from vdisk.layers.mapped import Mapped
from vdisk.layers.write_guard import WriteGuard
from vdisk.memorydisk import MemoryDisk

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from typing_extensions import Buffer

    from dumpwriter.recovery.opening import Opener
    from dumpwriter.sealing import Sealer
    from vdisk.blockdevice import BlockDevice

PIECES, GAP_BLOCKS = 7, 5


class Subject(NamedTuple):
    """What is to be dumped. `ranks` has the class of each page that memory has; not every number need be a page."""

    name: str
    ranks: Mapping[int, int]
    zeros: frozenset[int] = frozenset()
    slots: int = 12
    level: DumpLevel = DumpLevel.AUTOMATIC
    blobs: Mapping[str, bytes] = {}
    sealer: Sealer = UNSEALED
    generation: int = 2
    parity_percent: int = NO_PARITY
    pieces: int = PIECES

    @property
    def identity(self) -> DumpIdentity:
        return DumpIdentity(blake3.blake3(self.name.encode()).digest(16), self.generation)

    @property
    def extents(self) -> ExtentMap:
        """The region in pieces, the last one first on the disk."""
        blocks = (slot_offset_bytes(self.slots) + BLOCK_SIZE_BYTES) // BLOCK_SIZE_BYTES
        starts = [blocks * number // self.pieces for number in range(self.pieces + 1)]
        place, extents = GAP_BLOCKS, []
        for start, stop in reversed(list(itertools.pairwise(starts))):
            extents.append(Extent(*(BLOCK_SIZE_BYTES * block for block in (start, place, stop - start))))
            place += stop - start + GAP_BLOCKS
        return ExtentMap(reversed(extents))

    def page(self, number: int) -> bytes:
        if number in self.zeros:
            return bytes(PAGE_SIZE_BYTES)
        return Chance(CaseKey(self.name, 0, number)).take_bytes(PAGE_SIZE_BYTES)


class Pages:
    """A sink that keeps what it is given, by page number."""

    def __init__(self) -> None:
        self.pages: dict[int, bytes] = {}

    def data(self, first_page: int, content: memoryview) -> None:
        for start_bytes in range(0, content.nbytes, PAGE_SIZE_BYTES):
            page = first_page + start_bytes // PAGE_SIZE_BYTES
            must(page not in self.pages, f"page {page} is handed over twice")
            self.pages[page] = bytes(content[start_bytes : start_bytes + PAGE_SIZE_BYTES])

    def zeros(self, run: PageRun) -> None:
        self.pages |= dict.fromkeys(pages_in([run]), bytes(PAGE_SIZE_BYTES))


class Specimen:
    """A dump of a subject, and the disk it was written to, which held something else before."""

    def __init__(self, subject: Subject) -> None:
        self.subject = subject
        self.identity = subject.identity
        self.extents = subject.extents
        size_bytes = self.extents.end_on_disk_bytes() + GAP_BLOCKS * BLOCK_SIZE_BYTES
        self.disk = MemoryDisk(size_bytes, Chance(CaseKey("before", 0, 0)).take_bytes(size_bytes))
        self._content = {page: subject.page(page) for page in subject.ranks}
        self._blobs = _blobs_of(subject)

    def arm(self) -> None:
        dump.arm_region(Mapped(self.disk, self.extents), self.identity, self.extents, ARMED_TIME_NS)

    def job(self, around: Callable[[BlockDevice], BlockDevice] = lambda disk: disk) -> DumpJob:
        """The dump to be written, with something around the disk."""
        subject = self.subject
        pieces = pack(self._blobs)
        guard = WriteGuard(around(self.disk), list(self.extents.runs(0, self.extents.size_bytes)))
        parts = memory_parts(tuple(_classes(subject)), list(_memory_runs(subject)))
        plan = plan_dump(parts, self.extents.size_bytes, subject.level, len(pieces), subject.parity_percent)
        return DumpJob(
            plan=plan,
            identity=self.identity,
            extents=self.extents,
            region=Mapped(guard, self.extents),
            memory=self,
            metadata=encode_metadata(self.metadata()),
            cause=CAUSE,
            armed_time_ns=ARMED_TIME_NS,
            sealer=subject.sealer,
            level=subject.level,
            blobs=_BlobFile(subject),
            pieces=pieces,
            parity=Parity(plan, [SetBuffers()]) if plan.sets else None,
        )

    def metadata(self) -> Metadata:
        subject = self.subject
        ranges = tuple(
            MemoryRangeRecord(run.first_page * PAGE_SIZE_BYTES, run.page_count * PAGE_SIZE_BYTES)
            for run in runs_of(subject.ranks)
        )
        rows = tuple(blob.record() for blob in self._blobs)
        return Metadata(b"notes", ranges, "check", subject.level, tuple(_classes(subject)), rows)

    def read_into(self, physical_bytes: int, buffer: Buffer) -> None:
        """As memory: whole pages."""
        view = memoryview(buffer).cast("B")
        for start_bytes in range(0, view.nbytes, PAGE_SIZE_BYTES):
            page = (physical_bytes + start_bytes) // PAGE_SIZE_BYTES
            view[start_bytes : start_bytes + PAGE_SIZE_BYTES] = self._content[page]

    def write(self, around: Callable[[BlockDevice], BlockDevice] = lambda disk: disk) -> Progress:
        """Arm, and write the dump as far as the disk lets it."""
        self.arm()
        self.progress = progress = Progress()
        job, buffer = self.job(around), memoryview(bytearray(REQUEST_BUFFER_SIZE_BYTES))
        dump.begin(job, progress)
        for request in job.plan.requests():
            if not progress.is_stopped:
                dump.write_request(job, request, buffer, progress)
        dump.end(job, progress, END_TIME_NS)
        return progress

    def read(self, content: bytes | bytearray, opener: Opener | None = None) -> tuple[Findings, dict[int, bytes]]:
        """What recovery makes of a disk that holds this."""
        sink = Pages()
        findings = recover(Mapped(disk_of(content), self.extents), self.identity, sink, opener=opener)
        return findings, sink.pages

    def wrong_pages(self, pages: Mapping[int, bytes]) -> list[int]:
        """Those that memory has not, or not so."""
        return [page for page, content in pages.items() if self._content.get(page) != content]


def written(subject: Subject) -> Specimen:
    specimen = Specimen(subject)
    specimen.write()
    return specimen


def disk_of(content: bytes | bytearray) -> MemoryDisk:
    return MemoryDisk(len(content), bytes(content))


def pages_in(runs: Iterable[PageRun]) -> set[int]:
    return {page for first, count in runs for page in range(first, first + count)}


def runs_of(pages: Iterable[int]) -> list[PageRun]:
    """Ascending numbers that follow each other lie at one distance from their rank."""
    groups = itertools.groupby(enumerate(sorted(pages)), key=lambda ranked: ranked[1] - ranked[0])
    runs = [[page for _, page in group] for _, group in groups]
    return [PageRun(run[0], len(run)) for run in runs]


def _classes(subject: Subject) -> Iterator[ClassRunRecord]:
    named = [(page, rank) for page, rank in sorted(subject.ranks.items()) if rank != RANK_UNKNOWN]
    groups = itertools.groupby(enumerate(named), key=lambda ranked: (ranked[1][0] - ranked[0], ranked[1][1]))
    for (_, rank), group in groups:
        pages = [page for _, (page, _) in group]
        yield ClassRunRecord(rank, pages[0], len(pages))


def _memory_runs(subject: Subject) -> Iterator[MemoryRun]:
    pages = sorted(subject.ranks)
    groups = itertools.groupby(enumerate(pages), key=lambda ranked: (ranked[1] - ranked[0], ranked[1] in subject.zeros))
    for (_, is_zero), group in groups:
        numbers = [page for _, page in group]
        yield MemoryRun(numbers[0] * PAGE_SIZE_BYTES, len(numbers) * PAGE_SIZE_BYTES, is_hole=is_zero)


class _BlobFile:
    """The blobs one behind the other."""

    def __init__(self, subject: Subject) -> None:
        self._content = b"".join(subject.blobs.values())

    def read_into(self, offset_bytes: int, buffer: Buffer) -> None:
        view = memoryview(buffer).cast("B")
        view[:] = self._content[offset_bytes : offset_bytes + view.nbytes]


def _blobs_of(subject: Subject) -> list[Blob]:
    ends = list(itertools.accumulate(map(len, subject.blobs.values()), initial=0))
    return [
        Blob(name, len(content), blake3.blake3(content).digest(), offset_bytes)
        for (name, content), offset_bytes in zip(subject.blobs.items(), ends, strict=False)
    ]
