"""The JBD2 journal as bytes: its superblock, and a transaction as a run of blocks. Pure; nothing here does I/O.

Format: https://docs.kernel.org/filesystems/ext4/journal.html. All of it is big-endian. There are no revoke blocks: a
freed block that has a copy in the live journal is not given out again before the journal has been emptied.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, NamedTuple

from crc32c import crc32c

from vdisk.errors import FilesystemError

if TYPE_CHECKING:
    from collections.abc import Sequence

BLOCK_BYTES = 4096
SECTOR_BYTES = 512
SUPERBLOCK_BYTES = 1024
MAGIC = 0xC03B3998

BLOCKTYPE_DESCRIPTOR = 1
BLOCKTYPE_COMMIT = 2
BLOCKTYPE_SUPERBLOCK_V2 = 4

FEATURE_REVOKE = 0x01
FEATURE_64BIT = 0x02
FEATURE_ASYNC_COMMIT = 0x04
FEATURE_CSUM_V2 = 0x08
FEATURE_CSUM_V3 = 0x10
FEATURES_KNOWN = FEATURE_REVOKE | FEATURE_64BIT | FEATURE_CSUM_V2 | FEATURE_CSUM_V3

TAG_ESCAPED = 1
TAG_SAME_UUID = 2
TAG_LAST = 8

CHECKSUM_TYPE_CRC32C = 4

HEADER = struct.Struct(">III")  # h_magic, h_blocktype, h_sequence
# s_blocksize, s_maxlen, s_first, s_sequence, s_start, s_errno, s_feature_compat, _incompat, _ro_compat, s_uuid
SUPERBLOCK = struct.Struct(">IIIIIIIII16s")
CHECKSUM_TYPE_OFFSET = 0x50
CHECKSUM_OFFSET = 0xFC
TAG = struct.Struct(">IHH")  # t_blocknr, t_checksum, t_flags
TAG_HIGH = struct.Struct(">I")  # t_blocknr_high, where 64BIT
TAG_V3 = struct.Struct(">IIII")  # t_blocknr, t_flags, t_blocknr_high, t_checksum
UUID_BYTES = 16
TAIL = struct.Struct(">I")  # t_checksum, at the end of a descriptor block
COMMIT_CHECKSUM_OFFSET = 16
COMMIT_TIME = struct.Struct(">QI")  # h_commit_sec, h_commit_nsec
COMMIT_TIME_OFFSET = 48
WORD = struct.Struct(">I")

assert HEADER.size + SUPERBLOCK.size == 0x40
assert TAG_V3.size == 16


def _checksum(data: object, before: int = 0) -> int:
    """A CRC32C as JBD2 keeps it: without the final inversion."""
    return crc32c(data, before) ^ 0xFFFFFFFF  # type: ignore[arg-type]


class JournalSuperblock(NamedTuple):
    """What the journal says of itself. `start` is 0 where there is nothing to replay."""

    max_blocks: int
    first_block: int
    sequence: int
    start: int
    incompat: int
    uuid: bytes

    @property
    def has_checksums(self) -> bool:
        return bool(self.incompat & FEATURE_CSUM_V3)

    @property
    def tag_bytes(self) -> int:
        if self.has_checksums:
            return TAG_V3.size
        return TAG.size + (TAG_HIGH.size if self.incompat & FEATURE_64BIT else 0)


def decode_superblock(block: bytes) -> JournalSuperblock:
    """Raises `FilesystemError` where the block is no journal superblock, or one of a kind that is not known."""
    magic, blocktype, _ = HEADER.unpack_from(block)
    if magic != MAGIC or blocktype != BLOCKTYPE_SUPERBLOCK_V2:
        raise FilesystemError("the journal has no superblock; run e2fsck on the image")
    fields = SUPERBLOCK.unpack_from(block, HEADER.size)
    size, max_blocks, first, sequence, start, _, _, incompat, _, uuid = fields
    if size != BLOCK_BYTES or incompat & ~FEATURES_KNOWN:
        raise FilesystemError(f"the journal has features that are not supported ({incompat:#x})")
    if not 0 < first < max_blocks:
        raise FilesystemError("the journal's superblock is damaged; run e2fsck on the image")
    return JournalSuperblock(max_blocks, first, sequence, start, incompat, uuid)


def encode_superblock(block: bytes, journal: JournalSuperblock) -> bytes:
    """The superblock block with the sequence, start and features of `journal`; all changes are in its first sector."""
    changed = bytearray(block[:SUPERBLOCK_BYTES])
    size, max_blocks, first, _, _, error, compat, _, ro_compat, uuid = SUPERBLOCK.unpack_from(changed, HEADER.size)
    fields = (
        size,
        max_blocks,
        first,
        journal.sequence,
        journal.start,
        error,
        compat,
        journal.incompat,
        ro_compat,
        uuid,
    )
    SUPERBLOCK.pack_into(changed, HEADER.size, *fields)
    changed[CHECKSUM_TYPE_OFFSET] = CHECKSUM_TYPE_CRC32C if journal.has_checksums else 0
    WORD.pack_into(changed, CHECKSUM_OFFSET, 0)
    if journal.has_checksums:
        WORD.pack_into(changed, CHECKSUM_OFFSET, _checksum(changed))
    return bytes(changed) + block[SUPERBLOCK_BYTES:]


def blocks_per_descriptor(journal: JournalSuperblock) -> int:
    """How many blocks one descriptor block can announce."""
    fixed = HEADER.size + UUID_BYTES + (TAIL.size if journal.has_checksums else 0)
    return (BLOCK_BYTES - fixed) // journal.tag_bytes


def transaction_blocks(journal: JournalSuperblock, count: int) -> int:
    """The length of a transaction of `count` blocks: with its descriptors and its commit block."""
    return count + -(-count // blocks_per_descriptor(journal)) + 1


class TransactionEncoder:
    """Lays one transaction out: descriptor, its blocks, the next descriptor, …; the commit block apart."""

    def __init__(self, journal: JournalSuperblock) -> None:
        self._journal = journal
        self._sequence = journal.sequence
        self._seed = crc32c(journal.uuid)
        self._block_seed = crc32c(WORD.pack(journal.sequence), self._seed)

    def body(self, numbers: Sequence[int], content: memoryview) -> bytearray:
        """Descriptors and blocks; `content` has the blocks one after another, in the order of `numbers`."""
        body = bytearray()
        step = blocks_per_descriptor(self._journal)
        for first in range(0, len(numbers), step):
            group = numbers[first : first + step]
            data = bytearray(content[first * BLOCK_BYTES : (first + len(group)) * BLOCK_BYTES])
            body += self._descriptor(group, data)
            body += data
        return body

    def commit(self, time_ns: int) -> bytes:
        """The block that makes the transaction count."""
        block = bytearray(BLOCK_BYTES)
        HEADER.pack_into(block, 0, MAGIC, BLOCKTYPE_COMMIT, self._sequence)
        COMMIT_TIME.pack_into(block, COMMIT_TIME_OFFSET, *divmod(time_ns, 1_000_000_000))
        if self._journal.has_checksums:
            WORD.pack_into(block, COMMIT_CHECKSUM_OFFSET, _checksum(block, self._seed))
        return bytes(block)

    def _descriptor(self, numbers: Sequence[int], data: bytearray) -> bytearray:
        """The descriptor of a group of blocks. Escapes in `data` what would pass for a block of the journal itself."""
        block = bytearray(BLOCK_BYTES)
        HEADER.pack_into(block, 0, MAGIC, BLOCKTYPE_DESCRIPTOR, self._sequence)
        offset = HEADER.size
        view = memoryview(data)
        for index, number in enumerate(numbers):
            flags = (TAG_SAME_UUID if index else 0) | (TAG_LAST if index == len(numbers) - 1 else 0)
            piece = view[index * BLOCK_BYTES : (index + 1) * BLOCK_BYTES]
            if WORD.unpack_from(piece)[0] == MAGIC:
                WORD.pack_into(piece, 0, 0)
                flags |= TAG_ESCAPED
            self._pack_tag(block, offset, number, flags, piece)
            offset += self._journal.tag_bytes + (0 if index else UUID_BYTES)
        if self._journal.has_checksums:
            TAIL.pack_into(block, BLOCK_BYTES - TAIL.size, _checksum(block, self._seed))
        return block

    def _pack_tag(self, block: bytearray, offset: int, number: int, flags: int, piece: memoryview) -> None:
        low, high = number & 0xFFFFFFFF, number >> 32
        if self._journal.has_checksums:
            TAG_V3.pack_into(block, offset, low, flags, high, _checksum(piece, self._block_seed))
            return
        TAG.pack_into(block, offset, low, 0, flags)
        if self._journal.incompat & FEATURE_64BIT:
            TAG_HIGH.pack_into(block, offset + TAG.size, high)
