"""The superblock changed by whole sectors only, whoever writes it.

e2fsck writes a superblock in pieces of two bytes, field by field and the checksum last. The power may go between any
two of them, and e2fsck itself refuses what is there then; a filesystem of one block group has no other superblock to
fall back on. So what is written to the superblock waits in memory for the flush that would make it durable, and comes
out as whole sectors, each of which leaves a superblock whose checksum is right.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

from crc32c import crc32c

from vdisk.blockdevice import BlockDevice, Layer
from vdisk.ext4._libext2fs import ffi, lib
from vdisk.ext4.superblock import OFFSET_BYTES, RO_COMPAT_METADATA_CSUM, SIZE_BYTES

if TYPE_CHECKING:
    from typing_extensions import Buffer

_END_BYTES = OFFSET_BYTES + SIZE_BYTES
_WORD = struct.Struct("<I")
_RO_COMPAT_OFFSET = 0x64
_CHECKSUM_OFFSET = SIZE_BYTES - _WORD.size


class AtomicSuperblock(Layer):
    """For whatever does not write the superblock by sectors itself; flush it before it is given up.

    A flush makes everything else durable before the superblock, so the superblock never tells of what is not there yet.
    The writer's own checksum is not looked at: the disk keeps its checksum and s_snapshot_id balances it, so the writer
    knows other values of these two fields than the disk has. One thread at a time.
    """

    def __init__(self, lower: BlockDevice) -> None:
        super().__init__(lower)
        self._held: bytes | None = None  # the superblock that the next flush leaves on the disk

    def read_into(self, offset_bytes: int, buffer: Buffer) -> None:
        view = memoryview(buffer).cast("B")
        self.lower.read_into(offset_bytes, view)
        start, end = _common(offset_bytes, view.nbytes)
        if self._held is not None and start < end:
            view[start - offset_bytes : end - offset_bytes] = self._held[start - OFFSET_BYTES : end - OFFSET_BYTES]

    def write_from(self, offset_bytes: int, buffer: Buffer) -> None:
        view = memoryview(buffer).cast("B")
        self.check_range(offset_bytes, view.nbytes)
        start, end = _common(offset_bytes, view.nbytes)
        if start >= end:
            self.lower.write_from(offset_bytes, view)
            return
        self._hold(start - OFFSET_BYTES, view[start - offset_bytes : end - offset_bytes])
        for piece_bytes, piece in ((offset_bytes, view[: start - offset_bytes]), (end, view[end - offset_bytes :])):
            if piece:
                self.lower.write_from(piece_bytes, piece)

    write_through = BlockDevice.write_through  # by this layer's own write and flush

    def flush(self) -> None:
        self.lower.flush()
        if self._held is None:
            return
        on_disk = self.lower.read(OFFSET_BYTES, SIZE_BYTES)
        for start in range(0, SIZE_BYTES, self.sector_size_bytes):
            sector = slice(start, start + self.sector_size_bytes)
            if self._held[sector] != on_disk[sector]:
                self.lower.write_from(OFFSET_BYTES + start, self._held[sector])
                self.lower.flush()
        self._held = None

    def discard(self, offset_bytes: int, length_bytes: int) -> None:
        self.flush()
        self.lower.discard(offset_bytes, length_bytes)

    def _hold(self, start: int, piece: memoryview) -> None:
        """Change the held superblock, and make it right beside every sector that the disk may still have the old of."""
        on_disk = self.lower.read(OFFSET_BYTES, SIZE_BYTES)
        wanted = bytearray(self._held or on_disk)
        wanted[start : start + len(piece)] = piece
        first = self.sector_size_bytes
        self._held = _sealed(_balanced(wanted[:first] + on_disk[first:])[:first] + wanted[first:])


def _common(offset_bytes: int, length_bytes: int) -> tuple[int, int]:
    """The part of a range that is the superblock: its start and end on the device."""
    return max(offset_bytes, OFFSET_BYTES), min(offset_bytes + length_bytes, _END_BYTES)


def _balanced(block: bytearray) -> bytearray:
    """With the first sector changed so that the checksum in the last is right."""
    lib.superblock_balance(ffi.from_buffer("unsigned char[]", block))
    return block


def _sealed(block: bytearray) -> bytes:
    """With the checksum that its content needs: the same as before, where only balanced fields differ."""
    if _WORD.unpack_from(block, _RO_COMPAT_OFFSET)[0] & RO_COMPAT_METADATA_CSUM:
        _WORD.pack_into(block, _CHECKSUM_OFFSET, crc32c(block[:_CHECKSUM_OFFSET]) ^ 0xFFFFFFFF)
    return bytes(block)
