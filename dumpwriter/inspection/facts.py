"""What is known of a dump: which machine, when, why, what its CPUs did, what its pages are, and what is missing.

Each part is found on its own. A dump that is torn, or of a machine that is not Linux, is told as far as it goes, and
what could not be found is told, too.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from dumpwriter.conversion.machine import about_machine
from dumpwriter.dumpfile.pageruns import PageRuns
from dumpwriter.export.about import NOT_KNOWN
from dumpwriter.export.notes import (
    NT_PRSTATUS,
    PRSTATUS,
    PRSTATUS_FIELDS_BEFORE_REGISTERS,
    PRSTATUS_NAME,
    REGISTERS,
    parse_notes,
)
from dumpwriter.inspection.crash import LastWords, last_words
from dumpwriter.linux.address_space import kernel_address_space
from dumpwriter.linux.kernel_log import read_kernel_log
from dumpwriter.linux.levels import LEVELS, PageFilter
from dumpwriter.linux.log_record import shown
from dumpwriter.linux.page_rules import Left
from dumpwriter.linux.physical import DumpMemory
from dumpwriter.linux.vmcoreinfo import find_vmcoreinfo
from vdisk.errors import FormatError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from dumpwriter.dumpfile.dump import Contents, Dump
    from dumpwriter.linux.address_space import AddressSpace
    from dumpwriter.linux.log_record import LogRecord
    from dumpwriter.linux.vmcoreinfo import Vmcoreinfo

Value = TypeVar("Value")
Rows = list[dict[str, Any]]

RUNS_TOLD = 1000
SYMBOL_DISTANCE_BYTES = 4096  # VMCOREINFO names a few symbols only: what is further away is something else

_NAMES = ("system", "node", "release", "version", "machine", "domain")
_CLASSES = {Left.KEPT: "kernel"} | {reason: reason.name.lower() for reason in Left if reason != Left.KEPT}
_PID_FIELD = 6  # of what PRSTATUS unpacks


def describe_dump(dump: Dump) -> dict[str, Any]:
    """Facts for a report. What could not be found is null or empty, and `problems` says why."""
    problems: list[str] = []
    nothing: Rows = []

    def found(part: Callable[[], Value], otherwise: Value) -> Value:
        try:
            return part()
        except FormatError as error:
            problems.append(str(error))
            return otherwise

    info = found(lambda: known_vmcoreinfo(dump), None)
    space = found(lambda: kernel_address_space(DumpMemory(dump), info), None) if info else None
    words = found(lambda: _last_words(space, info, problems), LastWords())
    return {
        "format": dump.format,
        "partial": dump.contents.is_partial,
        **_describe_machine(dump),
        "crash_time": _iso_time(about_machine(dump).crash_seconds),
        "uptime_ns": words.time_ns,
        "panic": words.panic,
        "bugcheck": words.bugcheck,
        "cpus": found(lambda: list(_cpus(dump.contents.notes, info)), nothing),
        **_describe_pages(dump.contents),
        "classes": found(lambda: _count_classes(dump, info), nothing) if info else nothing,
        "problems": problems,
    }


def known_vmcoreinfo(dump: Dump) -> Vmcoreinfo:
    """Raises `FormatError` where a dump has none."""
    info = find_vmcoreinfo(dump.contents.notes)
    if info is None:
        raise FormatError("the dump has no VMCOREINFO: nothing is known of its kernel, only of its pages")
    return info


def _last_words(space: AddressSpace | None, info: Vmcoreinfo | None, problems: list[str]) -> LastWords:
    """Of a log that is damaged, what stands before the damage."""
    if space is None or info is None:
        return LastWords()

    def records() -> Iterator[LogRecord]:
        try:
            yield from read_kernel_log(space, info)
        except FormatError as error:
            problems.append(str(error))

    return last_words(records())


def _describe_machine(dump: Dump) -> dict[str, Any]:
    names = zip(_NAMES, about_machine(dump).system_names, strict=True)
    return {"system": {name: shown(value) if value != NOT_KNOWN else None for name, value in names}}


def _cpus(notes: bytes, info: Vmcoreinfo | None) -> Iterator[dict[str, Any]]:
    of_cpus = (note for note in parse_notes(notes) if (note.name, note.type) == (PRSTATUS_NAME, NT_PRSTATUS))
    for number, note in enumerate(of_cpus):
        if len(note.content) != PRSTATUS.size:
            raise FormatError(f"the registers of CPU {number} take {len(note.content)} bytes, not {PRSTATUS.size}")
        values = PRSTATUS.unpack(note.content)
        registers = dict(zip(REGISTERS, values[PRSTATUS_FIELDS_BEFORE_REGISTERS:-1], strict=True))
        symbol = info.symbol_at(registers["rip"], SYMBOL_DISTANCE_BYTES) if info else None
        place = f"{symbol[0]}+{symbol[1]:#x}" if symbol else None
        yield {"cpu": number, "pid": values[_PID_FIELD], "symbol": place, "registers": registers}


def _describe_pages(contents: Contents) -> dict[str, Any]:
    memory, present = PageRuns.of(contents.memory), PageRuns.of(contents.present)
    absent = memory.minus(present)
    return {
        "pages_total": memory.page_count,
        "pages_present": present.page_count,
        "pages_absent": absent.page_count,
        "absent": [run._asdict() for run in absent[:RUNS_TOLD]],
    }


def _count_classes(dump: Dump, info: Vmcoreinfo) -> Rows:
    """As the kernel's page descriptors say; makedumpfile's levels leave out the same classes."""
    present = PageRuns.of(dump.contents.present)
    judging = PageFilter(dump.contents.memory, DumpMemory(dump), info, LEVELS.stop - 1)
    total, held = np.zeros(256, np.int64), np.zeros(256, np.int64)
    for first_page, left in judging.judge():
        total += np.bincount(left, minlength=256)
        for run in present.within(first_page, first_page + len(left)):
            start = run.first_page - first_page
            held += np.bincount(left[start : start + run.page_count], minlength=256)
    if judging.undescribed:
        raise FormatError(f"{judging.undescribed} pages are of no class that is known: their descriptors are missing")
    return [
        {"name": name, "pages_total": int(total[reason]), "pages_present": int(held[reason])}
        for reason, name in _CLASSES.items()
        if total[reason]
    ]


def _iso_time(seconds: int) -> str | None:
    try:
        return datetime.fromtimestamp(seconds, UTC).isoformat() if seconds else None
    except (OverflowError, ValueError, OSError):
        return None
