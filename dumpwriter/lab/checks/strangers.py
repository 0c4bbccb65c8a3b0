"""Checks of what is believed: frames that were altered, moved or made up, and those of another dump."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dumpwriter.formats.region import (
    FRAME_HEADER,
    PAGES_MAX,
    RUNS_MAX,
    SLOT_SIZE_BYTES,
    FrameKind,
    PageRun,
    Place,
)
from dumpwriter.frames import slot_offset_bytes
from dumpwriter.lab.checks.forgery import DIGEST, Parts, forged, parts_of, with_checksums
from dumpwriter.lab.checks.refuted import must
from dumpwriter.lab.checks.specimen import Pages, Specimen, Subject, disk_of, pages_in, written
from dumpwriter.recovery.scan import recover
from dumpwriter.recovery.slots import true_frame
from dumpwriter.verdict import Verdict
from vdisk.blockdevice import BLOCK_SIZE_BYTES
from vdisk.extent import Extent, ExtentMap
from vdisk.layers.mapped import Mapped

if TYPE_CHECKING:
    from collections.abc import Iterator

SUBJECT = Subject("to find", dict.fromkeys(range(200), 4), frozenset(range(150, 170)))
FRAME = 1  # whose slot gets the forgeries: of data, in two pieces


def altered_frames() -> None:
    """Each field of the header block, and bytes all over the payload, with every check sum made to fit."""
    specimen = written(SUBJECT)
    for sequence, frame in enumerate(specimen.job().plan.frames):
        slot = slot_of(specimen, sequence)
        payload_bytes = parts_of(slot).header.payload_size_bytes
        fields = [field.offset_bytes for field in FRAME_HEADER.fields if field.name not in ("magic", "digest")]
        behind = [FRAME_HEADER.size_bytes, FRAME_HEADER.size_bytes + 20, 200, BLOCK_SIZE_BYTES - 5]
        edges = [BLOCK_SIZE_BYTES, BLOCK_SIZE_BYTES + payload_bytes // 2, BLOCK_SIZE_BYTES + payload_bytes - 1]
        for place in fields + behind + (edges if payload_bytes else []):
            altered = bytearray(slot)
            altered[place] ^= 1
            if FRAME_HEADER.field("payload_crc32c").offset_bytes != place:
                altered[:] = with_checksums(bytes(altered))
            _must_lack(specimen, sequence, bytes(altered), f"frame {sequence}, altered at {place}")
        must(frame.sequence == sequence, "frames are not in the order of their slots")


def digests_that_differ() -> None:
    """In any one byte, in the frame as in what it was digested over: no part of a digest is enough."""
    specimen = written(SUBJECT)
    slot = slot_of(specimen, FRAME)
    for place in range(DIGEST.start, DIGEST.stop):
        for bit in (0x01, 0x80):
            altered = bytearray(slot)
            altered[place] ^= bit
            view = memoryview(bytearray(with_checksums(bytes(altered))))
            frame = true_frame(view, specimen.identity, FRAME, specimen.extents)
            must(frame is None, f"a frame is believed whose digest differs at {place}")
    must(true_frame(memoryview(bytearray(slot)), specimen.identity, FRAME, specimen.extents), "a frame is not believed")


def frames_of_other_dumps() -> None:
    """An older generation of the same dump, another dump of the same generation, and both under a new one."""
    for other in (SUBJECT._replace(generation=1), SUBJECT._replace(name="another"), Subject("older", SUBJECT.ranks)):
        older = written(other)
        findings, pages = Specimen(SUBJECT).read(older.disk.content)
        must(findings.verdict == Verdict.NONE and not pages, f"a dump of {other.name} gave {len(pages)} pages")
        must(findings.header is None, f"the header of {other.name} explains another dump")
        specimen = written(SUBJECT)
        for sequence in range(len(specimen.job().plan.frames)):
            _must_lack(specimen, sequence, slot_of(older, sequence), f"frame {sequence} of {other.name}")


def frames_in_other_slots() -> None:
    """True frames in each other's slots, and in slots behind the plan."""
    specimen = written(SUBJECT)
    frames = specimen.job().plan.frames
    for sequence in range(len(frames)):
        for other in range(len(frames)):
            if other != sequence:
                _must_lack(specimen, sequence, slot_of(specimen, other), f"frame {other} in slot {sequence}")


def frames_that_moved() -> None:
    """Each piece of the region copied to where another disk's region is: believed is what lies where it was written."""
    specimen = written(SUBJECT)
    for moved in range(len(specimen.extents.extents)):
        extents, content = _with_piece_moved(specimen, moved)
        sink = Pages()
        recover(Mapped(disk_of(content), extents), specimen.identity, sink)
        stayed = set()
        for frame in specimen.job().plan.frames:
            place = frame.region_offset_bytes, _size_bytes(specimen, frame.sequence)
            if list(extents.runs(*place)) == list(specimen.extents.runs(*place)):
                stayed |= pages_in(frame.runs)
        must(set(sink.pages) == stayed, f"with piece {moved} elsewhere, other frames are believed")


def pages_that_come_twice() -> None:
    """A true frame that claims the pages of the one behind it: whichever comes first, none is handed over twice."""
    specimen = written(SUBJECT)
    parts, (behind,) = (parts_of(slot_of(specimen, FRAME)), specimen.job().plan.frames[FRAME + 1].runs)
    count = len(parts.payload) // BLOCK_SIZE_BYTES
    for first_page in (behind.first_page, behind.first_page + 1, behind.first_page - 1):
        slot = forged(parts.holding([PageRun(first_page, count)]))
        findings, pages = specimen.read(_with_slot(specimen, FRAME, slot))
        must(pages_in(findings.present) == set(pages), "other pages are given than are said to be there")


def frames_that_cannot_be() -> None:
    """Frames that prove true, as a broken writer makes them, and say what no frame can say: none is taken for one."""
    specimen = written(SUBJECT)
    for what, parts in _absurd(specimen, parts_of(slot_of(specimen, FRAME))):
        _must_lack(specimen, FRAME, forged(parts), f"a frame with {what}")
    last = PAGES_MAX - 1
    parts = parts_of(slot_of(specimen, FRAME))
    far = forged(parts.holding([PageRun(last + 1 - len(parts.payload) // 4096, len(parts.payload) // 4096)]))
    _, pages = specimen.read(_with_slot(specimen, FRAME, far))
    must(last in pages, "the last page that a machine can have is not believed")


def _absurd(specimen: Specimen, true: Parts) -> Iterator[tuple[str, Parts]]:
    extents, count = specimen.extents, len(true.payload) // BLOCK_SIZE_BYTES
    one = [PageRun(5000, count)]  # pages that no true frame has
    yield "another version", true.changed(version=true.header.version + 1)
    yield "an unknown kind", true.changed(kind=77)
    yield "an unknown kind and no payload", true.changed(kind=77).resized(b"", extents)
    yield "more places than there can be", true.changed(place_count=0xFFFF)
    yield "more runs than there can be", true.changed(run_count=0xFFFF)
    many = [PageRun(2 * page, 1) for page in range(RUNS_MAX + 1)]
    yield "a run too many", true.holding(many).changed(kind=FrameKind.ZEROS).resized(b"", extents)
    yield "a payload longer than a slot", true.holding([PageRun(5000, 65)]).resized(bytes(SLOT_SIZE_BYTES), extents)
    yield "a payload of half blocks", true.resized(true.payload[:-512], extents)
    yield "metadata and pages", true.changed(kind=FrameKind.META)
    yield "secondary data and pages", true.changed(kind=FrameKind.SECONDARY)
    yield "zeros and a payload", true.changed(kind=FrameKind.ZEROS)
    yield "no pages", true.holding([])
    yield "an empty run", true.holding([*one, PageRun(6000, 0)])
    yield "fewer pages than payload", true.holding([PageRun(5000, count - 1)])
    yield "more pages than payload", true.holding([PageRun(5000, count + 1)])
    yield "pages that no machine has", true.holding([PageRun(PAGES_MAX + 7, count)])
    yield "a page that no machine has", true.holding([PageRun(PAGES_MAX - count + 1, count)])
    yield "a seal that is none", true.changed(seal_size_bytes=1)
    yield "a seal longer than its block", true.changed(seal_size_bytes=0xFFFF_FFFF)
    elsewhere = [Place(*run) for run in extents.runs(slot_offset_bytes(FRAME + 1), BLOCK_SIZE_BYTES * (count + 1))]
    yield "another slot's place", true.lying_at(elsewhere).changed(region_offset_bytes=slot_offset_bytes(FRAME + 1))
    yield "another number", true.changed(sequence=FRAME + 1)
    beyond = slot_offset_bytes(1000)
    yield "a place behind the region", true.changed(sequence=1000, region_offset_bytes=beyond)
    yield "no place", true.lying_at([])
    yield "one place too many", true.lying_at([*true.places, Place(0, BLOCK_SIZE_BYTES)])
    yield "another last place", true.lying_at([*true.places[:-1], Place(0, true.places[-1].length_bytes)])
    yield "another first place", true.lying_at([Place(0, true.places[0].length_bytes), *true.places[1:]])


def slot_of(specimen: Specimen, sequence: int) -> bytes:
    """As it lies."""
    return Mapped(disk_of(specimen.disk.content), specimen.extents).read(slot_offset_bytes(sequence), SLOT_SIZE_BYTES)


def _with_slot(specimen: Specimen, sequence: int, slot: bytes) -> bytes:
    disk = disk_of(specimen.disk.content)
    Mapped(disk, specimen.extents).write_from(slot_offset_bytes(sequence), slot)
    return bytes(disk.content)


def _must_lack(specimen: Specimen, sequence: int, slot: bytes, what: str) -> None:
    """With this in the slot, recovery gives all frames but the one that was there."""
    frame = specimen.job().plan.frames[sequence]
    findings, pages = specimen.read(_with_slot(specimen, sequence, slot))
    must(not specimen.wrong_pages(pages), f"{what}: wrong pages")
    must(set(pages) == set(specimen.subject.ranks) - pages_in(frame.runs), f"{what}: believed, or believed too little")
    must(pages_in(findings.present) == set(pages), f"{what}: other pages are given than are said to be there")


def _size_bytes(specimen: Specimen, sequence: int) -> int:
    return BLOCK_SIZE_BYTES + parts_of(slot_of(specimen, sequence)).header.payload_size_bytes


def _with_piece_moved(specimen: Specimen, moved: int) -> tuple[ExtentMap, bytes]:
    """The region with one of its pieces behind all that is on the disk, its content copied there."""
    rows, content = list(specimen.extents.extents), bytes(specimen.disk.content)
    logical, place, length = rows[moved]
    rows[moved] = Extent(logical, len(content), length)
    return ExtentMap(rows), content + content[place : place + length]
