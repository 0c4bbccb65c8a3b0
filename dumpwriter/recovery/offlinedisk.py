"""A disk that no machine runs on, or one beside its machine: opened, unlocked, and what its boot area has."""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING, NamedTuple

from dumpwriter.recovery.lastrun import LastRun, judge, last_words
from dumpwriter.recovery.recognition import naming_image
from vdisk import stack
from vdisk.bootarea import BootArea, BootRecord, RegionState
from vdisk.controller import Controller
from vdisk.errors import FormatError
from vdisk.imagefile import ImageFile, open_unlocked
from vdisk.registers import create_registers
from vdisk.volume import NO_KEY, key_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from vdisk.blockdevice import BlockDevice
    from vdisk.extent import ExtentMap
    from vdisk.secret import Secret


class OfflineDisk(NamedTuple):
    """A disk with its boot area."""

    device: BlockDevice
    area: BootArea
    record: BootRecord


@contextlib.contextmanager
def opened_device(descriptor: int, key: Secret = NO_KEY) -> Iterator[BlockDevice]:
    """A driver stack on an open image, which is closed at the end.

    Without its key, an encrypted image gives ciphertext, but for the boot record, the extents and the key slots.
    """
    registers = create_registers()
    try:
        yield stack.load_live(Controller(registers, ImageFile(descriptor)), key).device
    finally:
        os.close(registers)
        os.close(descriptor)


@contextlib.contextmanager
def opened_disk(descriptor: int, key: Secret = NO_KEY) -> Iterator[OfflineDisk]:
    """The same with its boot record. Raises `NotAnImageError`, `FormatError`."""
    with opened_device(descriptor, key) as device:
        area = BootArea(device)
        yield OfflineDisk(device, area, area.read())


def unlock_image(path: str, ask: Callable[[], Secret]) -> Secret:
    """The volume key of an image, whoever uses it; `NO_KEY` for a plain one. See `vdisk.volume.key_of`."""
    with naming_image(path), opened_device(open_unlocked(path)) as device:
        return key_of(device, ask)


def recorded_extents(path: str) -> ExtentMap:
    """The extents of the region as the boot area has them. Raises `FormatError` where there never was a region."""
    with naming_image(path), opened_disk(open_unlocked(path)) as disk:
        if disk.record.region_state == RegionState.NONE:
            raise FormatError("never armed: no region is recorded yet")
        return disk.area.read_extents(disk.record)


def last_run_of(disk: OfflineDisk, path: str) -> LastRun:
    return judge(*disk, last_words(os.path.realpath(path), disk.record))
