"""Which frames of a world were moved to a spare slot, and which parity must give back, without any check sum.

A slot that is for parity, or to spare, is to be believed where the disk gives, byte for byte, what the writer puts
there when it could write the frames in question: their bytes are known, wherever they lie, and so is the frame that
their XOR makes. Of the slots that a parity frame names, the one that is not whole must come back, where it is one.

Of a disk that only refuses what touches bad sectors it is known, too, which frames must have been moved, and how many
each parity frame must name. That follows from the plan: a writer that covers less does not lower what is asked of it.
"""

from __future__ import annotations

import functools
import itertools
import operator
from typing import TYPE_CHECKING, NamedTuple

from dumpwriter.formats.region import COVERED_SLOT, FRAME_HEADER, PLACE, PLACES_MAX, RUNS_MAX, FrameKind
from dumpwriter.frames import FramePlan, encode_frame
from dumpwriter.lab.faults import FaultKind
from dumpwriter.lab.memo import Memo
from dumpwriter.lab.telling import TOLD
from dumpwriter.sealing import UNSEALED
from vdisk.blockdevice import BLOCK_SIZE_BYTES
from vdisk.errors import DeviceError
from vdisk.extent import Run

if TYPE_CHECKING:
    from collections.abc import Hashable, Iterable, Iterator, Sequence

    from dumpwriter.lab.diskstate import DiskState
    from dumpwriter.lab.faults import Fault
    from dumpwriter.lab.world import LaterSlot, World
    from vdisk.layers.trace import Event


class Holding(NamedTuple):
    """A frame of the plan, by its own slot, and the slot in which it lies."""

    slot: int
    planned: int


class Found(NamedTuple):
    """What a slot for parity, or to spare, is believed to hold: a frame that was moved there, or parity of others."""

    holdings: frozenset[Holding] = frozenset()
    covers: frozenset[Holding] = frozenset()


class LaterSlots:
    """The slots for parity and to spare, of one world, in one state after the other."""

    def __init__(self, world: World, versions_max: int) -> None:
        self._world = world
        self._slots = (*world.parity, *world.spares)
        self._frames = {frame.plan.sequence: frame for frame in world.frames}
        self._spares = {spare.slot for spare in world.spares}
        self._found: Memo[Found] = Memo(versions_max)
        self._written: Memo[bytes] = Memo(versions_max)

    def found(self, state: DiskState, number: int, version: Hashable) -> Found:
        return self._found.get((number, version), lambda: self._find(state, self._slots[number]))

    def _find(self, state: DiskState, place: LaterSlot) -> Found:
        try:
            block = state.read(place.runs[0].physical_bytes, BLOCK_SIZE_BYTES)
            for covers in self._coverings(_named(block)):
                if _begins_with(state, place, self._parity_frame(place.slot, covers)):
                    return Found(covers=frozenset(covers))
            if place.slot in self._spares:  # both frames of metadata are the same there
                holdings = (Holding(place.slot, planned) for planned in self._frames)
                return Found(frozenset(one for one in holdings if _begins_with(state, place, self._content(one))))
        except DeviceError:
            pass
        return Found()

    def _coverings(self, named: Sequence[int]) -> Iterator[tuple[Holding, ...]]:
        """Which frames can be meant by these slots: in the spare ones, others of the group that is named."""
        own = [slot for slot in named if slot in self._frames]
        spare = [slot for slot in named if slot in self._spares]
        if not named or len(own) + len(spare) != len(named):
            return
        for group in self._world.groups:
            if group.issuperset(own):
                for moved in itertools.permutations(sorted(group.difference(own)), len(spare)):
                    pairs = (*zip(own, own, strict=True), *zip(spare, moved, strict=True))
                    by_slot = dict(pairs)
                    yield tuple(Holding(slot, by_slot[slot]) for slot in named)

    def _content(self, holding: Holding) -> bytes:
        frame = self._frames[holding.planned]
        if holding.slot == holding.planned:
            return frame.content
        plan, payload = frame.plan._replace(sequence=holding.slot), frame.content[BLOCK_SIZE_BYTES:]
        return self._written.get(holding, lambda: self._encoded(plan, payload))

    def _parity_frame(self, slot: int, covers: tuple[Holding, ...]) -> bytes:
        return self._written.get((slot, covers), lambda: self._sum(slot, covers))

    def _sum(self, slot: int, covers: tuple[Holding, ...]) -> bytes:
        contents = list(map(self._content, covers))
        total = functools.reduce(operator.xor, (int.from_bytes(content, "little") for content in contents))
        payload = total.to_bytes(max(map(len, contents)), "little")
        return self._encoded(FramePlan(slot, FrameKind.PARITY, covers=tuple(one.slot for one in covers)), payload)

    def _encoded(self, plan: FramePlan, payload: bytes) -> bytes:
        content, pages_total = memoryview(bytearray(BLOCK_SIZE_BYTES) + payload), self._world.scenario.pages
        identity, extents = self._world.identity, self._world.extents
        return bytes(encode_frame(content, plan, identity, extents, pages_total, len(payload), UNSEALED))


def rebuilt(covers: Iterable[frozenset[Holding]], whole: frozenset[Holding]) -> frozenset[Holding]:
    """What must come back where these are whole."""
    lost = [named - whole for named in covers]
    return frozenset().union(*(holdings for holdings in lost if len(holdings) == 1))


def is_one_left_out(world: World, faults: Sequence[Fault], trace: Sequence[Event]) -> bool:
    """Whether the writer gave up a frame that a slot to spare would have taken, or left one out of its group's parity.

    Asked of disks that refuse what touches bad sectors, and nothing else; `trace` is what came to the disk.
    """
    told = [fault for fault in faults if fault.kind in TOLD]
    if not told or any(fault.kind != FaultKind.BAD_SECTORS for fault in told):
        return False
    bad = [Run(fault.place_bytes, fault.length_bytes) for fault in told]
    planned = world.places[: len(world.places) - len(world.spares)]
    refused = sum(_touches(runs, bad) for runs in planned)
    return _is_one_unmoved(world, bad, refused, trace) or _is_one_uncovered(world, bad, refused, trace)


def _is_one_unmoved(world: World, bad: Sequence[Run], refused: int, trace: Sequence[Event]) -> bool:
    written = [Run(event.offset_bytes, event.length_bytes) for event in trace if event.kind == "write"]
    taken = [_touches(spare.runs, written) for spare in world.spares]
    good = [not _touches(spare.runs, bad) for spare in world.spares]
    is_one_free = any(is_good and not is_taken for is_good, is_taken in zip(good, taken, strict=True))
    return refused > sum(taken) and is_one_free


def _is_one_uncovered(world: World, bad: Sequence[Run], refused: int, trace: Sequence[Event]) -> bool:
    """Where all have a place, each parity frame names as many slots as its group has frames."""
    if refused + sum(_touches(spare.runs, bad) for spare in world.spares) > len(world.spares):
        return False
    named = {frozenset(slots) for place in (*world.parity, *world.spares) for slots in _named_at(place, trace)}
    return sorted(map(len, named)) != sorted(map(len, world.groups))


def _named_at(place: LaterSlot, trace: Sequence[Event]) -> Iterator[tuple[int, ...]]:
    """By all parity frames of which the header block came there."""
    start_bytes = place.runs[0].physical_bytes
    for event in trace:
        at_bytes = start_bytes - event.offset_bytes
        if event.kind == "write" and 0 <= at_bytes <= event.length_bytes - BLOCK_SIZE_BYTES:
            slots = _named(event.content[at_bytes : at_bytes + BLOCK_SIZE_BYTES])
            if slots:
                yield slots


def _touches(runs: Iterable[Run], others: Sequence[Run]) -> bool:
    return any(run.meets(other) for run in runs for other in others)


def _named(block: bytes) -> tuple[int, ...]:
    """What stands where a parity frame names its slots; nothing is believed of it yet."""
    header = FRAME_HEADER.unpack_from(block)
    if header.kind != FrameKind.PARITY or header.place_count > PLACES_MAX or header.run_count > RUNS_MAX:
        return ()
    start_bytes = FRAME_HEADER.size_bytes + header.place_count * PLACE.size_bytes
    return tuple(row.slot for row in COVERED_SLOT.unpack_table(block, start_bytes, header.run_count))


def _begins_with(state: DiskState, place: LaterSlot, written: bytes) -> bool:
    offset_bytes = 0
    for place_bytes, length_bytes in place.runs:
        expected = written[offset_bytes : offset_bytes + length_bytes]
        if state.read(place_bytes, len(expected)) != expected:
            return False
        offset_bytes += length_bytes
    return True
