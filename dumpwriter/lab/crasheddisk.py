"""Whole disks as a crash leaves them: ext4 whose journal has to be replayed, the region as a file in it, a dump there.

`interruption.PROCEDURES` says how the dumps of each are taken out. Every disk has a file that was synced, and one that
was deleted while it was held, so the replay has an orphan to end.
"""

from __future__ import annotations

import stat
from typing import TYPE_CHECKING

from dumpwriter.formats.region import PAGE_SIZE_BYTES
from dumpwriter.frames import DumpIdentity
from dumpwriter.lab.chance import CaseKey, Chance
from dumpwriter.lab.scenario import SCENARIOS
from dumpwriter.lab.world import World, recording_of
from dumpwriter.machine.arming import record_region
from dumpwriter.machine.regionfile import ROOT, RegionFile
from dumpwriter.recovery.places import Place, region_place, small_places
from vdisk.blockdevice import BLOCK_SIZE_BYTES
from vdisk.bootarea import (
    BOOT_AREA_SIZE_BYTES,
    BootArea,
    BootStage,
    RegionKind,
    RegionState,
    new_record,
    next_generation,
)
from vdisk.ext4.filesystem import Ext4Filesystem
from vdisk.ext4.mkfs import format_device
from vdisk.memorydisk import MemoryDisk

if TYPE_CHECKING:
    from vdisk.layers.trace import Event

FILESYSTEM_SIZE_BYTES = 10 << 20
DISK_SIZE_BYTES = FILESYSTEM_SIZE_BYTES + BOOT_AREA_SIZE_BYTES
REGION_SIZE_BYTES = 2 << 20
UUID = "6c616262-6f72-4174-8f72-790000000001"
KEPT, KEPT_CONTENT = b"kept", b"a user's file, synced before the crash" * 1000
SCENARIO = SCENARIOS["pages"]._replace(data_pages=128)  # more than a frame takes, so that a part can be there
MEMORY_SIZE_BYTES = SCENARIO.data_pages * PAGE_SIZE_BYTES


class Host:
    """A host that has room for everything."""

    def reserve(self, offset_bytes: int, length_bytes: int) -> None:
        pass

    def host_free_bytes(self) -> int:
        return DISK_SIZE_BYTES


def memory_of(generation: int) -> bytes:
    return Chance(CaseKey("memory", 0, generation)).take_bytes(MEMORY_SIZE_BYTES)


def whole_dump() -> bytes:
    disk = _armed_disk()
    _dump(disk, region_place(BootArea(disk).read()))
    return bytes(disk.content)


def part_of_a_dump() -> bytes:
    """The power went in the middle of it: its verdict is PARTIAL."""
    disk = _armed_disk()
    _dump(disk, region_place(BootArea(disk).read()), is_cut=True)
    return bytes(disk.content)


def two_dumps() -> bytes:
    """The next machine crashed before it could take the first dump out, and left a small one."""
    disk = _armed_disk()
    area = BootArea(disk)
    record = area.read()
    _dump(disk, region_place(record))
    small = free_small_place(area)
    area.write(small.recorded(record, RegionState.ARMED))
    _dump(disk, small)
    return bytes(disk.content)


def whole_dump_beside_a_host() -> bytes:
    """Behind the disk lies another one, which the host's own filesystem is on."""
    host = MemoryDisk(FILESYSTEM_SIZE_BYTES)
    format_device(host, FILESYSTEM_SIZE_BYTES, label="host", uuid=UUID)
    filesystem = Ext4Filesystem.open(host)
    _keep_a_file(filesystem)
    filesystem.abandon()
    return whole_dump() + bytes(host.content)


def free_small_place(area: BootArea) -> Place:
    """The first that holds no dump, with an identity for the next."""
    record = area.read()
    place = next(place for place in small_places(record) if not place.is_untaken)
    return place._replace(identity=DumpIdentity(b"a small dump's..", next_generation(record)))


def _armed_disk() -> MemoryDisk:
    disk = MemoryDisk(DISK_SIZE_BYTES)
    format_device(disk, FILESYSTEM_SIZE_BYTES, label="laboratory", uuid=UUID)
    filesystem = Ext4Filesystem.open(disk)
    extents = RegionFile(filesystem, RegionKind.DEDICATED).prepare(REGION_SIZE_BYTES)
    record = new_record(b"the laboratory's", DISK_SIZE_BYTES, MEMORY_SIZE_BYTES)
    record_region(Host(), disk, record._replace(boot_count=1, boot_stage=BootStage.RUNNING), extents)
    _keep_a_file(filesystem)
    filesystem.abandon()
    return disk


def _keep_a_file(filesystem: Ext4Filesystem) -> None:
    """And one that has no name any more."""
    for name in (KEPT, b"held"):
        ino = filesystem.create(ROOT, name, stat.S_IFREG | 0o600, 0, 0).ino
        filesystem.write(ino, 0, KEPT_CONTENT)
    filesystem.acquire(ino)
    filesystem.commit()
    filesystem.unlink(ROOT, b"held")
    filesystem.commit()


def _dump(disk: MemoryDisk, place: Place, *, is_cut: bool = False) -> None:
    """The writes of a dump; of one that is cut, those up to two thirds of the first that holds frames."""
    area = BootArea(disk)
    extents, memory = place.extents(area, area.read()), memory_of(place.identity.generation)
    world = World(SCENARIO, place.identity, extents, memory, bytes(disk.content), (), ())
    for event in recording_of(world).again(lambda device: device):
        length_bytes = event.length_bytes
        if is_cut and length_bytes > BLOCK_SIZE_BYTES:
            _write(disk, event, length_bytes * 2 // 3)
            return
        _write(disk, event, length_bytes)


def _write(disk: MemoryDisk, event: Event, length_bytes: int) -> None:
    disk.content[event.offset_bytes : event.offset_bytes + length_bytes] = event.content[:length_bytes]
