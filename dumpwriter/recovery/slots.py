"""Reading one slot: from where it lies and whose dump is looked for, to what it holds. Pure in the bytes at its place.

Nothing is known here of other slots, of keys, or of what a dump is made of: `scan` assembles that.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from dumpwriter.formats.region import SLOT_SIZE_BYTES
from dumpwriter.frames import decode_header, is_in_place, payload_is_true, slot_offset_bytes
from vdisk.blockdevice import BLOCK_SIZE_BYTES
from vdisk.errors import DeviceError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from dumpwriter.formats.region import Place
    from dumpwriter.frames import DumpIdentity, Frame
    from vdisk.blockdevice import BlockDevice
    from vdisk.extent import ExtentMap
    from vdisk.layers.mapped import Mapped


READ_ATTEMPTS = 4  # a slot may lie in pieces, and in each an error may pass: three at once are in the fault budget


class Slot(NamedTuple):
    """What was found: a true frame, or damage, or neither.

    `content` is the frame's header block and its payload, in the buffer that was read into: it stands there until the
    next reading.
    """

    frame: Frame | None = None
    content: memoryview = memoryview(b"")
    frames_damaged: int = 0
    reads_failed: int = 0  # what could not be read now; another time it may be


NOTHING = Slot()
FALSE = Slot(frames_damaged=1)
HEADER_UNREADABLE = Slot(reads_failed=1)  # whether a frame is there, nobody knows
PAYLOAD_UNREADABLE = Slot(frames_damaged=1, reads_failed=1)


def slot_buffer() -> memoryview:
    """For any slot; the functions below read into it."""
    return memoryview(bytearray(SLOT_SIZE_BYTES))


def read_slot(region: Mapped, identity: DumpIdentity, sequence: int, buffer: memoryview) -> Slot:
    """Read the slot with this number. Never raises for what it holds."""
    offset_bytes = slot_offset_bytes(sequence)
    head = buffer[:BLOCK_SIZE_BYTES]
    if not could_read(region, offset_bytes, head):
        return HEADER_UNREADABLE
    frame = decode_header(head, identity)
    if frame is None or not is_in_place(frame, region.extents) or frame.header.sequence != sequence:
        return NOTHING
    return _with_payload(region, offset_bytes, frame, buffer)


def true_frame(content: memoryview, identity: DumpIdentity, sequence: int, extents: ExtentMap | None) -> Frame | None:
    """The frame of this slot with which the content begins; None where it is none, or not a true one.

    Without extents it may lie anywhere.
    """
    frame = decode_header(content[:BLOCK_SIZE_BYTES], identity) if content.nbytes >= BLOCK_SIZE_BYTES else None
    if frame is None or frame.header.sequence != sequence or frame.size_bytes > content.nbytes:
        return None
    if extents is not None and not is_in_place(frame, extents):
        return None
    return frame if payload_is_true(content, frame) else None


def read_piece(file: BlockDevice, identity: DumpIdentity, offset_bytes: int, buffer: memoryview) -> Slot:
    """Read what begins at this block of a file that frames were copied to, whatever slots they are of."""
    head = buffer[:BLOCK_SIZE_BYTES]
    if not could_read(file, offset_bytes, head):
        return HEADER_UNREADABLE
    frame = decode_header(head, identity)
    if frame is None:
        return NOTHING
    if offset_bytes + frame.size_bytes > file.size_bytes:
        return FALSE
    return _with_payload(file, offset_bytes, frame, buffer)


def read_places(disk: BlockDevice, identity: DumpIdentity, places: Sequence[Place], buffer: memoryview) -> Slot:
    """Read a frame that was seen at these places of the disk; what is no longer true there is damage."""
    content = buffer[: sum(place.length_bytes for place in places)]
    position_bytes = 0
    for physical_bytes, length_bytes in places:
        if not could_read(disk, physical_bytes, content[position_bytes : position_bytes + length_bytes]):
            return PAYLOAD_UNREADABLE
        position_bytes += length_bytes
    frame = decode_header(content[:BLOCK_SIZE_BYTES], identity)
    return Slot(frame, content) if frame is not None and payload_is_true(content, frame) else FALSE


def _with_payload(device: BlockDevice, offset_bytes: int, frame: Frame, buffer: memoryview) -> Slot:
    """The frame whose header block stands in the buffer, when its payload does, too."""
    content = buffer[: frame.size_bytes]
    if not could_read(device, offset_bytes + BLOCK_SIZE_BYTES, content[BLOCK_SIZE_BYTES:]):
        return PAYLOAD_UNREADABLE
    return Slot(frame, content) if payload_is_true(content, frame) else FALSE


def could_read(device: BlockDevice, offset_bytes: int, buffer: memoryview) -> bool:
    """False where the disk cannot read it: what is there is lost for now, the rest is not."""
    for _ in range(READ_ATTEMPTS):
        try:
            device.read_into(offset_bytes, buffer)
        except DeviceError:
            continue
        return True
    return False
