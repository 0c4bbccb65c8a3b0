"""What becomes of each operation of a trace on a disk that keeps it to itself what it does wrong."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from dumpwriter.lab.diskstate import Patch
from dumpwriter.lab.faults import FaultKind

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Sequence

    from dumpwriter.lab.faults import Fault
    from vdisk.layers.trace import Event

OF_ONE_WRITE = (FaultKind.TORN_WRITE, FaultKind.DROPPED_WRITE, FaultKind.MISDIRECTED)


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


class Arrival(NamedTuple):
    """The same of an operation of which only its patch is known: what would come of a write, None of a flush."""

    number: int
    patch: Patch | None
    is_kept: bool
    is_late: bool = False


def whole_patch(event: Event) -> Patch | None:
    """What comes of an operation where nothing goes wrong; None of a flush."""
    return Patch(event.offset_bytes, event.content, 0, event.length_bytes) if event.kind == "write" else None


def fates_of(trace: Sequence[Event], faults: Sequence[Fault]) -> Iterator[Fate]:
    """In the order in which they come to the disk. Where the power stays, all of them come.

    Of the writes in flight at a cut, and of those that a reset finds, the fault says which are kept.
    """
    for number, patch, is_kept, is_late in arrivals([*map(whole_patch, trace)], faults):
        yield Fate(number, trace[number], patch, is_kept, is_late)


def arrivals(wholes: Sequence[Patch | None], faults: Sequence[Fault]) -> Iterator[Arrival]:
    """The same from the whole patches of a trace."""
    lies = _lies(faults)
    struck = {fault.operation for fault in faults if fault.kind in OF_ONE_WRITE}
    cut = min((fault for fault in faults if fault.kind == FaultKind.POWER_CUT), default=None)
    late = _late_writes(wholes, faults)
    order = _order_of_arrival(len(wholes) if cut is None else min(cut.operation, len(wholes)), late)
    lost = _lost(wholes, order, lies, faults, cut)
    for number in order:
        patch = wholes[number]
        if patch is None:
            yield Arrival(number, None, number not in lies)
        else:
            if number in struck:
                patch = _arriving(patch, [fault for fault in faults if fault.operation == number])
            yield Arrival(number, patch, number not in lost, number in late)


def in_flight_at_the_cut(trace: Sequence[Event], faults: Sequence[Fault]) -> list[int]:
    """The numbers of the writes that a power cut finds in flight; none where the power stays."""
    operation = min((fault.operation for fault in faults if fault.kind == FaultKind.POWER_CUT), default=0)
    wholes = [*map(whole_patch, trace)]
    order = _order_of_arrival(min(operation, len(wholes)), _late_writes(wholes, faults))
    return _in_flight(wholes, order, _lies(faults), operation)


def _lies(faults: Sequence[Fault]) -> set[int]:
    """The flushes that are none, by number."""
    return {fault.operation for fault in faults if fault.kind == FaultKind.LYING_FLUSH}


def _late_writes(wholes: Sequence[Patch | None], faults: Sequence[Fault]) -> dict[int, int]:
    """By number, how many operations late each is."""
    late = {fault.operation: fault.bits for fault in faults if fault.kind == FaultKind.LATE_WRITE}
    return {number: by for number, by in late.items() if number < len(wholes) and wholes[number] is not None}


def _order_of_arrival(count: int, late: dict[int, int]) -> Sequence[int]:
    """Of the first operations of a trace: a late one comes right behind the one that it is late by."""
    if not late:
        return range(count)
    return sorted(range(count), key=lambda number: (number + late.get(number, 0), number in late, number))


def _lost(
    wholes: Sequence[Patch | None],
    order: Sequence[int],
    lies: Collection[int],
    faults: Sequence[Fault],
    cut: Fault | None,
) -> set[int]:
    """A reset that the cut forestalls takes nothing, nor does one that comes when the writer is done."""
    end = len(wholes) + 1 if cut is None else cut.operation
    losses = [fault for fault in faults if fault.kind == FaultKind.RESET and fault.operation < end]
    lost: set[int] = set()
    for loss in losses if cut is None else (*losses, cut):
        in_flight = _in_flight(wholes, order, lies, loss.operation)
        lost.update(number for bit, number in enumerate(in_flight) if not loss.bits >> bit & 1)
    return lost


def _in_flight(
    wholes: Sequence[Patch | None], order: Sequence[int], lies: Collection[int], operation: int
) -> list[int]:
    """The writes of which no flush has seen to it before an operation that they are on the medium."""
    in_flight: list[int] = []
    for number in order:
        if number < operation:
            if wholes[number] is not None:
                in_flight.append(number)
            elif number not in lies:
                in_flight.clear()
    return in_flight


def _arriving(whole: Patch, faults: Sequence[Fault]) -> Patch | None:
    """What comes of a write; None where it is dropped."""
    place_bytes, content, start_bytes, end_bytes = whole
    for fault in faults:
        if fault.kind == FaultKind.DROPPED_WRITE:
            return None
        if fault.kind == FaultKind.TORN_WRITE:
            end_bytes = min(end_bytes, fault.length_bytes)
        elif fault.kind == FaultKind.MISDIRECTED:
            place_bytes = fault.place_bytes
    return Patch(place_bytes, content, start_bytes, end_bytes)
