"""What a dump is to hold, how long it may take, for whom it is sealed, its parity, and what room it needs. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from dumpwriter.crash.plan import region_size_bytes
from dumpwriter.crash.protection import NO_PARITY, PARITY_PERCENT_MAX
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
    parity_percent: int = NO_PARITY


class Estimate(NamedTuple):
    """What a level asks for: so many pages, for which with their parity no region larger than this is ever needed."""

    level: DumpLevel
    pages: int
    region_bytes: int


def level_asked_for(request: int | None, record: BootRecord) -> DumpLevel:
    """Of this run, or else of the disk. Raises `ArmingError` for a level that a newer version wrote there."""
    number = record.dump_level if request is None else request
    if number not in set(DumpLevel):
        raise ArmingError(f"the disk asks for dumps of level {number}, which there is not: mount it with --levels")
    return DumpLevel(number)


def parity_asked_for(request: int | None, record: BootRecord) -> int:
    """Percent, of this run or else of the disk. Raises `ArmingError` for what a newer version wrote there."""
    percent = record.parity_percent if request is None else request
    if percent > PARITY_PERCENT_MAX:
        raise ArmingError(f"the disk asks for a parity of {percent} %, which there is not: mount it with --parity")
    return percent


def estimate(level: DumpLevel, source: MemorySource, parity_percent: int) -> Estimate:
    """Of the memory that a machine has. Raises `ArmingError` where it has no page of that level."""
    memory = [
        PageRun(part.physical_bytes // PAGE_SIZE_BYTES, part.length_bytes // PAGE_SIZE_BYTES)
        for part in source.memory.ranges
    ]
    found = _estimate(level, source.page_classes(), memory, parity_percent)
    if not found.pages:
        raise ArmingError(f"no page of this memory is known to be of level {level.name.lower()}: give a larger level")
    return found


def simulated_estimates(memory_size_bytes: int, parity_percent: int) -> dict[DumpLevel, Estimate]:
    """Of a simulated machine's memory, for every level."""
    memory = [PageRun(0, memory_size_bytes // PAGE_SIZE_BYTES)]
    classes = KernelMap(memory_size_bytes).class_runs()
    return {level: _estimate(level, classes, memory, parity_percent) for level in DumpLevel}


def _estimate(
    level: DumpLevel, classes: Iterable[ClassRun], memory: Sequence[PageRun], parity_percent: int
) -> Estimate:
    pages = page_count(wanted_runs(level, classes, memory))
    return Estimate(level, pages, region_size_bytes(pages * PAGE_SIZE_BYTES, parity_percent))


def largest_that_fits(estimates: dict[DumpLevel, Estimate], region_bytes: int) -> DumpLevel | None:
    fitting = [level for level in BY_SIZE if estimates[level].region_bytes <= region_bytes]
    return fitting[-1] if fitting else None


def warning(needed: Estimate, region_bytes: int) -> str | None:
    """What to say where a dump may turn out smaller than what was asked for. Parity gives way before pages do."""
    needed_bytes = region_size_bytes(needed.pages * PAGE_SIZE_BYTES)
    if region_bytes >= needed_bytes:
        return None
    return (
        f"the region has {format_size(region_bytes)}, and a dump of level {needed.level.name.lower()} can need "
        f"{format_size(needed_bytes)}: a crash keeps the most valuable pages; free as much and mount again, or "
        f"mount with a smaller level"
    )
