"""Arming: everything that a dump needs is made, recorded, sealed and handed to the standby before anybody crashes."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any, NamedTuple

from dumpwriter.crash import controlblock, dump
from dumpwriter.crash.controlblock import ControlBlock
from dumpwriter.formats.controlblock import MemoryMapRecord
from dumpwriter.formats.region import MEMORY_RANGE, ClassRunRecord
from dumpwriter.formats.runtime import Register
from dumpwriter.frames import DumpIdentity
from dumpwriter.memory.physical import NOTES_AREA_BYTES
from dumpwriter.metadata import META_SIZE_BYTES_MAX
from vdisk import stack
from vdisk.blockdevice import BLOCK_SIZE_BYTES
from vdisk.bootarea import BootArea, RegionState, next_generation
from vdisk.errors import ArmingError
from vdisk.imagefile import reopen_direct
from vdisk.layers.mapped import Mapped

if TYPE_CHECKING:
    from dumpwriter.memory.source import MemorySource
    from dumpwriter.runtime import RuntimeFile
    from dumpwriter.sealing import DumpSeal
    from vdisk.blockdevice import BlockDevice
    from vdisk.bootarea import BootRecord
    from vdisk.extent import ExtentMap
    from vdisk.imagefile import ImageFile
    from vdisk.secret import Secret

WRITER_THREADS = 4
RANGE_COUNT_MAX = (META_SIZE_BYTES_MAX - NOTES_AREA_BYTES - BLOCK_SIZE_BYTES) // MEMORY_RANGE.size_bytes
READY_SECONDS = 30.0


class Standby(NamedTuple):
    """A standby that said it is ready. `wake` is its eventfd."""

    process: subprocess.Popen[bytes]
    pidfd: int
    facts: dict[str, Any]  # memory_locked, confined, modules: as the standby said itself
    wake: int

    def dismiss(self) -> None:
        """End the standby without a dump."""
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()
        os.close(self.wake)
        os.close(self.pidfd)


def record_region(image: ImageFile, disk: BlockDevice, record: BootRecord, extents: ExtentMap) -> BootRecord:
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
    record: BootRecord, extents: ExtentMap, source: MemorySource, volume_key: Secret, seal: DumpSeal | None
) -> ControlBlock:
    """Raises `ArmingError` where the memory has more ranges than a dump's metadata can name."""
    if len(source.memory.ranges) > RANGE_COUNT_MAX:
        raise ArmingError(f"memory has {len(source.memory.ranges)} ranges, and a dump can name {RANGE_COUNT_MAX}")
    return ControlBlock(
        identity=DumpIdentity(record.dump_id, record.generation),
        armed_time_ns=time.time_ns(),
        disk_size_bytes=record.disk_size_bytes,
        memory_size_bytes=source.memory.size_bytes,
        writer_threads=WRITER_THREADS,
        machine=source.kind,
        extents=extents,
        memory_ranges=tuple(MemoryMapRecord(*memory_range) for memory_range in source.memory.ranges),
        page_classes=tuple(ClassRunRecord(*run) for run in source.page_classes()),
        images=stack.clone("dump_", volume_key),
        seal=seal,
    )


def start_standby(
    block: ControlBlock, image: ImageFile, registers: int, source: MemorySource, runtime: RuntimeFile
) -> Standby:
    """Start the standby of this process and wait until it is ready. Raises `ArmingError` where it is not in time."""
    wake = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
    own = {
        "control_block": controlblock.seal(block),
        "image": reopen_direct(image.descriptor),
        "machine": os.pidfd_open(os.getpid()),
    }
    given = own | {
        "memory": source.memory.fd,
        "registers": registers,
        "lock": image.descriptor,
        "runtime": runtime.descriptor,
        "wake": wake,
    }
    try:
        process = subprocess.Popen(
            [sys.executable, "-I", "-m", "dumpwriter.crash.standby", json.dumps(given)],
            pass_fds=list(given.values()),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            cwd="/",
            start_new_session=True,
        )
    finally:
        for descriptor in own.values():
            os.close(descriptor)
    try:
        ready = _ready_line(process)
        if ready["rehearsal"]:
            raise ArmingError(f"the rehearsal failed: {ready['rehearsal']}")
    except BaseException:
        process.kill()
        process.wait()
        os.close(wake)
        raise
    runtime[Register.STANDBY_START] = ready["start"]
    runtime[Register.STANDBY_PID] = process.pid
    return Standby(process, os.pidfd_open(process.pid), ready, wake)


def _ready_line(process: subprocess.Popen[bytes]) -> dict[str, Any]:
    assert process.stdout is not None and process.stderr is not None
    with process.stdout, process.stderr:
        readable, _, _ = select.select([process.stdout], [], [], READY_SECONDS)
        line = process.stdout.readline() if readable else b""
        if not line:
            process.kill()
            said = process.stderr.read().decode(errors="replace").strip().splitlines()
            raise ArmingError(f"the standby did not get ready: {said[-1] if said else 'it said nothing'}")
    ready: dict[str, Any] = json.loads(line)
    return ready
