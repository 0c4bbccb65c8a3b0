"""Resumption: what a boot makes of the memory that a hibernated machine left in the region.

Either the machine goes on with that memory, byte for byte, or the boot is a cold one and says why; the pages that are
there are then taken out as those of a crash are. Whoever goes on marks the region first: no memory is resumed twice.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, NamedTuple

from dumpwriter.memory.resumed import resumed
from dumpwriter.memory.simulated import SimulatedMemory
from dumpwriter.recovery.places import region_place
from dumpwriter.recovery.report import iso_time
from dumpwriter.recovery.resume import restore
from vdisk.bootarea import RegionState
from vdisk.errors import FormatError, ResumeError, UsageError
from vdisk.layers.mapped import Mapped

if TYPE_CHECKING:
    from collections.abc import Callable

    from dumpwriter.memory.source import MemorySource
    from dumpwriter.recovery.blobs import FoundBlob
    from dumpwriter.recovery.resume import Restored
    from vdisk.blockdevice import BlockDevice
    from vdisk.bootarea import BootArea, BootRecord

UNFINISHED = "the hibernation did not finish"


class Resumption(NamedTuple):
    """A machine to go on with, or None for a cold boot; and what `status` says of the attempt."""

    source: MemorySource | None
    facts: dict[str, Any]
    blobs: tuple[FoundBlob, ...] = ()

    @property
    def region_state(self) -> RegionState:
        """What the region is from now on: a memory that is not resumed at the first attempt is a dump like any."""
        return RegionState.ARMED if self.source is None else RegionState.RESUMED

    @property
    def summary(self) -> str:
        if self.source is None:
            return f"cold boot, not resumed: {self.facts['reason']}"
        return f"resumed: {self.facts['bytes']} bytes of generation {self.facts['generation']}"


def refuse_other_memory(record: BootRecord, image: str) -> None:
    """A hibernated machine has its memory already. Raises `UsageError`, for where it is to be given another."""
    if record.region_state == RegionState.HIBERNATED:
        raise UsageError(
            f"{image} holds a hibernated machine: mount it without --memory-image to resume it, or give it up with "
            f"--discard-dump"
        )


def try_to_resume(
    device: BlockDevice, area: BootArea, record: BootRecord, progress: Callable[[int, int], None]
) -> Resumption | None:
    """Read a hibernated memory; None where none was to be kept. Nothing is written.

    Raises a plain `GhostdumpError` where this host has no room for it: the machine is then better not booted.
    """
    if record.region_state == RegionState.HIBERNATING:
        return _cold(record, UNFINISHED)
    if record.region_state != RegionState.HIBERNATED:
        return None
    started = time.monotonic()
    try:
        region = Mapped(device, area.read_extents(record))
        restored = restore(region, region_place(record).identity, progress)
        source = _machine_of(restored, record)
    except (ResumeError, FormatError) as refusal:
        return _cold(record, str(refusal))
    return Resumption(source, _describe(record, restored, time.monotonic() - started), restored.blobs)


def _machine_of(restored: Restored, record: BootRecord) -> MemorySource:
    memory = restored.memory
    try:
        if restored.machine == SimulatedMemory.kind and memory.size_bytes != record.memory_size_bytes:
            raise ResumeError(f"it is of {memory.size_bytes} bytes, and the machine has {record.memory_size_bytes}")
        return resumed(restored.machine, memory)
    except BaseException:
        memory.close()
        raise


def _cold(record: BootRecord, reason: str) -> Resumption:
    facts = {"generation": record.generation, "bytes": 0, "seconds": 0.0, "hibernated": None, "reason": reason}
    return Resumption(None, facts)


def _describe(record: BootRecord, restored: Restored, seconds: float) -> dict[str, Any]:
    header = restored.header
    return {
        "generation": record.generation,
        "bytes": restored.memory.size_bytes,
        "seconds": seconds,
        "hibernated": iso_time(header.crash_time_ns) if header else None,
        "reason": "",
    }
