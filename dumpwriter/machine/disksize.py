"""How large a disk has to be for its dump region. Measured on a filesystem that is made for it and thrown away.

What ext4 takes for itself (journal, inode tables, descriptors) grows in steps, by a configuration that is the host's.
"""

from __future__ import annotations

from vdisk.bootarea import BOOT_AREA_SIZE_BYTES
from vdisk.errors import FilesystemError
from vdisk.ext4.mkfs import free_bytes_when_new

STEP_BYTES = 1 << 20
SPARE_BYTES = 1 << 20  # a machine that is armed wants a directory or two


def room_for_region_bytes(disk_size_bytes: int) -> int:
    """The largest region that a new disk of this size can hold; 0 where it is too small for a filesystem."""
    try:
        return max(0, free_bytes_when_new(disk_size_bytes - BOOT_AREA_SIZE_BYTES) - SPARE_BYTES)
    except FilesystemError:
        return 0


def disk_size_for_bytes(region_bytes: int) -> int:
    """A disk that holds the region with little more, in whole MiB."""
    size_bytes = _whole_steps(region_bytes + BOOT_AREA_SIZE_BYTES + SPARE_BYTES)
    while (lacking_bytes := region_bytes - room_for_region_bytes(size_bytes)) > 0:
        size_bytes += min(_whole_steps(lacking_bytes), _whole_steps(size_bytes // 8))
    return size_bytes


def _whole_steps(size_bytes: int) -> int:
    return -(-size_bytes // STEP_BYTES) * STEP_BYTES
