"""A writer's passage through a disk with faults: from what it asks to what is on the disk in the end.

What the disk says has failed changes what the writer asks next, so the writer is run over it. What it keeps to itself
changes only what becomes of that.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from dumpwriter.lab.answers import Answers
from dumpwriter.lab.chance import CaseKey, Chance
from dumpwriter.lab.diskstate import DiskState, Patch
from dumpwriter.lab.fates import arrivals, whole_patch
from dumpwriter.lab.faults import FaultKind
from dumpwriter.lab.memo import Memo
from dumpwriter.lab.telling import TOLD
from vdisk.blockdevice import SECTOR_SIZE_BYTES
from vdisk.extent import Run
from vdisk.layers.trace import Event

if TYPE_CHECKING:
    from collections.abc import Sequence

    from dumpwriter.lab.faults import Fault
    from dumpwriter.lab.recording import Recording

ASKED_MAX = 1 << 12  # each holds some patches; the bytes are shared
SOMEBODY_ELSE = CaseKey("somebody else", 0, 0)  # whose data lies where the file's is no longer
CANNOT_BE_READ = (FaultKind.UNREADABLE, FaultKind.BAD_SECTORS)
PASSES = (FaultKind.PASSING_ERROR,)


class Asked(NamedTuple):
    """What comes to the disk from a writer, None of a flush, and with which writes it leaves its file."""

    patches: tuple[Patch | None, ...]
    strays: tuple[int, ...]


class Passages:
    """The passages of one recorded run. What the writer asks is recorded once for all that it is told alike."""

    def __init__(self, recording: Recording) -> None:
        self._recording = recording
        self._asked: Memo[Asked] = Memo(ASKED_MAX)
        self._answers = Answers(recording)
        self._untold = tuple(map(whole_patch, recording.trace))
        self._others = Chance(SOMEBODY_ELSE).take_bytes(len(recording.before))

    def trace_under(self, faults: Sequence[Fault]) -> tuple[Event, ...]:
        """What comes to the disk when the writer is told of these faults."""
        return tuple(map(_event, self._asked_under(faults).patches))

    def strays_under(self, faults: Sequence[Fault]) -> tuple[int, ...]:
        """The writes, by number, with which the writer leaves its file; where the disk puts them is not its fault."""
        return self._asked_under(faults).strays

    def _asked_under(self, faults: Sequence[Fault]) -> Asked:
        told = tuple(fault._replace(bits=0) for fault in faults if fault.kind in TOLD)  # what is lost is not told
        return self._asked.get(told, lambda: self._ask(told))

    def _ask(self, told: Sequence[Fault]) -> Asked:
        patches = self._answers.patches_under(told) if told else self._untold
        return Asked(patches, self._recording.strays(patches))

    def state_after(self, faults: Sequence[Fault]) -> DiskState:
        """The disk as its reader will find it. Later faults see what earlier ones of their sort have left."""
        came = arrivals(self._asked_under(faults).patches, faults)
        patches = [patch for _, patch, is_kept, _ in came if patch is not None and is_kept]
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


def _event(patch: Patch | None) -> Event:
    if patch is None:
        return Event("flush", 0, 0, b"")
    place_bytes, content, start_bytes, end_bytes = patch
    return Event("write", place_bytes + start_bytes, end_bytes - start_bytes, content[start_bytes:end_bytes])


def _runs_of(faults: Sequence[Fault], kinds: Sequence[FaultKind]) -> list[Run]:
    return [Run(fault.place_bytes, fault.length_bytes) for fault in faults if fault.kind in kinds]


def _rotten(state: DiskState, fault: Fault) -> Patch:
    sector = bytearray(state.read(fault.place_bytes, SECTOR_SIZE_BYTES))
    sector[fault.bits // 8] ^= 1 << fault.bits % 8
    return Patch(fault.place_bytes, bytes(sector), 0, len(sector))
