"""A dump's passage through a disk with faults: from what the writer asks to what is on the disk in the end.

What the disk says has failed changes what the writer asks next, so the real steps are run over it. What it keeps to
itself changes only what becomes of that.
"""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, NamedTuple

from dumpwriter.lab.diskstate import DiskState, Patch
from dumpwriter.lab.faults import FaultKind
from dumpwriter.lab.memo import Memo
from dumpwriter.lab.world import record
from vdisk.blockdevice import SECTOR_SIZE_BYTES, BlockDevice, Layer
from vdisk.errors import DeviceError
from vdisk.extent import Run
from vdisk.layers.media_faults import MediaFaults

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from typing_extensions import Buffer

    from dumpwriter.lab.faults import Fault
    from dumpwriter.lab.world import World
    from vdisk.layers.trace import Event

TOLD = (FaultKind.FAILED, FaultKind.BAD_SECTORS)
TRACES_MAX = 64  # each holds as much as the dump


class Fate(NamedTuple):
    """What becomes of an operation: what of a write arrives, and whether it stays; whether a flush was one."""

    number: int
    operation: Event
    patch: Patch | None
    is_kept: bool


class Passages:
    """The passages of one world's dump. What the writer asks is recorded once for all that it is told alike."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._traces: Memo[tuple[Event, ...]] = Memo(TRACES_MAX)

    def trace_under(self, faults: Sequence[Fault]) -> tuple[Event, ...]:
        """What comes to the disk when the writer is told of these faults."""
        told = tuple(fault for fault in faults if fault.kind in TOLD)
        if not told:
            return self._world.trace
        return self._traces.get(told, lambda: record(self._world, lambda disk: _telling(disk, told)))

    def state_after(self, faults: Sequence[Fault]) -> DiskState:
        """The disk as recovery will find it. Later faults see what earlier ones of their sort have left."""
        fates = fates_of(self.trace_under(faults), faults)
        patches = [fate.patch for fate in fates if fate.patch is not None and fate.is_kept]
        for fault in faults:
            if fault.kind == FaultKind.STALE_SECTORS:
                before, start_bytes = self._world.before, fault.place_bytes
                patches.append(Patch(0, before, start_bytes, start_bytes + fault.length_bytes))
            elif fault.kind == FaultKind.BIT_ROT:
                patches.append(_rotten(DiskState(self._world.before, patches), fault))
        unreadable = (FaultKind.UNREADABLE, FaultKind.BAD_SECTORS)
        bad_runs = [Run(fault.place_bytes, fault.length_bytes) for fault in faults if fault.kind in unreadable]
        return DiskState(self._world.before, patches, bad_runs)


def fates_of(trace: Sequence[Event], faults: Sequence[Fault]) -> Iterator[Fate]:
    """Of the writes in flight at a cut, the cut says which are kept; where the power stays, all of them arrive."""
    cut = min((fault for fault in faults if fault.kind == FaultKind.POWER_CUT), default=None)
    lies = {fault.operation for fault in faults if fault.kind == FaultKind.LYING_FLUSH}
    done = trace if cut is None else trace[: cut.operation]
    flushes = [number for number, event in enumerate(done) if event.kind == "flush" and number not in lies]
    flushed = max(flushes, default=-1)
    in_flight = itertools.count()
    for number, event in enumerate(done):
        if event.kind == "flush":
            yield Fate(number, event, None, number not in lies)
        else:
            is_kept = number < flushed or cut is None or bool(cut.bits >> next(in_flight) & 1)
            yield Fate(
                number, event, _arriving(event, [fault for fault in faults if fault.operation == number]), is_kept
            )


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


def _telling(disk: BlockDevice, faults: Sequence[Fault]) -> BlockDevice:
    bad_runs = [Run(fault.place_bytes, fault.length_bytes) for fault in faults if fault.kind == FaultKind.BAD_SECTORS]
    failing = {fault.operation for fault in faults if fault.kind == FaultKind.FAILED}
    return FailsAt(MediaFaults(disk, lambda: bad_runs), failing)


class FailsAt(Layer):
    """Refuses the operations with these numbers, each once, before anything of them is done."""

    def __init__(self, lower: BlockDevice, operations: set[int]) -> None:
        super().__init__(lower)
        self._operations = operations
        self._count = 0

    def write_from(self, offset_bytes: int, buffer: Buffer) -> None:
        self._pass()
        self.lower.write_from(offset_bytes, buffer)

    write_through = BlockDevice.write_through  # by this layer's own write and flush

    def flush(self) -> None:
        self._pass()
        self.lower.flush()

    def _pass(self) -> None:
        self._count += 1
        if self._count - 1 in self._operations:
            raise DeviceError(f"operation {self._count - 1} failed")
