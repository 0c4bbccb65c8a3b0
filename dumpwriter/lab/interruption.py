"""Recovery interrupted: the writes of a boot that takes a dump out, cut at each of them; the next boot does it again.

The disk is whole: ext4 with a journal that has to be replayed, the region as a file in it, the boot area behind it. The
steps are those of the machine's boot in its order, up to the arming that gives the region up. Whatever a cut leaves of
them, the next boot must end with one copy of the dump, every byte as it was, and a filesystem that is clean.
"""

from __future__ import annotations

import stat
from enum import StrEnum
from typing import TYPE_CHECKING, NamedTuple

from dumpwriter.formats.region import PAGE_SIZE_BYTES
from dumpwriter.frames import DumpIdentity
from dumpwriter.lab.chance import CaseKey, Chance
from dumpwriter.lab.exploration import Finding
from dumpwriter.lab.filesystem import read_tree
from dumpwriter.lab.memo import Memo
from dumpwriter.lab.scenario import SCENARIOS
from dumpwriter.lab.world import World, recording_of
from dumpwriter.machine.arming import record_region
from dumpwriter.machine.lastdump import LastDumps
from dumpwriter.machine.regionfile import ROOT, RegionFile
from dumpwriter.recovery.crashstore import UNFINISHED
from dumpwriter.recovery.diskstore import CRASH_DIRECTORY, DiskStore
from dumpwriter.recovery.places import small_places, untaken_places
from dumpwriter.recovery.retention import KEEP_ALL, numbered
from dumpwriter.verdict import Verdict
from vdisk.bootarea import (
    BOOT_AREA_SIZE_BYTES,
    BootArea,
    BootStage,
    RegionKind,
    RegionState,
    new_record,
    next_generation,
)
from vdisk.errors import GhostdumpError
from vdisk.ext4.filesystem import Ext4Filesystem, needs_check
from vdisk.ext4.mkfs import format_device, repaired
from vdisk.layers.trace import Trace
from vdisk.memorydisk import MemoryDisk

if TYPE_CHECKING:
    from collections.abc import Callable

    from dumpwriter.lab.exploration import Span, State
    from dumpwriter.lab.tree import Tree
    from vdisk.blockdevice import BlockDevice
    from vdisk.layers.trace import Event

    Replay = Callable[[BlockDevice], object]

FILESYSTEM_SIZE_BYTES = 10 << 20
DISK_SIZE_BYTES = FILESYSTEM_SIZE_BYTES + BOOT_AREA_SIZE_BYTES
REGION_SIZE_BYTES = 1 << 20
UUID = "6c616262-6f72-4174-8f72-790000000001"
KEPT, KEPT_CONTENT = b"kept", b"a user's file, synced before the crash" * 1000
VMCORE = f"{CRASH_DIRECTORY}/1/vmcore"[1:].encode()
FINDINGS_MAX = 4096
SUBJECT = "recovery"


class Outcome(StrEnum):
    """What the second boot did, and what must not be."""

    COPIED = "copied out"
    FOUND = "found its whole copy"
    MARKED = "was told that it is taken"
    BROKEN = "broken"  # the boot failed, or the filesystem was not clean
    LOST = "lost"
    WRONG = "wrong"
    TWICE = "twice"


class Host:
    """A host that has room for everything."""

    def reserve(self, offset_bytes: int, length_bytes: int) -> None:
        pass

    def host_free_bytes(self) -> int:
        return DISK_SIZE_BYTES


class Booted(NamedTuple):
    """What a boot found before it took anything out, and its report on the dumps."""

    known: list[str]
    verdict: Verdict


def boot(device: BlockDevice, replay: Replay) -> Booted:
    """As `machine.boot.Boot`, without processes; at the end the filesystem is shut down.

    Raises `GhostdumpError` where one of the steps does.
    """
    area = BootArea(device)
    record = area.read()
    place = next(place for place in small_places(record) if place.state != RegionState.ARMED)
    place = place._replace(identity=DumpIdentity(b"a small dump's..", next_generation(record)))
    record = place.recorded(record._replace(boot_count=record.boot_count + 1), RegionState.CLEAN)
    record = area.write(record._replace(boot_stage=BootStage.DRIVERS))
    if needs_check(device):
        replay(device)
    filesystem = Ext4Filesystem.open(device)
    record = area.write(record._replace(boot_stage=BootStage.FILESYSTEM))
    record = area.write(record._replace(boot_stage=BootStage.RECOVERY))
    known = numbered(DiskStore(filesystem, Host()).names())
    last = LastDumps(device, area, record, filesystem, Host(), untaken_places(record))
    last.take_out(KEEP_ALL, _unwatched)
    record = area.write(last.record._replace(boot_stage=BootStage.ARMING))
    extents = RegionFile(filesystem, RegionKind.DEDICATED).prepare(REGION_SIZE_BYTES)
    record = record_region(Host(), device, record, extents)
    area.write(record._replace(boot_stage=BootStage.RUNNING))
    filesystem.close()
    return Booted(known, Verdict(last.report["verdict"]))


def _unwatched(done: int, total: int) -> None:
    pass


def replay_by_e2fsck(device: BlockDevice) -> None:
    """e2fsck on a copy in memory, all of what it changes at once. Raises `FilesystemError`."""
    device.write_through(0, repaired(device.read(0, FILESYSTEM_SIZE_BYTES)))


def crashed_disk(memory: bytes) -> bytes:
    """A disk whose machine was armed, synced a file, and died while it dumped its memory to the end."""
    disk = MemoryDisk(DISK_SIZE_BYTES)
    format_device(disk, FILESYSTEM_SIZE_BYTES, label="laboratory", uuid=UUID)
    record = new_record(b"the laboratory's", DISK_SIZE_BYTES, len(memory))
    filesystem = Ext4Filesystem.open(disk)
    extents = RegionFile(filesystem, RegionKind.DEDICATED).prepare(REGION_SIZE_BYTES)
    record = record_region(Host(), disk, record._replace(boot_count=1, boot_stage=BootStage.RUNNING), extents)
    ino = filesystem.create(ROOT, KEPT, stat.S_IFREG | 0o600, 0, 0).ino
    filesystem.write(ino, 0, KEPT_CONTENT)
    filesystem.fsync(ino)
    filesystem.abandon()
    identity = DumpIdentity(record.dump_id, record.generation)
    world = World(SCENARIOS["pages"], identity, extents, memory, bytes(disk.content), (), ())
    for event in recording_of(world).again(lambda device: device):
        disk.content[event.offset_bytes : event.offset_bytes + event.length_bytes] = event.content
    return bytes(disk.content)


class RecoveryExperiment:
    """An `Experiment`. `replay` is how the boot under test replays the journal; the next one has e2fsck do it."""

    subject = SUBJECT
    verdicts = Outcome

    def __init__(self, replay: Replay) -> None:
        size_bytes = SCENARIOS["pages"].data_pages * PAGE_SIZE_BYTES
        self.memory = Chance(CaseKey("memory", 0, 0)).take_bytes(size_bytes)
        self.before = crashed_disk(self.memory)
        self.trace: list[Event] = []
        disk = MemoryDisk(DISK_SIZE_BYTES, self.before)
        boot(Trace(disk, self.trace.append), replay)
        tree = self._tree(disk)
        self.vmcore = tree.nodes[tree.names[VMCORE]].content
        self._findings: Memo[Finding] = Memo(FINDINGS_MAX)

    def judge(self, span: Span, state: State) -> Finding:  # noqa: ARG002 - what must come out is the same everywhere
        return self._findings.get(state.digest, lambda: self._judge(MemoryDisk(DISK_SIZE_BYTES, state.content)))

    def _judge(self, disk: MemoryDisk) -> Finding:
        try:
            booted = boot(disk, replay_by_e2fsck)
            tree = self._tree(disk)
        except (GhostdumpError, OSError) as failure:
            return Finding(Outcome.BROKEN, str(failure))
        return self._compare(tree) or Finding(_what_was_done(booted))

    def _compare(self, tree: Tree) -> Finding | None:
        """None where all is there."""
        directory = f"{CRASH_DIRECTORY}/"[1:]
        crashes = [name.decode() for name in tree.names if name.startswith(directory.encode())]
        copies = numbered(name.removeprefix(directory) for name in crashes)
        vmcore, kept = tree.node(VMCORE), tree.node(KEPT)
        if directory + UNFINISHED in crashes:
            return Finding(Outcome.BROKEN, "an unfinished copy is left")
        if vmcore is None or kept is None or kept.content != KEPT_CONTENT:
            return Finding(Outcome.LOST, "there is no vmcore" if vmcore is None else "the user's file is not as synced")
        if vmcore.content != self.vmcore:
            return Finding(Outcome.WRONG, "the vmcore is another than that of an undisturbed recovery")
        if len(copies) > 1:
            return Finding(Outcome.TWICE, f"the dump was copied {len(copies)} times")
        return None

    def _tree(self, disk: MemoryDisk) -> Tree:
        """What the filesystem holds when it was shut down. Raises `FilesystemError` where it is not clean."""
        if needs_check(disk):
            raise GhostdumpError("the filesystem was not shut down")
        return read_tree(repaired(disk.read(0, FILESYSTEM_SIZE_BYTES)))


def _what_was_done(booted: Booted) -> Outcome:
    if booted.verdict == Verdict.NONE:
        return Outcome.MARKED
    return Outcome.FOUND if booted.known else Outcome.COPIED
