"""Checks of what a dump must withstand, by what was promised: nothing that is expected here comes from the writer.

Where frames lie, and which of them may be lost at once, is told by hand, from docs/FORMAT.md: slots that follow each
other are of different groups, and each group gives one of its frames back. So any run of as many slots as there are
groups may be lost, in each set at once, whatever the disk refused while the dump was written.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from dumpwriter.cipher import GcmSealer
from dumpwriter.crash import dump
from dumpwriter.crash.dump import REQUEST_BUFFER_SIZE_BYTES, Progress
from dumpwriter.dumpkeys import new_seal
from dumpwriter.formats.region import SLOT_SIZE_BYTES, DumpEnding
from dumpwriter.frames import slot_offset_bytes
from dumpwriter.lab.checks.covering import FailsThoughItCame
from dumpwriter.lab.checks.refuted import must
from dumpwriter.lab.checks.specimen import Specimen, Subject, disk_of, written
from dumpwriter.lab.faults import Fault, FaultKind
from dumpwriter.lab.telling import telling
from dumpwriter.lab.world import END_TIME_NS
from dumpwriter.recovery.unsealing import WithPrivateKey
from dumpwriter.verdict import Reason, Verdict
from vdisk.blockdevice import BLOCK_SIZE_BYTES, SECTOR_SIZE_BYTES
from vdisk.extent import Run
from vdisk.layers.mapped import Mapped

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from typing_extensions import Buffer

    from dumpwriter.recovery.opening import Opener
    from dumpwriter.recovery.scan import Findings

MEBIBYTE_BYTES = 1 << 20
LAST_BLOCK = 63  # of a frame that parity covers, its header block first: a run of 1 MiB from there touches five slots
KEY = X25519PrivateKey.from_private_bytes(bytes([4]) * 32)


class Layout(NamedTuple):
    """A subject whose frames are all full but for the metadata, and the slots of each set, its parity behind."""

    subject: Subject
    frames: int
    groups: int
    sets: tuple[range, ...] = ()

    @property
    def slots(self) -> range:
        """Of frames and parity; behind them are those to spare."""
        return range(self.sets[-1].stop if self.sets else self.frames)

    def with_slots(self, slots: int) -> Layout:
        """In a region of so many."""
        return self._replace(subject=self.subject._replace(slots=slots))

    def losses(self) -> Iterator[tuple[int, ...]]:
        """Of each set so many slots in a row as there are groups; all of them are among these."""
        for start in range(0, max(map(len, self.sets), default=0), self.groups):
            yield tuple(slot for one in self.sets for slot in one[start : start + self.groups])


# Of 6 MiB and more, in one set; a smaller one in three sets, the last of them short; and that without parity.
LARGE = Layout(Subject("large", dict.fromkeys(range(26 * 63), 4), slots=41, parity_percent=12), 28, 5, (range(33),))
SMALL = Layout(
    Subject("small", dict.fromkeys(range(18 * 63), 4), slots=34, parity_percent=100),
    20,
    2,
    (range(10), range(10, 20), range(20, 26)),
)
PLAIN = Layout(Subject("plain", dict.fromkeys(range(18 * 64), 4), slots=28), 20, 1)


def runs_that_are_lost() -> None:
    """Every run of 1 MiB in a dump of 6 MiB and more, and every run of groups in every set."""
    specimen = written(LARGE.subject)
    last_bytes = slot_offset_bytes(LARGE.slots.stop) - MEBIBYTE_BYTES
    for slot in LARGE.slots:
        offset_bytes = min(slot_offset_bytes(slot) + LAST_BLOCK * BLOCK_SIZE_BYTES, last_bytes)
        _must_be_whole(specimen, [Run(offset_bytes, MEBIBYTE_BYTES)], f"without 1 MiB from {offset_bytes}")
    for layout in (LARGE, SMALL):
        _must_withstand(written(layout.subject), layout, layout.subject.name)


def slots_that_are_bad() -> None:
    """Anywhere in a request, several of them, parity's own, and spare ones: all is moved, and nothing is less safe."""
    for layout, bad in (
        (LARGE, (0,)),
        (LARGE, (3,)),
        (LARGE, (27,)),
        (LARGE, (3, 12, 21)),
        (LARGE, (9, 29, 33, 35)),
        (SMALL, (1, 2, 11, 19, 20, 26)),
        (PLAIN, (0,)),
        (PLAIN, (1, 8, 15, 19)),
        (PLAIN, (7, 20)),
        (PLAIN, (2, 3, 4, 5, 6, 7, 23)),
    ):
        specimen = Specimen(layout.subject)
        _write_with_bad(specimen, bad)
        moved = sum(slot in layout.slots for slot in bad)
        what = f"{layout.subject.name}, with bad slots {bad}"
        findings = _must_be_whole(specimen, (), what)
        _must_tell(findings, what, frames_moved=moved, frames_failed=0, ending=DumpEnding.THROUGH)
        _must_withstand(specimen, layout, what)
        if layout.sets:
            for spare in range(layout.slots.stop, layout.slots.stop + len(bad)):
                _must_be_whole(specimen, _whole_slots([spare]), f"{what}, without slot {spare}")


def slots_that_are_bad_with_none_to_spare() -> None:
    """One in each group of each set comes back; without parity the pages of each are lost, and no others."""
    bad: tuple[int, ...] = (1, 2, 10, 13, 21, 22)
    specimen = Specimen(SMALL.with_slots(SMALL.slots.stop).subject)
    _write_with_bad(specimen, bad)
    findings = _must_be_whole(specimen, (), f"with bad slots {bad} and none to spare")
    _must_tell(findings, f"with bad slots {bad}", frames_moved=0, frames_failed=len(bad))
    bad = (1, 2, 10, 13)
    specimen = Specimen(PLAIN.with_slots(PLAIN.frames).subject)
    _write_with_bad(specimen, bad)
    findings, pages = specimen.read(specimen.disk.content)
    must(len(pages) == (18 - len(bad)) * 64 and not specimen.wrong_pages(pages), "on bad slots other pages are lost")
    must(findings.reason == Reason.FRAMES_LOST, f"of bad slots it is said: {findings.reason}")
    _must_tell(findings, f"without parity, with bad slots {bad}", frames_moved=0, frames_failed=len(bad))


def writes_that_are_refused() -> None:
    """Each write once, though all of it came, or half: parity covers what lies there in the end."""
    for operation in range(4, 10):  # behind the headers
        for length_bytes in (SLOT_SIZE_BYTES, 8 * SLOT_SIZE_BYTES):
            specimen = Specimen(SMALL.subject)
            fault = Fault(FaultKind.SHORT_WRITE, operation, length_bytes=length_bytes)
            specimen.write(lambda disk, fault=fault: telling(disk, [fault]))  # type: ignore[misc]
            what = f"operation {operation} refused after {length_bytes} bytes"
            findings = _must_be_whole(specimen, (), what)
            _must_tell(findings, what, frames_moved=0, frames_failed=0)
            _must_withstand(specimen, SMALL, what)


def memory_that_cannot_be_read() -> None:
    """Of frames with such a page nothing is there; all others are, and come back when they are lost."""
    for layout in (SMALL, PLAIN):
        for unreadable, lost in (((0,), 1), ((200, 400), 2), ((1000,), 1)):
            specimen = _Unreadable(layout.subject, unreadable)
            specimen.write()
            what = f"{layout.subject.name}, with pages {unreadable} unreadable"
            findings, pages = specimen.read(specimen.disk.content)
            must(not set(unreadable) & pages.keys() and not specimen.wrong_pages(pages), f"{what}: wrong pages")
            in_a_frame = len(specimen.subject.ranks) // 18
            must(len(pages) == (18 - lost) * in_a_frame, f"{what}: {len(pages)} pages are there")
            must(findings.reason == Reason.FRAMES_LOST, f"{what}: {findings.reason}")
            _must_tell(findings, what, frames_moved=0, frames_failed=lost)
            for slots in layout.losses():
                again, rebuilt = specimen.read(_without(specimen, _whole_slots(slots)))
                must(again.verdict == Verdict.PARTIAL and rebuilt == pages, f"{what}, without {slots}: other pages")


def sealed_dumps() -> None:
    """What parity covers is sealed, and comes back with the key and without it."""
    sealed = SMALL.subject._replace(sealer=GcmSealer(new_seal(KEY.public_key())))
    for refused in (4, 13):  # though all of it comes, and there is no other slot
        specimen = Specimen(sealed._replace(slots=SMALL.slots.stop))
        place = next(specimen.extents.runs(slot_offset_bytes(refused), BLOCK_SIZE_BYTES))
        specimen.write(lambda disk, place=place: FailsThoughItCame(disk, place))  # type: ignore[misc]
        for slots in SMALL.losses():
            what = f"sealed, with slot {refused} refused, without {slots}"
            _must_be_whole(specimen, _whole_slots(slots), what, WithPrivateKey(KEY))
    specimen = Specimen(sealed)
    _write_with_bad(specimen, (3, 12))
    for slots in SMALL.losses():
        _must_be_whole(specimen, _whole_slots(slots), f"sealed, without {slots}", WithPrivateKey(KEY))
        closed, none = specimen.read(_without(specimen, _whole_slots(slots)))
        must(closed.is_closed and not none, "pages come out of a sealed dump without its key")
        must(closed.verdict == Verdict.COMPLETE, f"closed, without {slots}: {closed.verdict}")


def time_that_is_over() -> None:
    """After each request: the dump says so, and what was written comes back when it is lost."""
    requests = list(Specimen(SMALL.subject).job().plan.requests())
    for count in range(1, len(requests)):
        specimen = Specimen(SMALL.subject)
        specimen.arm()
        job, progress, buffer = specimen.job(), Progress(), memoryview(bytearray(REQUEST_BUFFER_SIZE_BYTES))
        dump.begin(job, progress)
        for request in (*requests[:count], requests[-1][-1:]):
            dump.write_request(job, request, buffer, progress)
        progress.is_out_of_time = True
        dump.finish_sets(job, buffer, progress)
        dump.end(job, progress, END_TIME_NS)
        findings, pages = specimen.read(specimen.disk.content)
        what = f"out of time after {count} requests"
        must(len(pages) == (8 * count - 1) * 63 and not specimen.wrong_pages(pages), f"{what}: other pages")
        must((findings.verdict, findings.reason) == (Verdict.PARTIAL, Reason.TIME_BUDGET), f"{what}: {findings.reason}")
        _must_tell(findings, what, ending=DumpEnding.TIME_BUDGET, frames_failed=0, frames_moved=0)
        for slots in SMALL.losses():
            again, rebuilt = specimen.read(_without(specimen, _whole_slots(slots)))
            must(again.reason == Reason.TIME_BUDGET, f"{what}, without {slots}: {again.reason}")
            must(rebuilt == pages, f"{what}, without {slots}: other pages")


def regions_where_parity_just_fits() -> None:
    """No page is given up for it; the first sets have it, as many as there is room for."""
    for slots in range(SMALL.frames - 1, SMALL.slots.stop + 1):
        specimen = written(SMALL.with_slots(slots).subject)
        what = f"in {slots} slots"
        _, pages = specimen.read(specimen.disk.content)
        room = (slots - 2) * 64
        must(len(pages) == min(room, len(SMALL.subject.ranks)), f"{what}: {len(pages)} pages")
        must(not specimen.wrong_pages(pages), f"{what}: wrong pages")
        sets = SMALL.sets[: max(0, slots - SMALL.frames) // SMALL.groups]
        _must_withstand(specimen, SMALL._replace(sets=sets), what)


class _Unreadable(Specimen):
    """Of its memory some pages cannot be read."""

    def __init__(self, subject: Subject, unreadable: Iterable[int]) -> None:
        super().__init__(subject)
        self._unreadable = [Run(page * BLOCK_SIZE_BYTES, BLOCK_SIZE_BYTES) for page in unreadable]

    def read_into(self, physical_bytes: int, buffer: Buffer) -> None:
        if any(run.meets(Run(physical_bytes, memoryview(buffer).nbytes)) for run in self._unreadable):
            raise OSError("this memory cannot be read")
        super().read_into(physical_bytes, buffer)


def _write_with_bad(specimen: Specimen, slots: Iterable[int]) -> None:
    """On a disk that takes nothing at the beginning of these."""
    places = [next(specimen.extents.runs(slot_offset_bytes(slot), SECTOR_SIZE_BYTES)) for slot in slots]
    bad = [Fault(FaultKind.BAD_SECTORS, 0, *place) for place in places]
    specimen.write(lambda disk: telling(disk, bad))


def _must_withstand(specimen: Specimen, layout: Layout, what: str) -> None:
    for slots in layout.losses():
        _must_be_whole(specimen, _whole_slots(slots), f"{what}, without {slots}")


def _must_be_whole(specimen: Specimen, lost: Iterable[Run], what: str, opener: Opener | None = None) -> Findings:
    findings, pages = specimen.read(_without(specimen, lost), opener)
    must(findings.verdict == Verdict.COMPLETE, f"{what}: {findings.verdict}")
    must(pages.keys() == set(specimen.subject.ranks) and not specimen.wrong_pages(pages), f"{what}: other pages")
    return findings


def _must_tell(findings: Findings, what: str, **expected: int) -> None:
    told = findings.header._asdict() if findings.header is not None else {}
    wrong = {name: told.get(name) for name, value in expected.items() if told.get(name) != value}
    must(not wrong, f"{what}: the header says {wrong}")


def _whole_slots(slots: Iterable[int]) -> list[Run]:
    return [Run(slot_offset_bytes(slot), SLOT_SIZE_BYTES) for slot in slots]


def _without(specimen: Specimen, lost: Iterable[Run]) -> bytes:
    """The disk with something else in these parts of the region."""
    disk = disk_of(specimen.disk.content)
    for offset_bytes, length_bytes in lost:
        Mapped(disk, specimen.extents).write_from(offset_bytes, b"\xdb" * length_bytes)
    return bytes(disk.content)
