"""What a dump is to hold, of the memory as it is now and by what the control block says. Nothing is written here."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dumpwriter.crash.dump import NOBODY, DumpJob
from dumpwriter.crash.plan import memory_parts, plan_dump
from dumpwriter.crash.protection import NO_PARITY
from dumpwriter.formats.region import MemoryRangeRecord, SecondaryState
from dumpwriter.metadata import Metadata, encode_metadata, has_room_for_tables
from dumpwriter.sealing import UNSEALED
from dumpwriter.secondary import pack
from vdisk.errors import FormatError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from dumpwriter.blobarea import BlobArea
    from dumpwriter.crash.controlblock import ControlBlock
    from dumpwriter.crash.dump import Cause, Writer
    from dumpwriter.crash.parity import Parity, SetBuffers
    from dumpwriter.crash.plan import DumpPlan
    from dumpwriter.memory.physical import PhysicalMemory
    from dumpwriter.sealing import Sealer
    from dumpwriter.secondary import Blob
    from vdisk.blockdevice import BlockDevice


def prepare(
    block: ControlBlock,
    memory: PhysicalMemory,
    area: BlobArea,
    region: BlockDevice,
    cause: Cause,
    writer: Writer = NOBODY,
    parity_buffers: Sequence[SetBuffers] = (),
) -> DumpJob:
    """Memory is looked through for holes, and secondary data for what is whole; what either holds is read later.

    `parity_buffers` are those of `new_parity_buffers`: there are none where nothing is to be written.
    """
    parts = memory_parts(block.page_classes, memory.runs())
    blobs = area.survey()
    pieces = pack([blob for blob in blobs if blob.state == SecondaryState.WHOLE])
    plan = plan_dump(parts, block.extents.size_bytes, block.level, len(pieces), block.parity_percent)
    return DumpJob(
        plan=plan,
        identity=block.identity,
        extents=block.extents,
        region=region,
        memory=memory,
        metadata=encode_metadata(_metadata(block, memory, blobs)),
        cause=cause,
        armed_time_ns=block.armed_time_ns,
        writer=writer,
        sealer=new_sealer(block),
        level=block.level,
        blobs=area,
        pieces=pieces,
        parity=_new_parity(plan, parity_buffers) if parity_buffers else None,
    )


def new_sealer(block: ControlBlock) -> Sealer:
    """To be made once before the sandbox closes, too: what the cipher is made of has to be loaded from files."""
    if block.seal is None:
        return UNSEALED
    from dumpwriter.cipher import GcmSealer

    return GcmSealer(block.seal)


def new_parity_buffers(block: ControlBlock) -> Sequence[SetBuffers]:
    """Room for as many sets as there are threads. To be made at arming: what does the XOR has to be loaded from files,
    and only where there is to be parity."""
    if block.parity_percent == NO_PARITY:
        return ()
    from dumpwriter.crash.parity import SetBuffers

    return [SetBuffers() for _ in range(block.writer_threads)]


def _new_parity(plan: DumpPlan, buffers: Sequence[SetBuffers]) -> Parity:
    from dumpwriter.crash.parity import Parity

    return Parity(plan, buffers)


def _metadata(block: ControlBlock, memory: PhysicalMemory, blobs: list[Blob]) -> Metadata:
    """Page classes are left out where they do not fit; arming saw to it that the level can do without."""
    ranges = tuple(MemoryRangeRecord(row.physical_bytes, row.length_bytes) for row in block.memory_ranges)
    classes = block.page_classes if has_room_for_tables(len(ranges), len(block.page_classes)) else ()
    rows = tuple(blob.record() for blob in blobs)
    return Metadata(_notes(memory), ranges, block.machine, block.level, classes, rows)


def _notes(memory: PhysicalMemory) -> bytes:
    try:
        return memory.read_notes()
    except FormatError:
        return b""  # the dying machine scribbled on them; the pages are worth the dump without
