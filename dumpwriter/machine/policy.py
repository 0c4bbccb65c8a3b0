"""What a dump is to hold, how long it may take and for whom it is sealed, and what room it needs. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from dumpwriter.crash.plan import region_size_bytes
from dumpwriter.formats.region import PAGE_SIZE_BYTES, DumpLevel, PageRun
from dumpwriter.frames import page_count
from dumpwriter.levels import BY_SIZE, wanted_runs
from dumpwriter.memory.kernel import KernelMap
from dumpwriter.sizes import format_size
from vdisk.errors import ArmingError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from dumpwriter.memory.source import ClassRun, MemorySource
    from dumpwriter.sealing import DumpSeal
    from vdisk.bootarea import BootRecord


class Policy(NamedTuple):
    """A time budget of 0 is none."""

    level: DumpLevel = DumpLevel.AUTOMATIC
    time_budget_ns: int = 0
    seal: DumpSeal | None = None  # None: frames go out as they are


class Estimate(NamedTuple):
    """What a level asks for: so many pages, for which no region larger than this is ever needed."""

    level: DumpLevel
    pages: int
    region_bytes: int


def level_asked_for(request: int | None, record: BootRecord) -> DumpLevel:
    """Of this run, or else of the disk. Raises `ArmingError` for a level that a newer version wrote there."""
    number = record.dump_level if request is None else request
    if number not in set(DumpLevel):
        raise ArmingError(f"the disk asks for dumps of level {number}, which there is not: mount it with --levels")
    return DumpLevel(number)


def estimate(level: DumpLevel, source: MemorySource) -> Estimate:
    """Of the memory that a machine has. Raises `ArmingError` where it has no page of that level."""
    memory = [
        PageRun(part.physical_bytes // PAGE_SIZE_BYTES, part.length_bytes // PAGE_SIZE_BYTES)
        for part in source.memory.ranges
    ]
    found = _estimate(level, source.page_classes(), memory)
    if not found.pages:
        raise ArmingError(f"no page of this memory is known to be of level {level.name.lower()}: give a larger level")
    return found


def simulated_estimates(memory_size_bytes: int) -> dict[DumpLevel, Estimate]:
    """Of a simulated machine's memory, for every level."""
    memory = [PageRun(0, memory_size_bytes // PAGE_SIZE_BYTES)]
    classes = KernelMap(memory_size_bytes).class_runs()
    return {level: _estimate(level, classes, memory) for level in DumpLevel}


def _estimate(level: DumpLevel, classes: Iterable[ClassRun], memory: Sequence[PageRun]) -> Estimate:
    pages = page_count(wanted_runs(level, classes, memory))
    return Estimate(level, pages, region_size_bytes(pages * PAGE_SIZE_BYTES))


def largest_that_fits(estimates: dict[DumpLevel, Estimate], region_bytes: int) -> DumpLevel | None:
    fitting = [level for level in BY_SIZE if estimates[level].region_bytes <= region_bytes]
    return fitting[-1] if fitting else None


def warning(needed: Estimate, region_bytes: int) -> str | None:
    """What to say where a dump may turn out smaller than what was asked for."""
    if region_bytes >= needed.region_bytes:
        return None
    return (
        f"the region has {format_size(region_bytes)}, and a dump of level {needed.level.name.lower()} can need "
        f"{format_size(needed.region_bytes)}: a crash keeps the most valuable pages; free as much and mount again, or "
        f"mount with a smaller level"
    )
