"""What can go wrong with a disk, as a closed table, and what must come out all the same: the fault budget.

    fault           what the disk does                              what must come out
    POWER_CUT       stops at an operation; of the writes since      frames that were flushed, and those of which all
                    the last flush any subset is there              came: COMPLETE once all were flushed
    LYING_FLUSH     says of one flush that it was done              COMPLETE; with a cut, as if there were no flush
    LATE_WRITE      does a write behind later ones, flushes too     COMPLETE; with a cut between, as if not flushed
    TORN_WRITE      takes so many bytes of a write, sectors or not  all but the frames in the rest
    DROPPED_WRITE   says of a write that it was done                all but the frames in it
    MISDIRECTED     writes elsewhere                                all but the frames in it, and those it fell upon
    FAILED          refuses one operation and says so               COMPLETE: what failed is tried again
    SHORT_WRITE     takes so many sectors of a write and says so    COMPLETE: what failed is tried again
    FAILED_FLUSHES  refuses all flushes from one on and says so     COMPLETE; with a cut, as if there were no flush
    GONE            refuses everything from one operation on        all but the frames that were still to come
    RESET           refuses one operation and says so, and forgets  all but the frames in what is forgotten: what
                    some of the writes since the last flush         failed is tried again
    HANGING         never answers one operation, of which so many   all but the frames in the rest: the other threads
                    sectors come                                    go on; NONE where the dump just begins
    BAD_SECTORS     refuses for ever what touches some sectors      all but the frames on them
    UNREADABLE      takes them, and does not give them back         all but the frames on them
    PASSING_ERROR   refuses the first read that touches them, and   COMPLETE: what failed is read again
                    no other
    STALE_SECTORS   gives what was there before the dump            all but the frames on them
    OVERWRITTEN     gives what somebody else wrote there since,     all but the frames on them
                    over some sectors or a whole extent
    MOVED_EXTENT    has an extent elsewhere, somebody else's data   all but the frames in it, and those it fell upon
                    in its place
    BIT_ROT         gives one bit wrong                             all but the frame that it is in

In each row "all" is COMPLETE where no frame of pages is lost and one of the two frames of metadata is left, NONE where
every frame of pages is lost, and PARTIAL between, with every lost page named. A header of the dump is never needed.
A region that is too small is a scenario of its own, `short`, under all of these: of it comes what was planned at best.
Faults are composed: up to three of them in one case, and what any of them costs is lost. `judging.Expectation` holds
recovery to this exactly, by what the disk holds and gives.
"""

from __future__ import annotations

import functools
import operator
from enum import StrEnum
from typing import TYPE_CHECKING, NamedTuple, TypeVar

from vdisk.blockdevice import SECTOR_SIZE_BYTES

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from dumpwriter.lab.chance import Chance
    from dumpwriter.lab.recording import Recording

    Draw = Callable[[Chance, Recording], "Fault"]

Choice = TypeVar("Choice")

FAULTS_MAX = 3  # in one case
RECORDINGS_MAX = 4  # of which it is remembered what can be drawn
SECTORS_MAX = 16  # that one fault makes bad or stale


class FaultKind(StrEnum):
    POWER_CUT = "power cut"
    LYING_FLUSH = "lying flush"
    LATE_WRITE = "late write"
    TORN_WRITE = "torn write"
    DROPPED_WRITE = "dropped write"
    MISDIRECTED = "misdirected write"
    FAILED = "failed operation"
    SHORT_WRITE = "short write"
    FAILED_FLUSHES = "failed flushes"
    GONE = "disk gone"
    RESET = "controller reset"
    HANGING = "hanging operation"
    BAD_SECTORS = "bad sectors"
    UNREADABLE = "unreadable sectors"
    PASSING_ERROR = "passing read error"
    STALE_SECTORS = "stale sectors"
    OVERWRITTEN = "overwritten sectors"
    MOVED_EXTENT = "moved extent"
    BIT_ROT = "bit rot"


OF_SECTORS = (
    FaultKind.BAD_SECTORS,
    FaultKind.UNREADABLE,
    FaultKind.PASSING_ERROR,
    FaultKind.STALE_SECTORS,
    FaultKind.OVERWRITTEN,
)
OF_PARTS = (FaultKind.SHORT_WRITE, FaultKind.HANGING)  # of a write, in whole sectors


class Fault(NamedTuple):
    """One thing that goes wrong. Operations count from 0 in the trace; what a kind has no use for is 0."""

    kind: FaultKind
    operation: int = 0  # of an extent that moves, its number
    place_bytes: int = 0  # of an extent that moves, where to
    length_bytes: int = 0  # of a write that ends early, what is taken of it
    bits: int = 0  # which writes in flight are kept; which bit of a sector is wrong; how many operations late

    def __str__(self) -> str:
        """Without the numbers that are 0."""
        return ", ".join([self.kind, *(f"{name} {value}" for name, value in [*self._asdict().items()][1:] if value)])


def draw_faults(chance: Chance, recording: Recording) -> tuple[Fault, ...]:
    """One to three, of any kinds that the recording has something for."""
    draws = _draws_for(recording)
    return tuple(draws[chance.below(len(draws))](chance, recording) for _ in range(1 + chance.below(FAULTS_MAX)))


@functools.lru_cache(RECORDINGS_MAX)
def _draws_for(recording: Recording) -> tuple[Draw, ...]:
    return tuple(draw for draw, needed in DRAWERS.values() if needed(recording))


def _power_cut(chance: Chance, recording: Recording) -> Fault:
    """Behind the last operation, too: a flush may have lied."""
    operation = chance.below(len(recording.trace) + 1)
    return Fault(FaultKind.POWER_CUT, operation, bits=_subset(chance, recording))


def _lying_flush(chance: Chance, recording: Recording) -> Fault:
    return Fault(FaultKind.LYING_FLUSH, _one_of(chance, recording.flushes))


def _late_write(chance: Chance, recording: Recording) -> Fault:
    operation = _one_of(chance, recording.writes)
    return Fault(FaultKind.LATE_WRITE, operation, bits=1 + chance.below(len(recording.trace) - operation))


def _torn_write(chance: Chance, recording: Recording) -> Fault:
    """Half of them between two sectors."""
    operation = _one_of(chance, recording.writes)
    taken_bytes = chance.below(recording.trace[operation].length_bytes)
    if chance.below(2):
        taken_bytes -= taken_bytes % SECTOR_SIZE_BYTES
    return Fault(FaultKind.TORN_WRITE, operation, length_bytes=taken_bytes)


def _dropped_write(chance: Chance, recording: Recording) -> Fault:
    return Fault(FaultKind.DROPPED_WRITE, _one_of(chance, recording.writes))


def _misdirected(chance: Chance, recording: Recording) -> Fault:
    """To where it still fits; half of them to where another write belongs."""
    operation = _one_of(chance, recording.writes)
    place_bytes = _place(chance, recording, recording.trace[operation].length_bytes)
    return Fault(FaultKind.MISDIRECTED, operation, place_bytes)


def _failed(chance: Chance, recording: Recording) -> Fault:
    return Fault(FaultKind.FAILED, chance.below(len(recording.trace)))


def _short_write(chance: Chance, recording: Recording) -> Fault:
    operation = _one_of(chance, recording.writes)
    return Fault(FaultKind.SHORT_WRITE, operation, length_bytes=_part(chance, recording, operation))


def _failed_flushes(chance: Chance, recording: Recording) -> Fault:
    return Fault(FaultKind.FAILED_FLUSHES, _one_of(chance, recording.flushes))


def _gone(chance: Chance, recording: Recording) -> Fault:
    return Fault(FaultKind.GONE, chance.below(len(recording.trace)))


def _reset(chance: Chance, recording: Recording) -> Fault:
    return Fault(FaultKind.RESET, chance.below(len(recording.trace)), bits=_subset(chance, recording))


def _hanging(chance: Chance, recording: Recording) -> Fault:
    operation = chance.below(len(recording.trace))
    return Fault(FaultKind.HANGING, operation, length_bytes=_part(chance, recording, operation))


def _sectors(kind: FaultKind) -> Draw:
    def draw(chance: Chance, recording: Recording) -> Fault:
        disk_sectors = len(recording.before) // SECTOR_SIZE_BYTES
        length_bytes = (1 + chance.below(min(SECTORS_MAX, disk_sectors))) * SECTOR_SIZE_BYTES
        return Fault(kind, place_bytes=_place(chance, recording, length_bytes), length_bytes=length_bytes)

    return draw


def _overwritten(chance: Chance, recording: Recording) -> Fault:
    """Half of them a whole extent, as when its file was removed."""
    if recording.extents and chance.below(2):
        place_bytes, length_bytes = _one_of(chance, recording.extents)
        return Fault(FaultKind.OVERWRITTEN, place_bytes=place_bytes, length_bytes=length_bytes)
    return _sectors(FaultKind.OVERWRITTEN)(chance, recording)


def _moved_extent(chance: Chance, recording: Recording) -> Fault:
    number = chance.below(len(recording.extents))
    length_bytes = recording.extents[number].length_bytes
    return Fault(FaultKind.MOVED_EXTENT, number, _place(chance, recording, length_bytes), length_bytes)


def _bit_rot(chance: Chance, recording: Recording) -> Fault:
    bit = chance.below(8 * SECTOR_SIZE_BYTES)
    return Fault(FaultKind.BIT_ROT, place_bytes=_place(chance, recording, SECTOR_SIZE_BYTES), bits=bit)


TRACE, WRITES, FLUSHES, EXTENTS = map(operator.attrgetter, ("trace", "writes", "flushes", "extents"))

# How each is drawn, and of what a recording must have some for it.
DRAWERS: dict[FaultKind, tuple[Draw, operator.attrgetter[Sequence[object]]]] = {
    FaultKind.POWER_CUT: (_power_cut, TRACE),
    FaultKind.LYING_FLUSH: (_lying_flush, FLUSHES),
    FaultKind.LATE_WRITE: (_late_write, WRITES),
    FaultKind.TORN_WRITE: (_torn_write, WRITES),
    FaultKind.DROPPED_WRITE: (_dropped_write, WRITES),
    FaultKind.MISDIRECTED: (_misdirected, WRITES),
    FaultKind.FAILED: (_failed, TRACE),
    FaultKind.SHORT_WRITE: (_short_write, WRITES),
    FaultKind.FAILED_FLUSHES: (_failed_flushes, FLUSHES),
    FaultKind.GONE: (_gone, TRACE),
    FaultKind.RESET: (_reset, TRACE),
    FaultKind.HANGING: (_hanging, TRACE),
    **{kind: (_sectors(kind), TRACE) for kind in OF_SECTORS},
    FaultKind.OVERWRITTEN: (_overwritten, TRACE),
    FaultKind.MOVED_EXTENT: (_moved_extent, EXTENTS),
    FaultKind.BIT_ROT: (_bit_rot, TRACE),
}


def _subset(chance: Chance, recording: Recording) -> int:
    """Of the writes that may be in flight, as bits."""
    return int.from_bytes(chance.take_bytes(len(recording.trace) // 8 + 1), "little") % (1 << len(recording.trace))


def _part(chance: Chance, recording: Recording, operation: int) -> int:
    """None of it, some sectors or all; none of a flush."""
    sectors = recording.trace[operation].length_bytes // SECTOR_SIZE_BYTES
    return chance.below(sectors + 1) * SECTOR_SIZE_BYTES


def _place(chance: Chance, recording: Recording, length_bytes: int) -> int:
    """A sector from which so much fits on the disk: anywhere, or where something begins."""
    last_bytes = len(recording.before) - length_bytes
    if chance.below(2) or not recording.places:
        return chance.below(last_bytes // SECTOR_SIZE_BYTES + 1) * SECTOR_SIZE_BYTES
    return min(_one_of(chance, recording.places), last_bytes)


def _one_of(chance: Chance, choices: Sequence[Choice]) -> Choice:
    return choices[chance.below(len(choices))]
