"""Rebuilding: a frame that cannot be read any more, from the others of its group and from their parity.

A parity frame is not believed, whatever it says: what comes out of it has to prove itself as any frame does, in the
slot that was lost. So a false one costs the time to try it, and no slot is read for that more than once.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, Protocol

from dumpwriter.formats.region import FrameKind, Place
from dumpwriter.recovery.slots import FALSE, HEADER_UNREADABLE, NOTHING, PAYLOAD_UNREADABLE, Slot
from dumpwriter.xor import PARITY_SIZE_BYTES, Accumulator
from vdisk.blockdevice import BLOCK_SIZE_BYTES

if TYPE_CHECKING:
    from collections.abc import Iterator

    from dumpwriter.frames import Frame

LOST = (NOTHING, FALSE, HEADER_UNREADABLE, PAYLOAD_UNREADABLE)  # all that a slot can be that gave no frame
WHOLE = len(LOST)


class SlotReader(Protocol):
    """Slots by their numbers."""

    def read(self, sequence: int) -> Slot:
        """What is given stands until the next is asked for."""

    def prove(self, sequence: int, content: memoryview) -> Frame | None:
        """The frame that begins the content, where it is a true one and belongs in this slot."""


class Rebuilt(NamedTuple):
    """A frame that proved itself, and what its slot had given instead."""

    slot: Slot
    instead: Slot


class Rebuilding:
    """What the slots gave, so far as it decides what can be rebuilt: a byte for each."""

    def __init__(self, slots: SlotReader, count: int) -> None:
        self._slots = slots
        self._given = bytearray(count)
        self._is_spent = bytearray(count)
        self._parity: list[int] = []
        self._sum = Accumulator()
        self.reads_failed = 0  # of slots that had been read before

    def see(self, sequence: int, slot: Slot) -> None:
        """Slots are to be seen in their order: parity stands behind what it covers."""
        if sequence >= len(self._given):
            return
        self._given[sequence] = LOST.index(slot) if slot.frame is None else WHOLE
        if slot.frame is not None and slot.frame.header.kind == FrameKind.PARITY and self._lost_of(slot.frame):
            self._parity.append(sequence)

    def rebuilt(self) -> Iterator[Rebuilt]:
        """Each frame that is the only one of its group to be lost. Its content stands until the next is asked for."""
        for sequence in self._parity:
            parity = self._read(sequence)
            lost = self._lost_of(parity.frame) if parity.frame is not None else []
            if len(lost) == 1 and (slot := self._rebuild(lost[0], parity)) is not None:
                yield Rebuilt(slot, LOST[self._given[lost[0]]])
                self._given[lost[0]] = WHOLE

    def _read(self, sequence: int) -> Slot:
        slot = self._slots.read(sequence)
        self.reads_failed += slot.reads_failed
        return slot

    def _lost_of(self, parity: Frame) -> list[int]:
        """Of the slots that a parity frame names; none where it names what there is not."""
        if any(slot >= len(self._given) for slot in parity.covers):
            return []
        return [slot for slot in parity.covers if self._given[slot] != WHOLE]

    def _rebuild(self, lost: int, parity: Slot) -> Slot | None:
        assert parity.frame is not None
        self._sum.clear()
        self._sum.add(parity.content[BLOCK_SIZE_BYTES:])
        made_of = [_payload_places(parity.frame)]
        for sequence in parity.frame.covers:
            if sequence != lost:
                other = self._read(sequence) if not self._is_spent[sequence] else NOTHING
                self._is_spent[sequence] = True
                if other.frame is None or other.frame.size_bytes > PARITY_SIZE_BYTES:
                    return None
                self._sum.add(other.content)
                made_of.append(other.frame.places)
        frame = self._slots.prove(lost, self._sum.content)
        if frame is None:
            return None
        return Slot(frame._replace(made_of=tuple(made_of)), self._sum.content[: frame.size_bytes])


def _payload_places(frame: Frame) -> tuple[Place, ...]:
    """Where a frame lies but for its header block."""
    (physical_bytes, length_bytes), *others = frame.places
    rest = Place(physical_bytes + BLOCK_SIZE_BYTES, length_bytes - BLOCK_SIZE_BYTES)
    return (rest, *others) if rest.length_bytes else tuple(others)
