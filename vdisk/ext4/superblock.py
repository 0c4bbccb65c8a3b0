"""The ext4 superblock as it stands on the disk: whether it can be used, and its one flag that is written in place.

Format: https://docs.kernel.org/filesystems/ext4/super.html (little-endian, 1,024 bytes at byte 1,024).
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

from vdisk.errors import FilesystemError
from vdisk.ext4._libext2fs import ffi, lib

if TYPE_CHECKING:
    from vdisk.blockdevice import BlockDevice

OFFSET_BYTES = 1024
SIZE_BYTES = 1024
MAGIC = 0xEF53

_HALF = struct.Struct("<H")
_WORD = struct.Struct("<I")
_MAGIC_OFFSET = 0x38
_STATE_OFFSET = 0x3A
_COMPAT_OFFSET = 0x5C
_INCOMPAT_OFFSET = 0x60
_RO_COMPAT_OFFSET = 0x64
_LAST_ORPHAN_OFFSET = 0xE8

STATE_VALID = 0x0001
STATE_ERRORS = 0x0002

COMPAT_HAS_JOURNAL = 0x0004
INCOMPAT_RECOVER = 0x0004
INCOMPAT_EXTENTS = 0x0040
INCOMPAT_64BIT = 0x0080
RO_COMPAT_DIR_NLINK = 0x0020
RO_COMPAT_METADATA_CSUM = 0x0400
RO_COMPAT_ORPHAN_PRESENT = 0x10000

# FILETYPE, RECOVER, EXTENTS, 64BIT, FLEX_BG, CSUM_SEED, LARGEDIR
_INCOMPAT_SUPPORTED = 0x0002 | INCOMPAT_RECOVER | INCOMPAT_EXTENTS | INCOMPAT_64BIT | 0x0200 | 0x2000 | 0x4000
# SPARSE_SUPER, LARGE_FILE, HUGE_FILE, GDT_CSUM, DIR_NLINK, EXTRA_ISIZE, METADATA_CSUM, ORPHAN_PRESENT
_RO_COMPAT_SUPPORTED = 0x0001 | 0x0002 | 0x0008 | 0x0010 | 0x0020 | 0x0040 | 0x0400 | 0x10000


class Superblock:
    """The bytes of a superblock. Raises `FilesystemError` where they are none."""

    def __init__(self, device: BlockDevice) -> None:
        if device.size_bytes < OFFSET_BYTES + SIZE_BYTES:
            raise FilesystemError("the device is too small for an ext4 filesystem")
        self._device = device
        self._offset_bytes = OFFSET_BYTES - OFFSET_BYTES % device.sector_size_bytes
        self._block = bytearray(device.read(self._offset_bytes, max(SIZE_BYTES, device.sector_size_bytes)))
        self._raw = memoryview(self._block)[OFFSET_BYTES - self._offset_bytes :][:SIZE_BYTES]
        if _HALF.unpack_from(self._raw, _MAGIC_OFFSET)[0] != MAGIC:
            raise FilesystemError("there is no ext4 filesystem on the device")

    def _word(self, offset: int) -> int:
        value: int = _WORD.unpack_from(self._raw, offset)[0]
        return value

    @property
    def needs_replay(self) -> bool:
        """There may be transactions in the journal that did not reach their home."""
        return bool(self._word(_INCOMPAT_OFFSET) & INCOMPAT_RECOVER)

    @property
    def needs_check(self) -> bool:
        """The journal has to be replayed, or orphans or errors were left: e2fsck has to run before anything else."""
        state: int = _HALF.unpack_from(self._raw, _STATE_OFFSET)[0]
        return bool(
            self.needs_replay
            or self._word(_RO_COMPAT_OFFSET) & RO_COMPAT_ORPHAN_PRESENT
            or self._word(_LAST_ORPHAN_OFFSET)
            or not state & STATE_VALID
            or state & STATE_ERRORS
        )

    @property
    def has_checksums(self) -> bool:
        return bool(self._word(_RO_COMPAT_OFFSET) & RO_COMPAT_METADATA_CSUM)

    @property
    def is_64bit(self) -> bool:
        return bool(self._word(_INCOMPAT_OFFSET) & INCOMPAT_64BIT)

    def check_supported(self) -> None:
        """Raise `FilesystemError` where the filesystem has a feature that this package cannot keep right."""
        if not self._word(_COMPAT_OFFSET) & COMPAT_HAS_JOURNAL:
            raise FilesystemError("the filesystem has no journal; add one with tune2fs -j")
        if not self._word(_INCOMPAT_OFFSET) & INCOMPAT_EXTENTS:
            raise FilesystemError("the filesystem has no extents; make it with mke2fs -t ext4")
        unknown = self._word(_INCOMPAT_OFFSET) & ~_INCOMPAT_SUPPORTED
        if unknown:
            raise FilesystemError(f"the filesystem has incompatible features that are not supported ({unknown:#x})")
        unknown = self._word(_RO_COMPAT_OFFSET) & ~_RO_COMPAT_SUPPORTED
        if unknown:
            raise FilesystemError(f"the filesystem has features that cannot be written ({unknown:#x})")

    def write_recover_flag(self, recover: bool) -> None:
        """Set or clear "the journal has to be replayed", in one sector. Durable on return."""
        flags = self._word(_INCOMPAT_OFFSET)
        flags = flags | INCOMPAT_RECOVER if recover else flags & ~INCOMPAT_RECOVER
        _WORD.pack_into(self._raw, _INCOMPAT_OFFSET, flags)
        lib.superblock_balance(ffi.from_buffer("unsigned char[]", self._raw))
        self._device.write_from(self._offset_bytes, self._block[: self._device.sector_size_bytes])
        self._device.flush()


def needs_check(device: BlockDevice) -> bool:
    """Whether e2fsck has to run before `Ext4Filesystem.open`: the superblock says so. Raises `FilesystemError`."""
    return Superblock(device).needs_check
