"""What can go wrong with a disk, as a closed table, and what must come out all the same: the fault budget.

    fault           what the disk does                              what must come out
    POWER_CUT       stops at an operation; of the writes since      frames that were flushed, and those of which all
                    the last flush any subset is there              came: COMPLETE once all were flushed
    LYING_FLUSH     says of one flush that it was done              COMPLETE; with a cut, as if there were no flush
    TORN_WRITE      takes so many bytes of a write, sectors or not  all but the frames in the rest
    DROPPED_WRITE   says of a write that it was done                all but the frames in it
    MISDIRECTED     writes elsewhere                                all but the frames in it, and those it fell upon
    FAILED          refuses one operation and says so               COMPLETE: what failed is tried again
    BAD_SECTORS     refuses for ever what touches some sectors      all but the frames on them
    UNREADABLE      takes them, and does not give them back         all but the frames on them
    STALE_SECTORS   gives what was there before the dump            all but the frames on them
    BIT_ROT         gives one bit wrong                             all but the frame that it is in

In each row "all" is COMPLETE where no frame of pages is lost and one of the two frames of metadata is left, NONE where
every frame of pages is lost, and PARTIAL between, with every lost page named. A header of the dump is never needed.
Faults are composed: up to three of them in one case, and what any of them costs is lost. `judging.Expectation` holds
recovery to this exactly, by what the disk holds and gives.
"""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, NamedTuple

from vdisk.blockdevice import SECTOR_SIZE_BYTES

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from dumpwriter.lab.chance import Chance
    from dumpwriter.lab.world import World

FAULTS_MAX = 3  # in one case
SECTORS_MAX = 16  # that one fault makes bad or stale


class FaultKind(StrEnum):
    POWER_CUT = "power cut"
    LYING_FLUSH = "lying flush"
    TORN_WRITE = "torn write"
    DROPPED_WRITE = "dropped write"
    MISDIRECTED = "misdirected write"
    FAILED = "failed operation"
    BAD_SECTORS = "bad sectors"
    UNREADABLE = "unreadable sectors"
    STALE_SECTORS = "stale sectors"
    BIT_ROT = "bit rot"


OF_SECTORS = (FaultKind.BAD_SECTORS, FaultKind.UNREADABLE, FaultKind.STALE_SECTORS)


class Fault(NamedTuple):
    """One thing that goes wrong. Operations count from 0 in the trace; what a kind has no use for is 0."""

    kind: FaultKind
    operation: int = 0
    place_bytes: int = 0
    length_bytes: int = 0  # of a torn write, what is taken of it
    bits: int = 0  # of a cut, which writes in flight are kept; of bit rot, which bit of the sector is wrong


def draw_faults(chance: Chance, world: World) -> tuple[Fault, ...]:
    """One to three, of any kinds."""
    kinds = list(DRAWERS)
    return tuple(DRAWERS[kinds[chance.below(len(kinds))]](chance, world) for _ in range(1 + chance.below(FAULTS_MAX)))


def _power_cut(chance: Chance, world: World) -> Fault:
    """Behind the last operation, too: a flush may have lied."""
    operation = chance.below(len(world.trace) + 1)
    return Fault(FaultKind.POWER_CUT, operation, bits=chance.below(1 << len(world.trace)))


def _lying_flush(chance: Chance, world: World) -> Fault:
    return Fault(FaultKind.LYING_FLUSH, _one_of(chance, _operations(world, "flush")))


def _torn_write(chance: Chance, world: World) -> Fault:
    """Half of them between two sectors."""
    operation = _one_of(chance, _operations(world, "write"))
    taken_bytes = chance.below(world.trace[operation].length_bytes)
    if chance.below(2):
        taken_bytes -= taken_bytes % SECTOR_SIZE_BYTES
    return Fault(FaultKind.TORN_WRITE, operation, length_bytes=taken_bytes)


def _dropped_write(chance: Chance, world: World) -> Fault:
    return Fault(FaultKind.DROPPED_WRITE, _one_of(chance, _operations(world, "write")))


def _misdirected(chance: Chance, world: World) -> Fault:
    """To where it still fits; half of them to where another write belongs."""
    operation = _one_of(chance, _operations(world, "write"))
    return Fault(FaultKind.MISDIRECTED, operation, _place(chance, world, world.trace[operation].length_bytes))


def _failed(chance: Chance, world: World) -> Fault:
    return Fault(FaultKind.FAILED, chance.below(len(world.trace)))


def _sectors(kind: FaultKind) -> Callable[[Chance, World], Fault]:
    def draw(chance: Chance, world: World) -> Fault:
        length_bytes = (1 + chance.below(SECTORS_MAX)) * SECTOR_SIZE_BYTES
        return Fault(kind, place_bytes=_place(chance, world, length_bytes), length_bytes=length_bytes)

    return draw


def _bit_rot(chance: Chance, world: World) -> Fault:
    bit = chance.below(8 * SECTOR_SIZE_BYTES)
    return Fault(FaultKind.BIT_ROT, place_bytes=_place(chance, world, SECTOR_SIZE_BYTES), bits=bit)


DRAWERS: dict[FaultKind, Callable[[Chance, World], Fault]] = {
    FaultKind.POWER_CUT: _power_cut,
    FaultKind.LYING_FLUSH: _lying_flush,
    FaultKind.TORN_WRITE: _torn_write,
    FaultKind.DROPPED_WRITE: _dropped_write,
    FaultKind.MISDIRECTED: _misdirected,
    FaultKind.FAILED: _failed,
    **{kind: _sectors(kind) for kind in OF_SECTORS},
    FaultKind.BIT_ROT: _bit_rot,
}


def _place(chance: Chance, world: World, length_bytes: int) -> int:
    """A sector from which so much fits on the disk: anywhere, or where a frame or a write begins."""
    last_bytes = len(world.before) - length_bytes
    if chance.below(2):
        return chance.below(last_bytes // SECTOR_SIZE_BYTES + 1) * SECTOR_SIZE_BYTES
    writes = [world.trace[operation].offset_bytes for operation in _operations(world, "write")]
    frames = [run.physical_bytes for frame in world.frames for run in frame.runs]
    return min(_one_of(chance, writes + frames), last_bytes)


def _operations(world: World, kind: str) -> list[int]:
    return [number for number, event in enumerate(world.trace) if event.kind == kind]


def _one_of(chance: Chance, choices: Sequence[int]) -> int:
    return choices[chance.below(len(choices))]
