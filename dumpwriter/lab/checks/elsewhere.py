"""Checks of the other ways by which a dump is read: by searching the disk, from a file, and here and there."""

from __future__ import annotations

from dumpwriter.formats.region import SLOT_SIZE_BYTES, Place
from dumpwriter.frames import slot_offset_bytes
from dumpwriter.lab.checks.forgery import forged, parts_of
from dumpwriter.lab.checks.refuted import must
from dumpwriter.lab.checks.specimen import Pages, Specimen, Subject, disk_of, pages_in, written
from dumpwriter.lab.checks.strangers import slot_of
from dumpwriter.recovery.carving import carve
from dumpwriter.recovery.copies import contents_of
from dumpwriter.recovery.founddump import FoundDump, FrameIndex
from dumpwriter.recovery.opening import WithoutKey
from dumpwriter.recovery.scan import Findings, recover, recover_one_behind_the_other, recover_scattered
from dumpwriter.verdict import Verdict
from vdisk.blockdevice import BLOCK_SIZE_BYTES
from vdisk.errors import RecoveryError
from vdisk.extent import Run
from vdisk.layers.mapped import Mapped
from vdisk.layers.media_faults import MediaFaults

SUBJECT = Subject("elsewhere", dict.fromkeys(range(1100), 4), frozenset(range(300, 310)), slots=48, parity_percent=50)
PLAIN = SUBJECT._replace(name="plain", slots=24, parity_percent=0)


def carved_dumps() -> None:
    """Without any map: whole, without a lost frame, beside an older dump, and never a frame that lies elsewhere."""
    for subject in (SUBJECT, PLAIN):
        specimen = written(subject)
        findings, pages = _carved(bytes(specimen.disk.content))
        must(findings.verdict == Verdict.COMPLETE and set(pages) == set(subject.ranks), "a carved dump is not whole")
        must(not specimen.wrong_pages(pages), "a carved dump has wrong pages")
    specimen, lost = written(SUBJECT), 3
    findings, pages = _carved(_with_slot(specimen, lost, bytes(SLOT_SIZE_BYTES)))
    must(findings.verdict == Verdict.COMPLETE and not specimen.wrong_pages(pages), "a carved frame is not rebuilt")
    _two_dumps()
    must(carve(disk_of(bytes(1 << 20)), _nobody) is None, "a dump is found on a blank disk")


def _two_dumps() -> None:
    """The newest is taken, though more is left of the older one; not one that was only copied to the disk."""
    old, new = PLAIN._replace(generation=1), PLAIN._replace(name="new", ranks=dict.fromkeys(range(60), 4))
    specimen = Specimen(new)
    specimen.disk.content[:] = written(old).disk.content
    specimen.write()
    found = carve(disk_of(specimen.disk.content), _nobody)
    must(found is not None and found[0] == new.identity, "an older dump is found before the newest")
    copied = written(PLAIN).disk.content + written(PLAIN._replace(generation=9)).disk.content
    found = carve(disk_of(copied), _nobody)
    must(found is not None and found[0] == PLAIN.identity, "a copied dump is taken for one that was written there")


def carved_frames_that_cannot_be() -> None:
    """Places that leave the disk or are no blocks, and more or fewer blocks than the frame has."""
    specimen = written(PLAIN)
    true = parts_of(slot_of(specimen, 1))
    size_bytes = len(specimen.disk.content)
    (first_bytes, first_length), *_ = true.places
    total_bytes = sum(place.length_bytes for place in true.places)
    for what, places in (
        ("a place behind the disk", [Place(first_bytes, 4096), Place(size_bytes - 4096, total_bytes - 4096)]),
        ("a place between blocks", [Place(first_bytes, 4096), Place(first_bytes + 512, total_bytes - 4096)]),
        ("half a block", [Place(first_bytes, 4096 + 512), Place(0, total_bytes - 4096 - 512)]),
        ("a place too few", [Place(first_bytes, first_length - 4096)]),
        ("a place too many", [*true.places, Place(0, 8192)]),
        ("another first place", [Place(0, first_length), *true.places[1:]]),
    ):
        slot = forged(true.lying_at(places))
        _, pages = _carved(_with_slot(specimen, 1, slot))
        lost = pages_in(specimen.job().plan.frames[1].runs)
        must(not lost & set(pages) and not specimen.wrong_pages(pages), f"a carved frame with {what} is believed")


def carving_past_bad_blocks() -> None:
    """A block that cannot be read costs the frame that it is in, and no other."""
    specimen = written(PLAIN)
    for sequence in (1, 4):
        frame = specimen.job().plan.frames[sequence]
        (place, _), *_ = specimen.extents.runs(frame.region_offset_bytes + 8192, 4096)
        disk = MediaFaults(disk_of(specimen.disk.content), lambda place=place: [Run(place, 512)])  # type: ignore[misc]
        found, sink = carve(disk, _nobody), Pages()
        must(found is not None, "nothing is found beside a bad block")
        if found is not None:
            recover_scattered(disk, *found, sink, _nobody)
            must(set(sink.pages) == set(PLAIN.ranks) - pages_in(frame.runs), "a bad block costs another frame")


def carved_frames_that_changed() -> None:
    """A header block that is true before a payload that is not: the search sees only the first."""
    specimen = written(PLAIN)
    frame = specimen.job().plan.frames[1]
    _, pages = _carved(_with_slot(specimen, 1, _flipped(slot_of(specimen, 1))))
    must(set(pages) == set(PLAIN.ranks) - pages_in(frame.runs), "a carved frame with another payload is believed")


def files_of_frames() -> None:
    """Frames one behind the other, with rubbish between them, cut short, and with one of them damaged."""
    specimen = written(PLAIN)
    frames = specimen.job().plan.frames
    pieces = [_frame(specimen, frame.sequence) for frame in frames]
    behind = {page for frame in frames[3:] for page in pages_in(frame.runs)}
    whole = b"".join(piece + b"\xdb" * 4096 * (number % 3) for number, piece in enumerate(pieces))
    for what, content, lost in (
        ("whole", whole, set[int]()),
        ("cut short", b"".join(pieces)[: sum(map(len, pieces[:3])) - 4096], pages_in(frames[2].runs) | behind),
        ("turned round", b"".join(reversed(pieces)), set[int]()),
        ("damaged", b"".join(pieces).replace(pieces[2], pieces[2][:-1] + b"!"), pages_in(frames[2].runs)),
    ):
        sink = Pages()
        findings = recover_one_behind_the_other(disk_of(content), specimen.identity, None, sink, _nobody)
        must(not findings.reads_failed, f"a file of frames, {what}: read where nothing is")
        must(set(sink.pages) == set(PLAIN.ranks) - lost, f"a file of frames, {what}: other pages")
        must(not specimen.wrong_pages(sink.pages), f"a file of frames, {what}: wrong pages")


def dumps_read_here_and_there() -> None:
    """Each page by its number, those too that were rebuilt; one that changed since it was found is an error."""
    specimen = written(SUBJECT)
    for content in (bytes(specimen.disk.content), _with_slot(specimen, 3, bytes(SLOT_SIZE_BYTES))):
        dump = _found(specimen, content, content)
        for page in (*range(0, 1100, 37), 299, 300, 309, 310, 1099):
            buffer = memoryview(bytearray(3 * 4096 if page < 1098 else 4096))
            dump.read_into(page, buffer)
            expected = b"".join(SUBJECT.page(page + at) for at in range(buffer.nbytes // 4096))
            must(bytes(buffer) == expected, f"page {page} is read wrong")
    for changed in (slot_of(written(SUBJECT._replace(name="other")), 1), _flipped(slot_of(specimen, 1))):
        dump = _found(specimen, bytes(specimen.disk.content), _with_slot(specimen, 1, changed))
        must(_is_refused(dump, 5), "a page is given of a frame that is not any more what was found")


def _is_refused(dump: FoundDump, page: int) -> bool:
    try:
        dump.read_into(page, memoryview(bytearray(4096)))
    except RecoveryError:
        return True
    return False


def _found(specimen: Specimen, content: bytes, now: bytes) -> FoundDump:
    """The dump that was found in one content of the disk, read from what is there now."""
    index = FrameIndex(WithoutKey())
    findings = recover(Mapped(disk_of(content), specimen.extents), specimen.identity, Pages(), opener=index)
    return FoundDump(disk_of(now), specimen.identity, index, contents_of(findings))


def _carved(content: bytes) -> tuple[Findings, dict[int, bytes]]:
    disk, sink = disk_of(content), Pages()
    found = carve(disk, _nobody)
    must(found is not None, "no frame is found")
    assert found is not None
    return recover_scattered(disk, *found, sink, _nobody), sink.pages


def _flipped(slot: bytes) -> bytes:
    """With one bit of the payload wrong."""
    made = bytearray(slot)
    made[BLOCK_SIZE_BYTES + 20_000] ^= 1
    return bytes(made)


def _frame(specimen: Specimen, sequence: int) -> bytes:
    slot = slot_of(specimen, sequence)
    return slot[: BLOCK_SIZE_BYTES + parts_of(slot).header.payload_size_bytes]


def _with_slot(specimen: Specimen, sequence: int, slot: bytes) -> bytes:
    disk = disk_of(specimen.disk.content)
    Mapped(disk, specimen.extents).write_from(slot_offset_bytes(sequence), slot)
    return bytes(disk.content)


def _nobody(done: int, total: int) -> None:
    """Takes the progress."""
