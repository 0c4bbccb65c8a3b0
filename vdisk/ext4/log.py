"""The journal on the disk: transactions are appended, and it is emptied when all of them have reached their home.

The journal is used from its first block each time, never around its end: it is emptied before it is full.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from vdisk.errors import FilesystemError
from vdisk.ext4 import journal as jbd2
from vdisk.ext4.journal import BLOCK_BYTES

if TYPE_CHECKING:
    from vdisk.blockdevice import BlockDevice
    from vdisk.extent import ExtentMap

UNWRITTEN_BLOCKS_MAX = 8192  # 32 MiB: the cache keeps what is in the journal until it is at its home


class Log:
    """The journal inode's blocks. Raises `DeviceError` from the device, `FilesystemError` where it cannot be used."""

    def __init__(self, device: BlockDevice, place: ExtentMap, *, checksums: bool, wide: bool) -> None:
        self._device = device
        self._place = place
        self._block = device.read(place.extents[0].physical_bytes, BLOCK_BYTES)
        found = jbd2.decode_superblock(self._block)
        if found.start:
            raise FilesystemError("the journal has transactions to replay; run e2fsck -p on the image")
        if found.max_blocks * BLOCK_BYTES > place.size_bytes:
            raise FilesystemError("the journal is larger than its file; run e2fsck on the image")
        self._journal = found._replace(incompat=self._features(found, checksums=checksums, wide=wide))
        self._head = found.first_block

    @staticmethod
    def _features(found: jbd2.JournalSuperblock, *, checksums: bool, wide: bool) -> int:
        """As the kernel chooses on mount: checksums with metadata_csum, wide block numbers with 64bit."""
        kept = found.incompat & ~(jbd2.FEATURE_CSUM_V2 | jbd2.FEATURE_CSUM_V3)
        return kept | (jbd2.FEATURE_CSUM_V3 if checksums else 0) | (jbd2.FEATURE_64BIT if wide else 0)

    @property
    def capacity_blocks(self) -> int:
        return self._journal.max_blocks - self._journal.first_block

    def takes(self, block_count: int) -> bool:
        """Whether a transaction of as many blocks fits into the empty journal."""
        return jbd2.transaction_blocks(self._journal, block_count) <= self.capacity_blocks

    @property
    def is_crowded(self) -> bool:
        """More than half full, or holding much memory: the transactions in it had better be checkpointed."""
        used_blocks = self._head - self._journal.first_block
        return used_blocks > min(self.capacity_blocks // 2, UNWRITTEN_BLOCKS_MAX)

    @property
    def is_open(self) -> bool:
        return self._journal.start != 0

    def empty(self) -> None:
        """Begin anew at the first block: nothing is to be replayed. Durable on return."""
        self._journal = self._journal._replace(start=self._journal.first_block)
        self._head = self._journal.first_block
        self._write_superblock()

    def close(self) -> None:
        """Say that the journal is not in use. Durable on return."""
        self._journal = self._journal._replace(start=0)
        self._write_superblock()

    def append(self, numbers: list[int], content: bytearray) -> None:
        """Make a transaction of blocks durable. Everything written to the device before is durable too.

        The commit block is zeros but for its first sector. Only that sector is written last: over an old block's bytes
        a torn commit block would have a wrong checksum, which e2fsck takes for damage and not for the end.
        """
        length = jbd2.transaction_blocks(self._journal, len(numbers))
        if self._head + length > self._journal.max_blocks:
            raise FilesystemError(f"a transaction of {len(numbers)} blocks does not fit into the journal")
        encoder = jbd2.TransactionEncoder(self._journal)
        self._write(self._head, encoder.body(numbers, memoryview(content)) + bytes(BLOCK_BYTES))
        self._device.flush()
        self._write(self._head + length - 1, encoder.commit(time.time_ns())[: self._device.sector_size_bytes])
        self._device.flush()
        self._head += length
        self._journal = self._journal._replace(sequence=(self._journal.sequence + 1) & 0xFFFFFFFF)

    def _write(self, block: int, data: bytes | bytearray) -> None:
        view = memoryview(data)
        for run in self._place.runs(block * BLOCK_BYTES, len(data)):
            self._device.write_from(run.physical_bytes, view[: run.length_bytes])
            view = view[run.length_bytes :]

    def _write_superblock(self) -> None:
        """Only its first sector changes, so that it is written whole or not at all."""
        self._block = jbd2.encode_superblock(self._block, self._journal)
        self._device.write_from(self._place.extents[0].physical_bytes, self._block[: self._device.sector_size_bytes])
        self._device.flush()
