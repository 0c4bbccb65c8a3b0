"""A rehearsal: the clone writes to the region, reads it back, and leaves no trace. No page of memory is touched.

It goes through everything that a dump goes through (the sandbox, the writer's threads, cloned drivers, controller,
write guard, extents), so what would keep a dump from being written is found while somebody can still mend it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import blake3

from dumpwriter.formats.region import SLOT_SIZE_BYTES
from dumpwriter.frames import slot_count, slot_offset_bytes
from vdisk.errors import DeviceError

if TYPE_CHECKING:
    from vdisk.blockdevice import BlockDevice

PATTERN_KEY = b"ghostdump rehearsal"


def rehearse(region: BlockDevice) -> None:
    """Write a pattern over the last slot, flush, read it back, and restore what was there.

    Raises `DeviceError` where the disk refuses, or answers with other bytes than it was given.
    """
    offset_bytes = slot_offset_bytes(slot_count(region.size_bytes) - 1)
    kept = region.read(offset_bytes, SLOT_SIZE_BYTES)
    pattern = blake3.blake3(PATTERN_KEY).digest(length=SLOT_SIZE_BYTES)
    try:
        region.write_through(offset_bytes, pattern)
        found = region.read(offset_bytes, SLOT_SIZE_BYTES)
    finally:
        region.write_through(offset_bytes, kept)
    if found != pattern:
        raise DeviceError("rehearsal: the disk did not read back what the clone wrote")
    if region.read(offset_bytes, SLOT_SIZE_BYTES) != kept:
        raise DeviceError("rehearsal: the region is not what it was before")
