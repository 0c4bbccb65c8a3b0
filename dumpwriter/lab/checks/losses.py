"""Checks of frames that are lost in each way in which a frame can be, under each way of reading a dump with parity.

What must come out follows from what was lost: one frame of a group comes back, and is then neither damage nor a read
that failed; of two, both are missing, and counted as what befell them. Every frame lies in several pieces, parity too.
"""

from __future__ import annotations

import contextlib
import itertools
from collections import defaultdict
from typing import TYPE_CHECKING, NamedTuple

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from dumpwriter.cipher import GcmSealer
from dumpwriter.dumpkeys import new_seal
from dumpwriter.formats.region import SLOT_SIZE_BYTES, FrameKind
from dumpwriter.frames import slot_offset_bytes
from dumpwriter.lab.checks.forgery import parts_of
from dumpwriter.lab.checks.refuted import must
from dumpwriter.lab.checks.specimen import Pages, Specimen, Subject, pages_in, written
from dumpwriter.recovery.carving import carve
from dumpwriter.recovery.copies import contents_of
from dumpwriter.recovery.founddump import FoundDump, FrameIndex
from dumpwriter.recovery.opening import WithoutKey
from dumpwriter.recovery.scan import recover, recover_scattered
from dumpwriter.recovery.unsealing import WithPrivateKey
from dumpwriter.sealing import UNSEALED
from dumpwriter.verdict import Verdict
from vdisk.blockdevice import BLOCK_SIZE_BYTES, SECTOR_SIZE_BYTES, BlockDevice
from vdisk.extent import Run
from vdisk.layers.mapped import Mapped
from vdisk.layers.media_faults import MediaFaults

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from dumpwriter.frames import FramePlan
    from dumpwriter.recovery.opening import Opener
    from dumpwriter.recovery.scan import Findings

# Frames of data, the last of one page, frames of zeros, and one group; many frames, and more than eight groups.
SUBJECT = Subject("losses", dict.fromkeys(range(210), 4), frozenset(range(150, 170)), 16, parity_percent=50, pieces=130)
LARGE = Subject("many losses", dict.fromkeys(range(25 * 63), 4), slots=44, parity_percent=50, pieces=300)
KEY = X25519PrivateKey.from_private_bytes(bytes([4]) * 32)


class Counts(NamedTuple):
    """What recovery counts of a frame that it does not have."""

    frames_damaged: int = 0
    reads_failed: int = 0


class Way(NamedTuple):
    """How a frame is lost: what is done to the disk, given the frame's runs, and what recovery counts then."""

    name: str
    lose: Callable[[bytearray, list[Run]], list[Run]]  # the runs that are bad then
    counts: Counts
    counts_carved: Counts  # a search passes over what has no header block
    needs_payload: bool = False


def _blank(content: bytearray, runs: list[Run]) -> list[Run]:
    for start, length in runs:
        content[start : start + length] = bytes(length)
    return []


def _flip(content: bytearray, runs: list[Run]) -> list[Run]:
    content[runs[-1].physical_bytes + runs[-1].length_bytes - 1] ^= 1
    return []


def _spoil_header(_: bytearray, runs: list[Run]) -> list[Run]:
    return [runs[0]._replace(length_bytes=SECTOR_SIZE_BYTES)]


def _spoil_payload(_: bytearray, runs: list[Run]) -> list[Run]:
    start, length = runs[-1]
    return [runs[-1]._replace(physical_bytes=start + length - SECTOR_SIZE_BYTES, length_bytes=SECTOR_SIZE_BYTES)]


WAYS = (
    Way("is blank", _blank, Counts(), Counts()),
    Way("has an unreadable header", _spoil_header, Counts(reads_failed=1), Counts()),
    Way("has another payload", _flip, Counts(frames_damaged=1), Counts(frames_damaged=1), needs_payload=True),
    Way("has an unreadable payload", _spoil_payload, Counts(1, 1), Counts(1, 1), needs_payload=True),
)


class Reading(NamedTuple):
    """A way of reading a dump. What gives no page tells which there are."""

    name: str
    is_sealed: bool
    opener: Callable[[], Opener] = WithoutKey
    is_carved: bool = False

    @property
    def gives_pages(self) -> bool:
        return not self.is_sealed or self.opener is not WithoutKey


READINGS = (
    Reading("read", is_sealed=False),
    Reading("read without its key", is_sealed=True),
    Reading("read with its key", is_sealed=True, opener=lambda: WithPrivateKey(KEY)),
    Reading("carved", is_sealed=False, is_carved=True),
    Reading("carved with its key", is_sealed=True, opener=lambda: WithPrivateKey(KEY), is_carved=True),
)


def frames_lost_in_each_way() -> None:
    for reading in READINGS:
        specimen = _specimen(SUBJECT, reading)
        for frame in specimen.job().plan.frames:
            for way in _ways_for(frame):
                _must_come_back(specimen, reading, {frame.sequence: way})


def frames_lost_in_all_groups() -> None:
    """One in each group of each set, all at once: so many can come back."""
    for reading, way in zip(READINGS, itertools.cycle(WAYS), strict=False):
        specimen = _specimen(LARGE, reading)
        lost = [slots[-2] for slots in _groups(specimen).values()]
        must(len(lost) > 8, f"{len(lost)} groups cover all frames")
        _must_come_back(specimen, reading, dict.fromkeys(lost, way))


def frames_lost_in_pairs() -> None:
    """A frame of data in each way, and another one of its group: both are missing, and counted."""
    for reading in READINGS:
        specimen = _specimen(SUBJECT, reading)
        frames = [frame for frame in specimen.job().plan.frames if frame.kind == FrameKind.PAGES]
        for frame, beside in itertools.pairwise(frames):
            for way, other in itertools.product(WAYS, repeat=2):
                _must_be_missing(specimen, reading, {frame.sequence: way, beside.sequence: other})


def pages_of_lost_frames() -> None:
    """Read one by one: each time out of the parity, wherever that lies, and out of what else is in the group."""
    for reading in READINGS[0], READINGS[2]:
        specimen = _specimen(SUBJECT, reading)
        for frame, way in itertools.product(specimen.job().plan.frames, WAYS):
            if frame.kind == FrameKind.PAGES:
                with _losing(specimen, {frame.sequence: way}) as disk:
                    index = FrameIndex(reading.opener())
                    findings = recover(Mapped(disk, specimen.extents), specimen.identity, Pages(), opener=index)
                    dump = FoundDump(disk, specimen.identity, index, contents_of(findings))
                    for page in sorted(pages_in(frame.runs))[::9]:
                        content = bytearray(BLOCK_SIZE_BYTES)
                        dump.read_into(page, memoryview(content))
                        must(content == SUBJECT.page(page), f"page {page} of a frame that was rebuilt is read wrong")


def _must_come_back(specimen: Specimen, reading: Reading, lost: Mapping[int, Way]) -> None:
    findings, pages = _read(specimen, reading, lost)
    what = _told(reading, lost)
    must(findings.verdict == Verdict.COMPLETE, f"{what}: {findings.verdict}")
    must(pages_in(findings.present) == set(specimen.subject.ranks), f"{what}: other pages are there")
    must(set(pages) == set(specimen.subject.ranks if reading.gives_pages else ()), f"{what}: other pages come out")
    must(not specimen.wrong_pages(pages), f"{what}: wrong pages")
    must(findings.frames_rebuilt == len(lost), f"{what}: {findings.frames_rebuilt} frames are told as rebuilt")
    counts = Counts(findings.frames_damaged, findings.reads_failed)
    must(counts == Counts(), f"{what}, and come back: {counts}")


def _must_be_missing(specimen: Specimen, reading: Reading, lost: Mapping[int, Way]) -> None:
    findings, pages = _read(specimen, reading, lost)
    what = _told(reading, lost)
    frames = [frame for frame in specimen.job().plan.frames if frame.sequence in lost]
    missing = set().union(*(pages_in(frame.runs) for frame in frames))
    must(findings.verdict == Verdict.PARTIAL, f"{what}: {findings.verdict}")
    must(set(specimen.subject.ranks) - pages_in(findings.present) == missing, f"{what}: other pages are missing")
    must(not specimen.wrong_pages(pages) and not findings.frames_rebuilt, f"{what}: wrong pages, or rebuilt ones")
    each = [way.counts_carved if reading.is_carved else way.counts for way in lost.values()]
    counts = Counts(findings.frames_damaged, findings.reads_failed)
    expected = Counts(sum(one.frames_damaged for one in each), sum(one.reads_failed for one in each))
    must(counts == expected, f"{what}: counted as {counts}, not as {expected}")


def _read(specimen: Specimen, reading: Reading, lost: Mapping[int, Way]) -> tuple[Findings, dict[int, bytes]]:
    sink = Pages()
    with _losing(specimen, lost) as disk:
        if not reading.is_carved:
            region = Mapped(disk, specimen.extents)
            return recover(region, specimen.identity, sink, opener=reading.opener()), sink.pages
        found = carve(disk, _nobody)
        assert found is not None, "a disk full of frames"
        return recover_scattered(disk, *found, sink, _nobody, reading.opener()), sink.pages


@contextlib.contextmanager
def _losing(specimen: Specimen, lost: Mapping[int, Way]) -> Iterator[BlockDevice]:
    """The disk without these slots, for a time: copying it would take longer than reading it."""
    region, bad = Mapped(specimen.disk, specimen.extents), list[Run]()
    slots = {slot: region.read(slot_offset_bytes(slot), SLOT_SIZE_BYTES) for slot in lost}
    for slot, content in slots.items():
        size_bytes = BLOCK_SIZE_BYTES + parts_of(content).header.payload_size_bytes
        bad += lost[slot].lose(specimen.disk.content, list(specimen.extents.runs(slot_offset_bytes(slot), size_bytes)))
    yield MediaFaults(specimen.disk, lambda: bad)
    for slot, content in slots.items():
        region.write_from(slot_offset_bytes(slot), content)


def _specimen(subject: Subject, reading: Reading) -> Specimen:
    sealer = GcmSealer(new_seal(KEY.public_key())) if reading.is_sealed else UNSEALED
    return written(subject._replace(sealer=sealer))


def _ways_for(frame: FramePlan) -> tuple[Way, ...]:
    return tuple(way for way in WAYS if frame.kind != FrameKind.ZEROS or not way.needs_payload)


def _groups(specimen: Specimen) -> dict[tuple[int, int], list[int]]:
    """The planned frames of each set and group, by their slots."""
    groups = defaultdict(list)
    for one in specimen.job().plan.sets:
        for slot in one.frame_slots:
            groups[one.number, one.group_of(slot)].append(slot)
    return groups


def _told(reading: Reading, lost: Mapping[int, Way]) -> str:
    return f"{reading.name}, " + " and ".join(f"slot {slot} {way.name}" for slot, way in list(lost.items())[:2])


def _nobody(done: int, total: int) -> None:
    """Takes the progress."""
