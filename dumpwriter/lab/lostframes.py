"""Which frames of a world parity must give back, found out without any check sum.

A parity frame is to be believed where the disk gives, byte for byte, what the writer puts there when it could write the
frames that are named: their bytes are known, and so is the frame that their XOR makes. Of the slots that it names, the
one that is not whole must come back, where it is one.
"""

from __future__ import annotations

import functools
import operator
from typing import TYPE_CHECKING

from dumpwriter.formats.region import COVERED_SLOT, FRAME_HEADER, PLACE, PLACES_MAX, RUNS_MAX, FrameKind
from dumpwriter.frames import FramePlan, encode_frame
from dumpwriter.lab.memo import Memo
from dumpwriter.sealing import UNSEALED
from vdisk.blockdevice import BLOCK_SIZE_BYTES
from vdisk.errors import DeviceError

if TYPE_CHECKING:
    from collections.abc import Hashable, Iterable

    from dumpwriter.lab.diskstate import DiskState
    from dumpwriter.lab.world import World

Covers = frozenset[int]

NOTHING: Covers = frozenset()


class ParityOnDisk:
    """The parity frames of one world in one state after the other."""

    def __init__(self, world: World, versions_max: int) -> None:
        self._world = world
        self._contents = {frame.plan.sequence: frame.content for frame in world.frames}
        self._found: Memo[Covers] = Memo(versions_max)
        self._written: Memo[bytes] = Memo(versions_max)

    def covers(self, state: DiskState, number: int, version: Hashable) -> Covers:
        """The slots that a parity slot covers; none where it holds nothing to be believed."""
        return self._found.get((number, version), lambda: self._covers(state, number))

    def _covers(self, state: DiskState, number: int) -> Covers:
        slot, runs = self._world.parity[number]
        try:
            named = _named(state.read(runs[0].physical_bytes, BLOCK_SIZE_BYTES))
            if not named or any(one not in self._contents for one in named):
                return NOTHING
            written = self._written.get((slot, named), lambda: self._encoded(slot, named))
            return frozenset(named) if _begin_with(state, number, self._world, written) else NOTHING
        except DeviceError:
            return NOTHING

    def _encoded(self, slot: int, named: tuple[int, ...]) -> bytes:
        contents = [self._contents[one] for one in named]
        total = functools.reduce(operator.xor, (int.from_bytes(content, "little") for content in contents))
        payload = total.to_bytes(max(map(len, contents)), "little")
        plan = FramePlan(slot, FrameKind.PARITY, covers=named)
        content = memoryview(bytearray(BLOCK_SIZE_BYTES) + payload)
        pages_total = self._world.scenario.pages
        identity, extents = self._world.identity, self._world.extents
        return bytes(encode_frame(content, plan, identity, extents, pages_total, len(payload), UNSEALED))


def rebuilt(covers: Iterable[Covers], whole: frozenset[int]) -> Covers:
    """The slots that must come back where these are whole."""
    lost = [named - whole for named in covers]
    return frozenset().union(*(slots for slots in lost if len(slots) == 1))


def _named(block: bytes) -> tuple[int, ...]:
    """What stands where a parity frame names its slots; nothing is believed of it yet."""
    header = FRAME_HEADER.unpack_from(block)
    if header.kind != FrameKind.PARITY or header.place_count > PLACES_MAX or header.run_count > RUNS_MAX:
        return ()
    start_bytes = FRAME_HEADER.size_bytes + header.place_count * PLACE.size_bytes
    return tuple(row.slot for row in COVERED_SLOT.unpack_table(block, start_bytes, header.run_count))


def _begin_with(state: DiskState, number: int, world: World, written: bytes) -> bool:
    offset_bytes = 0
    for place_bytes, length_bytes in world.parity[number].runs:
        expected = written[offset_bytes : offset_bytes + length_bytes]
        if state.read(place_bytes, len(expected)) != expected:
            return False
        offset_bytes += length_bytes
    return True
