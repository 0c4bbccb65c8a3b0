"""Recovery at the pace of a campaign: what was read or put together once is remembered.

Why it finds what recovery without memory finds. The product's recovery reads slots and headers, each from the bytes at
its own place, and then makes a dump of these readings alone (`recovery.slots`, `recovery.scan`). Neither knows a clock,
chance or the time before. In states with the same version of a piece these bytes are the same, and so is the reading.
What of a slot is looked at follows from what is found there: a reading that looked only where the dump's frame was to
lie finds the same whatever lies in the rest of the slot; one that looked elsewhere is not remembered. From the same
readings come the same findings and the same pages for the sink, which differ from memory by the same bytes. So each
reading and each assembly is the product's code over bytes of the disk, and what is left out is only what would run a
second time over the same. In a long campaign that is nearly all, for cases share most of what they do to a disk.

What this cannot see is a recovery that keeps something in mind from one dump to the next. `judging.Recovery` is without
memory: the proof judges by it, and a test holds a campaign with memory to one without, case by case.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from dumpwriter.frames import slot_count
from dumpwriter.lab.judging import VERSIONS_MAX, Comparison, Reading, found
from dumpwriter.lab.memo import Memo
from dumpwriter.lab.pieces import Pieces
from dumpwriter.recovery.scan import RegionSlots, assemble
from vdisk.blockdevice import BlockDevice, Layer
from vdisk.layers.mapped import Mapped

if TYPE_CHECKING:
    from collections.abc import Hashable, Sequence

    from typing_extensions import Buffer

    from dumpwriter.formats.region import DumpHeader
    from dumpwriter.frames import DumpIdentity
    from dumpwriter.lab.diskstate import DiskState
    from dumpwriter.lab.world import World
    from dumpwriter.recovery.slots import Slot
    from vdisk.extent import Run

CONTENTS_MAX = 64  # slots that are kept with what they hold


class RememberingRecovery:
    """The product's recovery, which does not read or assemble the same twice."""

    name = "recovery"

    def __init__(self, world: World) -> None:
        self._world = world
        planned = {frame.plan.sequence: frame.runs for frame in world.frames}
        self._looked_at = [planned.get(slot, ()) for slot in range(slot_count(world.extents.size_bytes))]
        self._pieces = Pieces([world.headers, *self._looked_at])
        self._forget()

    def _forget(self) -> None:
        self._headers: Memo[DumpHeader | None] = Memo(VERSIONS_MAX)
        self._slots: dict[Hashable, Slot] = {}
        self._readings: Memo[Reading] = Memo(VERSIONS_MAX)
        self._kept: dict[tuple[Slot, bytes], Slot] = {}

    def read(self, state: DiskState) -> Reading:
        of_headers, *of_slots = self._pieces.versions(state)
        header = self._headers.get(of_headers, lambda: self._region(state).header())
        slots = tuple(self._slot(state, number, version) for number, version in enumerate(of_slots))
        return self._readings.get((header, slots), lambda: self._assemble(state, header, slots))

    def _slot(self, state: DiskState, sequence: int, version: Hashable) -> Slot:
        """Remembered where it was read from nothing but the piece of which this is the version."""
        key = sequence, version
        known = self._slots.get(key)
        if known is not None:
            return known
        watched = Watched(state.to_one_reader(), self._looked_at[sequence])
        slot = self._keep(RegionSlots(Mapped(watched, self._world.extents), self._world.identity).read(sequence))
        if not watched.is_left:
            self._slots[key] = slot
        return slot

    def _keep(self, slot: Slot) -> Slot:
        """A copy that stands, and one only of those that are equal: they are large. Nobody can write to it."""
        content = bytes(slot.content)
        key = slot._replace(content=memoryview(b"")), content  # bytes compare fast, views do not
        if len(self._kept) >= CONTENTS_MAX or len(self._slots) >= VERSIONS_MAX:
            self._forget()
        return self._kept.setdefault(key, slot._replace(content=memoryview(content)))

    def _assemble(self, state: DiskState, header: DumpHeader | None, slots: Sequence[Slot]) -> Reading:
        comparison = Comparison(self._world.memory)
        region = SlotsAsRead(self._mapped(state), self._world.identity, header, slots)
        return found(assemble(region, comparison), comparison)

    def _region(self, state: DiskState) -> RegionSlots:
        return RegionSlots(self._mapped(state), self._world.identity)

    def _mapped(self, state: DiskState) -> Mapped:
        return Mapped(state.to_one_reader(), self._world.extents)


class Watched(Layer):
    """Tells whether anything was read but what lies in these runs."""

    def __init__(self, lower: BlockDevice, runs: Sequence[Run]) -> None:
        super().__init__(lower)
        self._runs = runs
        self.is_left = False

    def read_into(self, offset_bytes: int, buffer: Buffer) -> None:
        end_bytes = offset_bytes + memoryview(buffer).nbytes
        self.is_left |= not any(start <= offset_bytes and end_bytes <= start + length for start, length in self._runs)
        self.lower.read_into(offset_bytes, buffer)


class SlotsAsRead(RegionSlots):
    """The slots of a region, and its header, as they were read before."""

    def __init__(
        self, region: Mapped, identity: DumpIdentity, header: DumpHeader | None, slots: Sequence[Slot]
    ) -> None:
        super().__init__(region, identity)
        self._newest = header
        self._slots = slots

    def header(self) -> DumpHeader | None:
        return self._newest

    def read(self, sequence: int) -> Slot:
        return self._slots[sequence]
