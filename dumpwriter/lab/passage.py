"""A writer's passage through a disk with faults: from what it asks to what is on the disk in the end.

What the disk says has failed changes what the writer asks next, so the writer is run over it. What it keeps to itself
changes only what becomes of that.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from dumpwriter.lab.answers import Answers
from dumpwriter.lab.chance import CaseKey, Chance
from dumpwriter.lab.diskstate import DiskState, Patch
from dumpwriter.lab.faults import FaultKind
from dumpwriter.lab.memo import Memo
from dumpwriter.lab.telling import TOLD
from vdisk.blockdevice import SECTOR_SIZE_BYTES
from vdisk.extent import Run

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from dumpwriter.lab.faults import Fault
    from dumpwriter.lab.recording import Recording
    from vdisk.layers.trace import Event

TRACES_MAX = 1 << 9  # each holds what came of writes in part; whole writes are shared
VERDICTS_MAX = 1 << 14  # on traces, which are small
SOMEBODY_ELSE = CaseKey("somebody else", 0, 0)  # whose data lies where the file's is no longer
CANNOT_BE_READ = (FaultKind.UNREADABLE, FaultKind.BAD_SECTORS)
PASSES = (FaultKind.PASSING_ERROR,)


class Fate(NamedTuple):
    """What becomes of an operation: what of a write arrives, and whether it stays; whether a flush was one."""

    number: int
    operation: Event
    patch: Patch | None
    is_kept: bool
    is_late: bool = False

    def __str__(self) -> str:
        _, place_bytes, length_bytes, _ = self.operation
        what = f"write {length_bytes:>8} at {place_bytes:>9}" if self.operation.kind == "write" else "flush"
        return f"{self.number:>3}  {what:<30}{self.in_words}".rstrip()

    @property
    def in_words(self) -> str:
        """Empty where nothing is out of the ordinary."""
        write, patch = self.operation, self.patch
        if write.kind == "flush":
            return "" if self.is_kept else "lied"
        if patch is None:
            return "dropped"
        if not self.is_kept:
            return "lost in flight"
        told = []
        if patch.end_bytes < write.length_bytes:
            told.append(f"torn after {patch.end_bytes} bytes")
        if patch.place_bytes != write.offset_bytes:
            told.append(f"went to {patch.place_bytes}")
        if self.is_late:
            told.append("came late")
        return ", ".join(told)


class Passages:
    """The passages of one recorded run. What the writer asks is recorded once for all that it is told alike."""

    def __init__(self, recording: Recording) -> None:
        self._recording = recording
        self._traces: Memo[tuple[Event, ...]] = Memo(TRACES_MAX)
        self._answers = Answers(recording)
        self._strays: Memo[tuple[int, ...]] = Memo(VERDICTS_MAX)
        self._others = Chance(SOMEBODY_ELSE).take_bytes(len(recording.before))

    def trace_under(self, faults: Sequence[Fault]) -> tuple[Event, ...]:
        """What comes to the disk when the writer is told of these faults."""
        told = tuple(fault for fault in faults if fault.kind in TOLD)
        if not told:
            return self._recording.trace
        return self._traces.get(told, lambda: self._answers.trace_under(told))

    def strays_under(self, faults: Sequence[Fault]) -> tuple[int, ...]:
        """The writes, by number, with which the writer leaves its file; where the disk puts them is not its fault."""
        told = tuple(fault for fault in faults if fault.kind in TOLD)
        return self._strays.get(told, lambda: self._recording.strays(self.trace_under(told)))

    def state_after(self, faults: Sequence[Fault]) -> DiskState:
        """The disk as its reader will find it. Later faults see what earlier ones of their sort have left."""
        fates = fates_of(self.trace_under(faults), faults)
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
            return gone, Patch(place_bytes, state.read(*extent), 0, extent.length_bytes)
        return (_rotten(state, fault),) if kind == FaultKind.BIT_ROT else ()


def _runs_of(faults: Sequence[Fault], kinds: Sequence[FaultKind]) -> list[Run]:
    return [Run(fault.place_bytes, fault.length_bytes) for fault in faults if fault.kind in kinds]


def fates_of(trace: Sequence[Event], faults: Sequence[Fault]) -> Iterator[Fate]:
    """In the order in which they come to the disk. Where the power stays, all of them come.

    Of the writes in flight at a cut, and of those that a reset finds, the fault says which are kept.
    """
    cut = min((fault for fault in faults if fault.kind == FaultKind.POWER_CUT), default=None)
    lies = {fault.operation for fault in faults if fault.kind == FaultKind.LYING_FLUSH}
    done = trace if cut is None else trace[: cut.operation]
    arrivals = _in_order_of_arrival(done, faults)
    resets = [fault for fault in faults if fault.kind == FaultKind.RESET and fault.operation <= len(trace)]
    losses = resets if cut is None else [*(reset for reset in resets if reset.operation < cut.operation), cut]
    lost: set[int] = set()
    for loss in losses:
        in_flight = _in_flight(arrivals, lies, loss.operation)
        lost.update(number for bit, number in enumerate(in_flight) if not loss.bits >> bit & 1)
    for arrival in arrivals:
        number, event = arrival.number, arrival.event
        if event.kind == "flush":
            yield Fate(number, event, None, number not in lies)
        else:
            struck = [fault for fault in faults if fault.operation == number]
            yield Fate(number, event, _arriving(event, struck), number not in lost, arrival.is_late)


def in_flight_at_the_cut(trace: Sequence[Event], faults: Sequence[Fault]) -> list[int]:
    """The numbers of the writes that a power cut finds in flight; none where the power stays."""
    operation = min((fault.operation for fault in faults if fault.kind == FaultKind.POWER_CUT), default=0)
    lies = {fault.operation for fault in faults if fault.kind == FaultKind.LYING_FLUSH}
    return _in_flight(_in_order_of_arrival(trace[:operation], faults), lies, operation)


class _Arrival(NamedTuple):
    """An operation as it comes to the disk: behind the operation `behind`, which is itself where it is not late."""

    behind: int
    is_late: bool
    number: int
    event: Event


def _in_order_of_arrival(done: Sequence[Event], faults: Sequence[Fault]) -> list[_Arrival]:
    late = {fault.operation: fault.bits for fault in faults if fault.kind == FaultKind.LATE_WRITE}
    arrivals = [
        _Arrival(number + late.get(number, 0), event.kind == "write" and number in late, number, event)
        for number, event in enumerate(done)
    ]
    return sorted(arrivals, key=lambda arrival: arrival[:3]) if late else arrivals


def _in_flight(arrivals: Sequence[_Arrival], lies: set[int], operation: int) -> list[int]:
    """The writes of which no flush has seen to it before an operation that they are on the medium."""
    in_flight: list[int] = []
    for _, _, number, event in arrivals:
        if event.kind == "flush" and number < operation and number not in lies:
            in_flight.clear()
        elif event.kind == "write" and number < operation:
            in_flight.append(number)
    return in_flight


def _arriving(write: Event, faults: Sequence[Fault]) -> Patch | None:
    """What comes of a write; None where it is dropped."""
    place_bytes, taken_bytes = write.offset_bytes, write.length_bytes
    for fault in faults:
        if fault.kind == FaultKind.DROPPED_WRITE:
            return None
        if fault.kind == FaultKind.TORN_WRITE:
            taken_bytes = min(taken_bytes, fault.length_bytes)
        elif fault.kind == FaultKind.MISDIRECTED:
            place_bytes = fault.place_bytes
    return Patch(place_bytes, write.content, 0, taken_bytes)


def _rotten(state: DiskState, fault: Fault) -> Patch:
    sector = bytearray(state.read(fault.place_bytes, SECTOR_SIZE_BYTES))
    sector[fault.bits // 8] ^= 1 << fault.bits % 8
    return Patch(fault.place_bytes, bytes(sector), 0, len(sector))
