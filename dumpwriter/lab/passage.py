"""A writer's passage through a disk with faults: from what it asks to what is on the disk in the end.

What the disk says has failed changes what the writer asks next, so the writer is run over it. What it keeps to itself
changes only what becomes of that.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from dumpwriter.lab.answers import Answers
from dumpwriter.lab.chance import CaseKey, Chance
from dumpwriter.lab.diskstate import DiskState, Patch
from dumpwriter.lab.fates import fates_of, whole_patch
from dumpwriter.lab.faults import FaultKind
from dumpwriter.lab.memo import Memo
from dumpwriter.lab.telling import TOLD
from vdisk.blockdevice import SECTOR_SIZE_BYTES
from vdisk.extent import Run

if TYPE_CHECKING:
    from collections.abc import Sequence

    from dumpwriter.lab.faults import Fault
    from dumpwriter.lab.recording import Recording
    from vdisk.layers.trace import Event

TRACES_MAX = 1 << 8  # each holds what came of writes in part; whole writes are shared
SOMEBODY_ELSE = CaseKey("somebody else", 0, 0)  # whose data lies where the file's is no longer
CANNOT_BE_READ = (FaultKind.UNREADABLE, FaultKind.BAD_SECTORS)
PASSES = (FaultKind.PASSING_ERROR,)


class Asked(NamedTuple):
    """What comes to the disk from a writer, what that is of the disk, and with which writes it leaves its file."""

    trace: tuple[Event, ...]
    patches: tuple[Patch | None, ...]
    strays: tuple[int, ...]


class Passages:
    """The passages of one recorded run. What the writer asks is recorded once for all that it is told alike."""

    def __init__(self, recording: Recording) -> None:
        self._recording = recording
        self._asked: Memo[Asked] = Memo(TRACES_MAX)
        self._answers = Answers(recording)
        self._contents = {event.offset_bytes: event.content for event in recording.trace if event.kind == "write"}
        self._others = Chance(SOMEBODY_ELSE).take_bytes(len(recording.before))

    def trace_under(self, faults: Sequence[Fault]) -> tuple[Event, ...]:
        """What comes to the disk when the writer is told of these faults."""
        return self._asked_under(faults).trace

    def strays_under(self, faults: Sequence[Fault]) -> tuple[int, ...]:
        """The writes, by number, with which the writer leaves its file; where the disk puts them is not its fault."""
        return self._asked_under(faults).strays

    def _asked_under(self, faults: Sequence[Fault]) -> Asked:
        told = tuple(fault._replace(bits=0) for fault in faults if fault.kind in TOLD)  # what is lost is not told
        return self._asked.get(told, lambda: self._ask(told))

    def _ask(self, told: Sequence[Fault]) -> Asked:
        trace = self._answers.trace_under(told) if told else self._recording.trace
        return Asked(trace, tuple(map(self._patch, trace)), self._recording.strays(trace))

    def _patch(self, event: Event) -> Patch | None:
        """Of a write that came in part, a part of the whole one: else what is remembered of it keeps it alive."""
        whole = self._contents.get(event.offset_bytes, b"")
        patch = whole_patch(event)
        return patch if patch is None or not whole.startswith(event.content) else patch._replace(content=whole)

    def state_after(self, faults: Sequence[Fault]) -> DiskState:
        """The disk as its reader will find it. Later faults see what earlier ones of their sort have left."""
        trace, wholes, _ = self._asked_under(faults)
        fates = fates_of(trace, faults, wholes)
        patches = [fate.patch for fate in fates if fate.patch is not None and fate.is_kept]
        for fault in faults:
            patches += self._afterwards(fault, patches)
        bad_runs, passing_runs = (_runs_of(faults, kinds) for kinds in (CANNOT_BE_READ, PASSES))
        return DiskState(self._recording.before, patches, bad_runs, passing_runs)

    def _afterwards(self, fault: Fault, patches: Sequence[Patch]) -> tuple[Patch, ...]:
        """What comes over it all when the writer is done."""
        kind, number, place_bytes, length_bytes, _ = fault
        if kind == FaultKind.STALE_SECTORS:
            return (Patch(0, self._recording.before, place_bytes, place_bytes + length_bytes),)
        if kind == FaultKind.OVERWRITTEN:
            return (Patch(0, self._others, place_bytes, place_bytes + length_bytes),)
        state = DiskState(self._recording.before, patches)
        if kind == FaultKind.MOVED_EXTENT:
            extent = self._recording.extents[number]
            gone = Patch(0, self._others, extent.physical_bytes, extent.physical_bytes + extent.length_bytes)
            return gone, *state.moved(extent, place_bytes)
        return (_rotten(state, fault),) if kind == FaultKind.BIT_ROT else ()


def _runs_of(faults: Sequence[Fault], kinds: Sequence[FaultKind]) -> list[Run]:
    return [Run(fault.place_bytes, fault.length_bytes) for fault in faults if fault.kind in kinds]


def _rotten(state: DiskState, fault: Fault) -> Patch:
    sector = bytearray(state.read(fault.place_bytes, SECTOR_SIZE_BYTES))
    sector[fault.bits // 8] ^= 1 << fault.bits % 8
    return Patch(fault.place_bytes, bytes(sector), 0, len(sector))
