"""Arming: everything that a dump needs is made, recorded, sealed and handed to the standby before anybody crashes."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING

from dumpwriter.crash import dump
from dumpwriter.crash.controlblock import ControlBlock
from dumpwriter.formats.controlblock import MemoryMapRecord
from dumpwriter.formats.region import ClassRunRecord
from dumpwriter.frames import DumpIdentity
from dumpwriter.levels import leaves_out_pages
from dumpwriter.metadata import has_room_for_tables
from vdisk import stack
from vdisk.bootarea import BootArea, RegionState, next_generation
from vdisk.errors import ArmingError
from vdisk.layers.mapped import Mapped

if TYPE_CHECKING:
    from dumpwriter.machine.policy import Policy
    from dumpwriter.memory.source import MemorySource
    from vdisk.blockdevice import BlockDevice
    from vdisk.bootarea import BootRecord
    from vdisk.extent import ExtentMap
    from vdisk.imagefile import HostFile
    from vdisk.secret import Secret

WRITER_THREADS = 4


def record_region(image: HostFile, disk: BlockDevice, record: BootRecord, extents: ExtentMap) -> BootRecord:
    """Give the region a new identity: host space, empty headers, and the boot record that names it all.

    Raises `ImageError` where the host has no room for the region, `DeviceError` where the disk fails.
    """
    area = BootArea(disk)
    for run in (*extents.runs(0, extents.size_bytes), area.run):
        image.reserve(*run)
    identity = DumpIdentity(os.urandom(16), next_generation(record))
    dump.arm_region(Mapped(disk, extents), identity, extents, time.time_ns())
    armed = record._replace(region_state=RegionState.ARMED, dump_id=identity.dump_id, generation=identity.generation)
    return area.write_region(armed, extents)


def make_control_block(
    identity: DumpIdentity,
    record: BootRecord,
    extents: ExtentMap,
    source: MemorySource,
    volume_key: Secret,
    policy: Policy,
) -> ControlBlock:
    """Raises `ArmingError` where the memory has more parts than a dump's metadata can name."""
    ranges, classes = source.memory.ranges, source.page_classes()
    if not has_room_for_tables(len(ranges), 0):
        raise ArmingError(f"memory has {len(ranges)} ranges, more than a dump can name")
    if leaves_out_pages(policy.level) and not has_room_for_tables(len(ranges), len(classes)):
        raise ArmingError("what memory is used for is torn into more runs than a dump can name: give --levels complete")
    return ControlBlock(
        identity=identity,
        armed_time_ns=time.time_ns(),
        disk_size_bytes=record.disk_size_bytes,
        memory_size_bytes=source.memory.size_bytes,
        writer_threads=WRITER_THREADS,
        machine=source.kind,
        extents=extents,
        memory_ranges=tuple(MemoryMapRecord(*memory_range) for memory_range in ranges),
        page_classes=tuple(ClassRunRecord(*run) for run in classes),
        images=stack.clone("dump_", volume_key),
        seal=policy.seal,
        level=policy.level,
        time_budget_ns=policy.time_budget_ns,
        parity_percent=policy.parity_percent,
    )
