"""Recovery interrupted: what takes a dump out is cut at each of its writes, and done again on what is left.

A boot does it up to the arming that gives the region up; `recover IMAGE` does it into the host's own filesystem, and
both disks lose their power together. The steps are those of the product in their order, without its processes. Whatever
a cut leaves of them, the next time must end with one copy of each dump, every byte as it was, what was synced in its
place, and clean filesystems.
"""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Any, NamedTuple

from dumpwriter.formats.region import DumpState
from dumpwriter.lab import crasheddisk
from dumpwriter.lab.crasheddisk import DISK_SIZE_BYTES, FILESYSTEM_SIZE_BYTES, KEPT, KEPT_CONTENT, Host
from dumpwriter.lab.exploration import Finding
from dumpwriter.lab.filesystem import read_tree
from dumpwriter.lab.memo import Memo
from dumpwriter.machine.arming import record_region
from dumpwriter.machine.lastdump import LastDumps
from dumpwriter.machine.regionfile import RegionFile
from dumpwriter.recovery.crashstore import UNFINISHED
from dumpwriter.recovery.diskstore import CRASH_DIRECTORY, DiskStore
from dumpwriter.recovery.headers import newest_header
from dumpwriter.recovery.offline import source_of, take_out
from dumpwriter.recovery.places import region_place, untaken_places
from dumpwriter.recovery.report import together
from dumpwriter.recovery.retention import KEEP_ALL, numbered
from dumpwriter.verdict import Verdict
from vdisk.bootarea import BootArea, BootRecord, BootStage, RegionKind, RegionState
from vdisk.errors import ArmingError, FilesystemError, GhostdumpError
from vdisk.ext4.filesystem import Ext4Filesystem, needs_check
from vdisk.ext4.mkfs import repaired
from vdisk.extent import Extent, ExtentMap, Run
from vdisk.layers.mapped import Mapped
from vdisk.layers.trace import Trace
from vdisk.memorydisk import MemoryDisk

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from dumpwriter.lab.exploration import Span, State
    from dumpwriter.lab.tree import Tree
    from vdisk.blockdevice import BlockDevice
    from vdisk.layers.trace import Event

    Replay = Callable[[BlockDevice], object]

STORE = f"{CRASH_DIRECTORY}/"[1:].encode()
FINDINGS_MAX = 4096


class Outcome(StrEnum):
    """What was done the second time, and what must not be."""

    COPIED = "copied out"
    FOUND = "found a whole copy"
    MARKED = "was told that it is taken"
    BROKEN = "broken"  # a step failed, or a filesystem was not clean
    LOST = "lost"
    WRONG = "wrong"
    TWICE = "twice"


class Taken(NamedTuple):
    """How many dumps were found, and how many copies there were before."""

    dumps: int
    known: int


class Procedure(NamedTuple):
    """`before` makes the disk, `run` takes its dumps out; `store` is where the filesystem with the copies lies."""

    before: Callable[[], bytes]
    run: Callable[[BlockDevice, Replay], Taken]
    store: Run


def boot(device: BlockDevice, replay: Replay) -> Taken:
    """As `machine.boot.Boot`, shut down at the end. Raises `GhostdumpError` where one of the steps does."""
    area = BootArea(device)
    place, record = crasheddisk.free_small_place(area), area.read()
    record = place.recorded(record._replace(boot_count=record.boot_count + 1), RegionState.ARMED)
    record = area.write(record._replace(boot_stage=BootStage.DRIVERS))
    if needs_check(device):
        replay(device)
    filesystem = Ext4Filesystem.open(device)
    for stage in (BootStage.FILESYSTEM, BootStage.RECOVERY):
        record = area.write(record._replace(boot_stage=stage))
    places = [other for other in untaken_places(record) if other.identity != place.identity]
    known = numbered(DiskStore(filesystem, Host()).names())
    last = LastDumps(device, area, record, filesystem, Host(), places)
    last.take_out(KEEP_ALL, _unwatched)
    record = area.write(last.record._replace(boot_stage=BootStage.ARMING))
    extents = RegionFile(filesystem, RegionKind.DEDICATED).prepare(crasheddisk.REGION_SIZE_BYTES)
    record = record_region(Host(), device, record, extents)
    area.write(place.recorded(record, RegionState.CLEAN)._replace(boot_stage=BootStage.RUNNING))
    filesystem.close()
    _check_armed(device, area.read())
    return Taken(_found(together(last.report)), len(known))


def _check_armed(device: BlockDevice, record: BootRecord) -> None:
    place = region_place(record)
    header = newest_header(Mapped(device, place.extents(BootArea(device), record)), place.identity)
    if place.state != RegionState.ARMED or header is None or header.state != DumpState.ARMED:
        raise ArmingError("the machine came up and is not armed")


def recover_to_host(device: BlockDevice, replay: Replay) -> Taken:
    """As `recovery.offline.recover_image`, into a directory of the host, which replays its own journal first."""
    image, host = (_part(device, run) for run in (Run(0, DISK_SIZE_BYTES), HOST_STORE))
    if needs_check(host):
        replay(host)
    filesystem = Ext4Filesystem.open(host)
    area = BootArea(image)
    record = area.read()
    store = DiskStore(filesystem, Host())
    sources = [(place, source_of(image, area, record, place)) for place in untaken_places(record)]
    known = numbered(store.names())
    reports = take_out(area, record, sources, store, KEEP_ALL, _unwatched).reports
    filesystem.close()
    return Taken(_found(reports), len(known))


def _found(reports: Iterable[dict[str, Any]]) -> int:
    return sum(report["verdict"] != Verdict.NONE for report in reports)


def _unwatched(done: int, total: int) -> None:
    pass


OWN_STORE = Run(0, FILESYSTEM_SIZE_BYTES)
HOST_STORE = Run(DISK_SIZE_BYTES, FILESYSTEM_SIZE_BYTES)
PROCEDURES = {
    "boot": Procedure(crasheddisk.whole_dump, boot, OWN_STORE),
    "partial": Procedure(crasheddisk.part_of_a_dump, boot, OWN_STORE),
    "several": Procedure(crasheddisk.two_dumps, boot, OWN_STORE),
    "image": Procedure(crasheddisk.whole_dump_beside_a_host, recover_to_host, HOST_STORE),
}


def replay_by_e2fsck(device: BlockDevice) -> None:
    """e2fsck on a copy in memory, all of what it changes at once. Raises `FilesystemError`."""
    device.write_through(0, repaired(device.read(0, FILESYSTEM_SIZE_BYTES)))


class RecoveryExperiment:
    """An `Experiment` with one of `PROCEDURES`. `replay` is how it replays the journal; the second time e2fsck does."""

    verdicts = Outcome

    def __init__(self, subject: str, replay: Replay) -> None:
        self.subject = subject
        self._procedure = PROCEDURES[subject]
        self.before = self._procedure.before()
        self.trace: list[Event] = []
        disk = MemoryDisk(len(self.before), self.before)
        self._procedure.run(Trace(disk, self.trace.append), replay)
        self.copies = _copies(self._tree(disk))
        self._findings: Memo[Finding] = Memo(FINDINGS_MAX)

    def judge(self, span: Span, state: State) -> Finding:  # noqa: ARG002 - what must come out is the same everywhere
        return self._findings.get(state.digest, lambda: self._judge(bytes(state.content)))

    def _judge(self, content: bytes) -> Finding:
        disk = MemoryDisk(len(content), content)
        try:
            taken = self._procedure.run(disk, replay_by_e2fsck)
            tree = self._tree(disk)
        except (GhostdumpError, OSError) as failure:
            return Finding(Outcome.BROKEN, str(failure))
        return self._compare(tree) or Finding(_what_was_done(taken))

    def _compare(self, tree: Tree) -> Finding | None:
        """None where all is there."""
        copies, kept = _copies(tree), tree.node(KEPT)
        if STORE + UNFINISHED.encode() in tree.names:
            return Finding(Outcome.BROKEN, "an unfinished copy is left")
        if kept is None or kept.content != KEPT_CONTENT:
            return Finding(Outcome.LOST, "the file is not as it was synced")
        if len(copies) != len(self.copies):
            outcome = Outcome.LOST if len(copies) < len(self.copies) else Outcome.TWICE
            return Finding(outcome, f"{len(copies)} copies instead of {len(self.copies)}")
        if copies != self.copies:
            return Finding(Outcome.WRONG, "a vmcore is another than that of an undisturbed recovery")
        return None

    def _tree(self, disk: MemoryDisk) -> Tree:
        """What the filesystem holds when it was shut down. Raises `FilesystemError` where it is not clean."""
        store = _part(disk, self._procedure.store)
        if needs_check(store):
            raise FilesystemError("the filesystem was not shut down")
        return read_tree(repaired(store.read(0, store.size_bytes)))


def _part(device: BlockDevice, run: Run) -> Mapped:
    return Mapped(device, ExtentMap([Extent(0, *run)]))


def _copies(tree: Tree) -> list[bytes]:
    """The vmcores in the order of their numbers; empty ones where there is none."""
    names = (name.removeprefix(STORE).decode() for name in tree.names if name.startswith(STORE))
    nodes = [tree.node(STORE + name.encode() + b"/vmcore") for name in numbered(names)]
    return [b"" if node is None else node.content for node in nodes]


def _what_was_done(taken: Taken) -> Outcome:
    if not taken.dumps:
        return Outcome.MARKED
    return Outcome.FOUND if taken.known else Outcome.COPIED
