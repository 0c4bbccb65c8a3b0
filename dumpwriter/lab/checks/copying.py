"""Checks of taking a dump out: what is in the copy, when there is one, and when the dump may be given up for it.

The store is one in memory, and the boot record lies on a disk of its own; the steps are those of `recover`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from dumpwriter.conversion.conversion import Wish
from dumpwriter.formats.region import SLOT_SIZE_BYTES
from dumpwriter.frames import slot_offset_bytes
from dumpwriter.lab.checks.refuted import must
from dumpwriter.lab.checks.specimen import Subject, disk_of, pages_in, written
from dumpwriter.recovery.crashstore import Room
from dumpwriter.recovery.extraction import RegionSource
from dumpwriter.recovery.offline import take_out
from dumpwriter.recovery.places import region_place
from dumpwriter.recovery.retention import KEEP_ALL
from dumpwriter.verdict import Verdict
from vdisk.blockdevice import BLOCK_SIZE_BYTES, SECTOR_SIZE_BYTES, BlockDevice
from vdisk.bootarea import BOOT_AREA_SIZE_BYTES, BootArea, RegionState, new_record
from vdisk.errors import RecoveryError
from vdisk.layers.mapped import Mapped
from vdisk.layers.media_faults import MediaFaults
from vdisk.layers.trace import Trace
from vdisk.memorydisk import MemoryDisk

if TYPE_CHECKING:
    from collections.abc import Callable

    from typing_extensions import Buffer

    from vdisk.extent import Run

PLAIN = Subject("copied", dict.fromkeys(range(210), 4), frozenset(range(150, 170)), slots=12, blobs={"log": b"a blob"})
COVERED = PLAIN._replace(name="copied, covered", slots=16, parity_percent=50)
SLOT = 2  # of a frame of data
RAW = Wish("raw", fill=True)  # zeros where there is no page
FILE = RAW.target.file
ARMED = RegionState.ARMED
FINISHED, SETTLED, MARKED = "finished", "settled", "marked"


class MemoryStore:
    """A crash store that tells what was done to it, and in which order."""

    def __init__(self, told: list[str]) -> None:
        self.crashes: dict[str, dict[str, bytearray]] = {}
        self._unfinished: dict[str, bytearray] = {}
        self._told = told
        self._bound = b""

    def describe(self, name: str) -> str:
        return name

    def names(self) -> list[str]:
        return list(self.crashes)

    def rooms(self) -> tuple[Room, ...]:
        return (Room("in memory", 1 << 40),)

    def read_finished(self, name: str, file: str, offset_bytes: int, length_bytes: int) -> bytes:
        return bytes(self.crashes[name].get(file, b"")[offset_bytes : offset_bytes + length_bytes])

    def begin(self) -> None:
        self.abandon()

    def write(self, file: str, offset_bytes: int, content: Buffer) -> None:
        view = memoryview(content).cast("B")
        self.resize(file, max(len(self._file(file)), offset_bytes + view.nbytes))
        self._file(file)[offset_bytes : offset_bytes + view.nbytes] = view

    def read(self, file: str, offset_bytes: int, length_bytes: int) -> bytes:
        return bytes(self._file(file)[offset_bytes : offset_bytes + length_bytes])

    def resize(self, file: str, size_bytes: int) -> None:
        self._file(file)[:] = self._file(file)[:size_bytes].ljust(size_bytes, b"\0")

    def finish(self, name: str) -> None:
        self.crashes[name], self._unfinished = self._unfinished, {}
        self._told.append(FINISHED)

    def abandon(self) -> None:
        self._unfinished = {}

    def settle(self, name: str) -> None:
        must(name in self.crashes, "what is not there is settled")
        self._told.append(SETTLED)

    def remove(self, name: str) -> None:
        del self.crashes[name]

    def read_bound(self) -> bytes:
        return self._bound

    def write_bound(self, content: bytes) -> None:
        self._bound = content

    def _file(self, file: str) -> bytearray:
        return self._unfinished.setdefault(file, bytearray())


class Machine:
    """A specimen, its boot record, which says that a dump may be there, and where dumps are copied to."""

    def __init__(self, subject: Subject, state: RegionState = ARMED) -> None:
        self.specimen = written(subject)
        self.told: list[str] = []
        self.store = MemoryStore(self.told)
        self._boot_disk = MemoryDisk(2 * BOOT_AREA_SIZE_BYTES)
        record = new_record(bytes(16), self._boot_disk.size_bytes, 1 << 20)
        identity = subject.identity._asdict()
        BootArea(self._boot_disk).write(record._replace(region_state=state, **identity))

    def take_out(
        self, disk: BlockDevice, second: Callable[[], None] = lambda: None, *, is_writable: bool = True
    ) -> str:
        """The verdict; empty where it is refused. `second` is called when the second reading has begun."""

        def progress(done: int, total: int) -> None:
            if 2 * done > total:
                second()

        area = BootArea(Trace(self._boot_disk, lambda event: self.told.append(MARKED)))  # noqa: ARG005 - whatever it is
        record = area.read()
        source = RegionSource(Mapped(disk, self.specimen.extents), self.specimen.identity)
        sources = [(region_place(record), source)]
        try:
            out = take_out(area, record, sources, self.store, KEEP_ALL, progress, wish=RAW, is_writable=is_writable)
        except RecoveryError:
            return ""
        (report,) = out.reports
        return Verdict(report["verdict"])

    @property
    def is_marked(self) -> bool:
        return BootArea(self._boot_disk).read().region_state == RegionState.TAKEN

    def must_have_copied(self, lost: set[int], what: str) -> None:
        """The newest copy is what memory was, but for these pages."""
        ranks = self.specimen.subject.ranks
        pages = [bytes(BLOCK_SIZE_BYTES) if page in lost else self.specimen.subject.page(page) for page in ranks]
        must(self.store.crashes, f"{what}: there is no copy")
        newest = self.store.crashes[max(self.store.crashes, key=int)]
        must(newest[FILE] == b"".join(pages), f"{what}: the copy is not what was dumped")
        must(newest["secondary.log"] == b"a blob", f"{what}: the blob is not what was registered")


class Case(NamedTuple):
    """A disk, what must come of it, and whether nothing more can be read of it another time."""

    what: str
    subject: Subject
    blank: bool
    bad_blocks: tuple[int, ...]
    verdict: Verdict
    is_final: bool


CASES = (
    Case("whole", PLAIN, False, (), Verdict.COMPLETE, True),
    Case("a frame is gone", PLAIN, True, (), Verdict.PARTIAL, True),
    Case("a header block cannot be read", PLAIN, False, (0,), Verdict.PARTIAL, False),
    Case("a payload cannot be read", PLAIN, False, (9,), Verdict.PARTIAL, False),
    Case("whole, with parity", COVERED, False, (), Verdict.COMPLETE, True),
    Case("a frame is gone and rebuilt", COVERED, True, (), Verdict.COMPLETE, True),
    Case("a frame cannot be read and is rebuilt", COVERED, False, (9,), Verdict.COMPLETE, True),
)


def dumps_that_are_given_up() -> None:
    """When the copy is there and no other try can give more, and not before; read-only and hibernated ones never."""
    for case in CASES:
        for state, is_writable in (
            (RegionState.ARMED, True),
            (RegionState.ARMED, False),
            (RegionState.HIBERNATED, True),
        ):
            machine = Machine(case.subject, state)
            what = f"{case.what}, {state.name}, writable {is_writable}"
            verdict = machine.take_out(_disk_of(machine, case), is_writable=is_writable)
            must(verdict == case.verdict, f"{what}: {verdict}")
            machine.must_have_copied(_pages_of_slot(machine) if verdict == Verdict.PARTIAL else set(), what)
            is_due = case.is_final and is_writable and state == ARMED
            must(machine.is_marked == is_due, f"{what}: marked is {machine.is_marked}")
            must(MARKED not in machine.told[: machine.told.index(FINISHED)], f"{what}: given up before it is copied")
    machine = Machine(PLAIN)
    nothing = machine.take_out(MemoryDisk(machine.specimen.disk.size_bytes))
    must(nothing == Verdict.NONE and not machine.store.crashes, "a blank region has a copy")
    must(not machine.is_marked, "a blank region is marked as one whose dump was taken out")


def dumps_that_give_two_answers() -> None:
    """A frame that is read in the one pass and not in the other: nothing is copied, and nothing given up."""
    for subject in (PLAIN, COVERED):
        for is_bad_first in (True, False):
            machine = Machine(subject)
            (place, *_) = machine.specimen.extents.runs(slot_offset_bytes(SLOT), SECTOR_SIZE_BYTES)
            bad = [place] if is_bad_first else []

            def second(bad: list[Run] = bad, now: tuple[Run, ...] = () if is_bad_first else (place,)) -> None:
                bad[:] = now

            verdict = machine.take_out(MediaFaults(machine.specimen.disk, lambda bad=bad: bad), second)  # type: ignore[misc]
            what = f"{subject.name}, unreadable {'at first' if is_bad_first else 'later'}"
            if subject is COVERED:
                must(verdict == Verdict.COMPLETE and machine.is_marked, f"{what}: what parity gives is not taken")
                machine.must_have_copied(set(), what)
            else:
                must(not verdict and not machine.store.crashes, f"{what}: copied as {verdict}")
                must(not machine.is_marked, f"{what}: given up")


def dumps_that_were_copied() -> None:
    """Once more, of a dump that stayed where it was: one copy, made durable again; a new one where it changed."""
    for altered in ("", FILE, "secondary.log"):
        machine = Machine(PLAIN)
        machine.take_out(machine.specimen.disk, is_writable=False)
        if altered:
            machine.store.crashes["1"][altered][-1] ^= 1
        machine.told.clear()
        verdict = machine.take_out(machine.specimen.disk)
        must(verdict == Verdict.COMPLETE and machine.is_marked, f"a second time it is {verdict}")
        machine.must_have_copied(set(), f"a second time, with another {altered or 'nothing'}")
        must(len(machine.store.crashes) == 1 + bool(altered), f"{len(machine.store.crashes)} copies of one dump")
        must(machine.told[0] == (FINISHED if altered else SETTLED), "a dump is given up for a copy that may not last")


def _disk_of(machine: Machine, case: Case) -> BlockDevice:
    disk = disk_of(machine.specimen.disk.content)
    if case.blank:
        Mapped(disk, machine.specimen.extents).write_from(slot_offset_bytes(SLOT), bytes(SLOT_SIZE_BYTES))
    starts = [slot_offset_bytes(SLOT) + block * BLOCK_SIZE_BYTES for block in case.bad_blocks]
    bad = [run for start in starts for run in machine.specimen.extents.runs(start, SECTOR_SIZE_BYTES)]
    return MediaFaults(disk, lambda: bad)


def _pages_of_slot(machine: Machine) -> set[int]:
    frames = machine.specimen.job().plan.frames
    return next(pages_in(frame.runs) for frame in frames if frame.sequence == SLOT)
