"""Checks of the dump header, which only explains: believed where it was written, of no weight against frames."""

from __future__ import annotations

from typing import Any

from dumpwriter.formats.region import DUMP_HEADER, HEADER_SIZE_BYTES, DumpEnding, DumpLevel, DumpState
from dumpwriter.frames import decode_dump_header, encode_dump_header
from dumpwriter.lab.checks.forgery import sector_with_checksum
from dumpwriter.lab.checks.refuted import must
from dumpwriter.lab.checks.specimen import Pages, Specimen, Subject, disk_of, written
from dumpwriter.recovery.headers import header_blocks, newest_header
from dumpwriter.recovery.scan import read_metadata, recover
from dumpwriter.verdict import Reason, Verdict
from vdisk.blockdevice import BLOCK_SIZE_BYTES
from vdisk.extent import Run
from vdisk.layers.mapped import Mapped
from vdisk.layers.media_faults import MediaFaults

SUBJECT = Subject("explained", dict.fromkeys(range(200), 4), slots=14)


def headers_that_are_none() -> None:
    """Each byte altered with the check sum made anew; copies in each other's place; another dump's; another version."""
    specimen = written(SUBJECT)
    (first, second), size_bytes = _copies(specimen), HEADER_SIZE_BYTES
    sector = bytes(specimen.disk.content[first : first + size_bytes])
    for at in (*range(8, DUMP_HEADER.size_bytes), size_bytes - 1):
        altered = bytearray(sector)
        altered[at] ^= 0x10
        made = sector_with_checksum(bytes(altered)) if at < DUMP_HEADER.size_bytes else bytes(altered)
        must(decode_dump_header(made, specimen.identity, first) is None, f"a header altered at {at} is believed")
        must(decode_dump_header(bytes(altered), None, None) is None, f"a header damaged at {at} is believed")
    for at, place in ((first, second), (second, first)):
        moved = bytes(specimen.disk.content[at : at + size_bytes])
        must(decode_dump_header(moved, specimen.identity, place) is None, "a header is believed in another place")
        must(decode_dump_header(moved, specimen.identity, at) is not None, "a header is not believed in its own place")
    header = DUMP_HEADER.unpack_from(sector)
    newer = encode_dump_header(header._replace(version=header.version + 1))
    must(decode_dump_header(newer, specimen.identity, first) is None, "a header of another version is believed")
    for identity in (specimen.identity._replace(generation=9), specimen.identity._replace(dump_id=bytes(16))):
        must(decode_dump_header(sector, identity, first) is None, "the header of another dump is believed")


def one_copy_is_enough() -> None:
    """Either copy damaged or unreadable, and each of them older than the other: the one that knows most explains."""
    specimen = written(SUBJECT)
    region = Mapped(specimen.disk, specimen.extents)
    must(len(header_blocks(region, specimen.identity)) == 2, "a header is not found in both its copies")
    for place in _copies(specimen):
        damaged = disk_of(specimen.disk.content)
        damaged.write_from(place, bytes(BLOCK_SIZE_BYTES))
        unreadable = MediaFaults(specimen.disk, lambda place=place: [Run(place, 512)])  # type: ignore[misc]
        older = disk_of(specimen.disk.content)
        header = DUMP_HEADER.unpack_from(older.content, place)
        older.write_from(place, encode_dump_header(header._replace(state=DumpState.WRITING)))
        for disk in (damaged, unreadable, older):
            found = newest_header(Mapped(disk, specimen.extents), specimen.identity)
            must(found is not None and found.state == DumpState.WRITTEN, f"without the copy at {place}, none explains")


def headers_that_lie() -> None:
    """Whatever a header says, it makes no dump better, and costs no page that its slots can have."""
    specimen = written(SUBJECT)
    frames = len(specimen.job().plan.frames)
    for fields in ({"frames_planned": 0, "slots_planned": 0}, {"slots_planned": 1 << 31}, {"pages_wanted": 1}):
        findings, pages = specimen.read(_saying(specimen, specimen.disk.content, **fields))
        must(findings.verdict == Verdict.COMPLETE and len(pages) == len(SUBJECT.ranks), f"a header with {fields}")
    half = bytearray(specimen.disk.content)
    for run in specimen.extents.runs(4096 + 2 * 65 * 4096, (frames - 3) * 65 * 4096):
        half[run.physical_bytes : run.physical_bytes + run.length_bytes] = bytes(run.length_bytes)
    _, there = specimen.read(half)
    half_told: tuple[tuple[dict[str, int], Reason], ...] = (
        ({"pages_planned": len(there)}, Reason.REGION_TOO_SMALL),
        ({"pages_planned": len(there) + 1}, Reason.CUT),
        ({"pages_planned": len(there) - 1}, Reason.CUT),
        ({"ending": DumpEnding.TIME_BUDGET}, Reason.TIME_BUDGET),
        ({"frames_failed": 2}, Reason.FRAMES_LOST),
        ({"frames_failed": 2, "state": DumpState.WRITING}, Reason.CUT),
        ({}, Reason.CUT),
    )
    for said, reason in half_told:
        findings, pages = specimen.read(_saying(specimen, half, **said))
        must(findings.verdict == Verdict.PARTIAL and pages == there, f"half a dump with a header that says {said}")
        must(findings.reason == reason, f"half a dump with a header that says {said}: {findings.reason}")


def reasons_for_damage() -> None:
    """Frames that are damaged or cannot be read are told apart from a cut, and counted."""
    specimen = written(SUBJECT)
    (place, _), *_ = specimen.extents.runs(4096 + 65 * 4096 + 8192, 512)
    damaged = bytearray(specimen.disk.content)
    damaged[place] ^= 1
    findings, _ = specimen.read(damaged)
    told = (findings.reason, findings.frames_damaged, findings.reads_failed)
    must(told == (Reason.FRAMES_LOST, 1, 0), f"a damaged frame is told as {told}")
    for at, expected in ((place, (1, 1)), (place - 8192, (0, 1))):
        disk = MediaFaults(specimen.disk, lambda at=at: [Run(at, 512)])  # type: ignore[misc]
        findings = recover(Mapped(disk, specimen.extents), specimen.identity, Pages())
        counts = findings.frames_damaged, findings.reads_failed
        must(findings.reason == Reason.FRAMES_LOST and counts == expected, f"a frame that cannot be read: {counts}")


def dumps_of_nothing() -> None:
    """Memory of which the level asks for no page: metadata is there, no page is missing, and it is no dump."""
    specimen = written(SUBJECT._replace(ranks=dict.fromkeys(range(20), 5), level=DumpLevel.KERNEL))
    findings, pages = specimen.read(specimen.disk.content)
    told = findings.verdict, findings.reason, len(pages)
    must(told == (Verdict.NONE, Reason.NO_PAGES, 0), f"a dump that was to hold no page is told as {told}")
    must(findings.metadata is not None and not findings.judgement.missing, "of a dump of no page, some are missing")


def metadata_from_any_copy() -> None:
    """Of the first frame or of the last: what it says is the same."""
    specimen = written(SUBJECT)
    frames = specimen.job().plan.frames
    for lost in ((), (frames[0],), (frames[-1],), (frames[0], frames[-1])):
        disk = disk_of(specimen.disk.content)
        for frame in lost:
            Mapped(disk, specimen.extents).write_from(frame.region_offset_bytes, bytes(BLOCK_SIZE_BYTES))
        found = read_metadata(Mapped(disk, specimen.extents), specimen.identity)
        must(found == (specimen.metadata() if len(lost) < 2 else None), f"metadata without {len(lost)} copies")


def _copies(specimen: Specimen) -> list[int]:
    offsets = (0, specimen.extents.size_bytes - BLOCK_SIZE_BYTES)
    return [next(specimen.extents.runs(offset, BLOCK_SIZE_BYTES)).physical_bytes for offset in offsets]


def _saying(specimen: Specimen, content: bytes | bytearray, **fields: Any) -> bytes:
    """The disk with both headers changed, and true as far as check sum and digest go."""
    disk = bytearray(content)
    for place in _copies(specimen):
        block = encode_dump_header(DUMP_HEADER.unpack_from(disk, place)._replace(**fields))
        disk[place : place + BLOCK_SIZE_BYTES] = block
    return bytes(disk)
