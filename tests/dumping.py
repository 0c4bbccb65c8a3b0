"""A dump on a memory disk, made by the product's own plan and steps without threads: for tests of what comes out."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

import blake3

from dumpwriter.crash import dump
from dumpwriter.crash.dump import REQUEST_BUFFER_SIZE_BYTES, Cause, DumpJob, Progress
from dumpwriter.crash.parity import Parity, SetBuffers
from dumpwriter.crash.plan import MemoryPart, plan_dump, region_size_bytes
from dumpwriter.crash.protection import NO_PARITY
from dumpwriter.formats.region import CauseKind, ClassRunRecord, DumpLevel, MemoryRangeRecord, PageRun
from dumpwriter.frames import DumpIdentity
from dumpwriter.metadata import Metadata, encode_metadata
from dumpwriter.sealing import UNSEALED
from dumpwriter.secondary import Blob, pack
from vdisk.extent import Extent, ExtentMap
from vdisk.layers.mapped import Mapped
from vdisk.layers.write_guard import WriteGuard
from vdisk.memorydisk import MemoryDisk

if TYPE_CHECKING:
    from collections.abc import Callable

    from typing_extensions import Buffer

    from dumpwriter.sealing import Sealer
    from vdisk.blockdevice import BlockDevice

WRITER_THREADS = 4
CAUSE = Cause(CauseKind.BUGCHECK, 0xD1, (1, 2, 3, 4), "driver looked at what was not there", 1_700_000_000_000_000_000)


class FlatMemory:
    """Memory in a bytes object from address 0."""

    def __init__(self, content: bytes) -> None:
        self.content = content

    def read_into(self, physical_bytes: int, buffer: Buffer) -> None:
        view = memoryview(buffer).cast("B")
        view[:] = self.content[physical_bytes : physical_bytes + view.nbytes]


class Pages:
    """A sink that keeps what it was given, page by page."""

    def __init__(self) -> None:
        self.pages: dict[int, bytes] = {}

    def data(self, first_page: int, content: memoryview) -> None:
        for index in range(content.nbytes // 4096):
            assert first_page + index not in self.pages
            self.pages[first_page + index] = bytes(content[index * 4096 : (index + 1) * 4096])

    def zeros(self, run: PageRun) -> None:
        for page in range(run.first_page, run.first_page + run.page_count):
            assert page not in self.pages
            self.pages[page] = bytes(4096)


def memory_of(pages: int, seed: int = 0, classes: int = 3) -> tuple[FlatMemory, list[MemoryPart]]:
    """Random pages, of which every run of five has one of zeros."""
    source = random.Random(seed)
    content = b"".join(bytes(4096) if page % 5 == 4 else source.randbytes(4096) for page in range(pages))
    parts = [MemoryPart(1 + page % classes, PageRun(page, 1), page % 5 == 4) for page in range(pages)]
    return FlatMemory(content), parts


def scattered_extents(size_bytes: int, pieces: int, first_block: int = 16) -> ExtentMap:
    """A file in about `pieces` extents with gaps between them, not in disk order."""
    blocks = size_bytes // 4096
    piece = max(1, blocks // pieces)
    starts = list(range(0, blocks, piece))
    extents = []
    for index, start in enumerate(starts):
        place = (len(starts) - 1 - index) * (piece + 1) + first_block
        extents.append(Extent(start * 4096, place * 4096, min(piece, blocks - start) * 4096))
    return ExtentMap(extents)


class BlobFile:
    """Blobs one behind the other."""

    def __init__(self, contents: dict[str, bytes]) -> None:
        self.content = b"".join(contents.values())
        self.blobs: list[Blob] = []
        for name, content in contents.items():
            offset_bytes = sum(blob.size_bytes for blob in self.blobs)
            self.blobs.append(Blob(name, len(content), blake3.blake3(content).digest(), offset_bytes))

    def read_into(self, offset_bytes: int, buffer: Buffer) -> None:
        view = memoryview(buffer).cast("B")
        view[:] = self.content[offset_bytes : offset_bytes + view.nbytes]


class DumpBench:
    """A memory, a disk with a region, and what happened on it."""

    def __init__(
        self,
        pages: int,
        pieces: int = 5,
        region_bytes: int = 0,
        seed: int = 0,
        classes: int = 3,
        level: DumpLevel = DumpLevel.AUTOMATIC,
        sealer: Sealer = UNSEALED,
        blobs: dict[str, bytes] | None = None,
        parity_percent: int = NO_PARITY,
    ) -> None:
        self.memory, self.parts = memory_of(pages, seed, classes)
        self.level = level
        self._classes = classes
        self._parity_percent = parity_percent
        size_bytes = region_bytes or region_size_bytes(pages * 4096, parity_percent)
        self.extents = scattered_extents(size_bytes, pieces)
        self.disk = MemoryDisk(self.extents.end_on_disk_bytes() + 16 * 4096)
        self.sealer = sealer
        self.identity = DumpIdentity(random.Random(seed).randbytes(16), 1 + seed)
        rows = tuple(ClassRunRecord(self.rank(page), page, 1) for page in range(pages))
        self.blobs = BlobFile(blobs or {})
        self.pieces = pack(self.blobs.blobs)
        records = tuple(blob.record() for blob in self.blobs.blobs)
        ranges = (MemoryRangeRecord(0, pages * 4096),)
        self.metadata = encode_metadata(Metadata(b"", ranges, "test", level, rows, records))
        dump.arm_region(Mapped(self.disk, self.extents), self.identity, self.extents, 5)

    def job(self, around: Callable[[BlockDevice], BlockDevice] = lambda device: device) -> DumpJob:
        """A dump to be written, to the disk with something around it."""
        guarded = WriteGuard(around(self.disk), list(self.extents.runs(0, self.extents.size_bytes)))
        plan = plan_dump(self.parts, self.extents.size_bytes, self.level, len(self.pieces), self._parity_percent)
        return DumpJob(
            plan=plan,
            identity=self.identity,
            extents=self.extents,
            region=Mapped(guarded, self.extents),
            memory=self.memory,
            metadata=self.metadata,
            cause=CAUSE,
            armed_time_ns=5,
            sealer=self.sealer,
            level=self.level,
            blobs=self.blobs,
            pieces=self.pieces,
            parity=Parity(plan, [SetBuffers() for _ in range(WRITER_THREADS)]) if plan.sets else None,
        )

    def write(self, around: Callable[[BlockDevice], BlockDevice] = lambda device: device) -> Progress:
        """Write the dump step by step in this thread."""
        job, progress = self.job(around), Progress()
        dump.begin(job, progress)
        buffer = memoryview(bytearray(REQUEST_BUFFER_SIZE_BYTES))
        for request in job.plan.requests():
            if progress.is_stopped:
                break
            dump.write_request(job, request, buffer, progress)
        dump.end(job, progress, 9)
        return progress

    def rank(self, page: int) -> int:
        """The class of a page."""
        return 1 + page % self._classes

    def page(self, number: int) -> bytes:
        return self.memory.content[number * 4096 : (number + 1) * 4096]
