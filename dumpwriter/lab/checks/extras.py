"""Checks of parity and of secondary data: lost frames that come back, and blobs that come back or are named."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

import blake3

from dumpwriter.formats.region import (
    COVERED_PAGES_MAX,
    PAGE_SIZE_BYTES,
    SECONDARY_PIECE,
    SLOT_SIZE_BYTES,
    FrameKind,
    SecondaryPiece,
    SecondaryState,
)
from dumpwriter.frames import slot_offset_bytes
from dumpwriter.lab.chance import CaseKey, Chance
from dumpwriter.lab.checks.forgery import with_digest
from dumpwriter.lab.checks.refuted import RefutedError, must
from dumpwriter.lab.checks.specimen import Specimen, Subject, disk_of, pages_in, written
from dumpwriter.recovery.blobs import LOST, TORN, BlobAssembly
from dumpwriter.secondary import Blob, decode_name, decode_pieces, fill, pack, payload_size_bytes
from dumpwriter.verdict import Reason, Verdict
from vdisk.errors import FormatError
from vdisk.layers.mapped import Mapped

if TYPE_CHECKING:
    from collections.abc import Iterable

COVERED = Subject("covered", dict.fromkeys(range(1100), 4), frozenset(range(300, 310)), slots=48, parity_percent=50)
SIZES = (0, 1, 7, 8, 5000, 63 * 4096 - 200, 63 * 4096, 300_000)
BLOBS = {f"blob.{size}": Chance(CaseKey("blob", 0, size)).take_bytes(size) for size in SIZES}
WITH_BLOBS = Subject("blobs", dict.fromkeys(range(300), 4), slots=24, blobs=BLOBS)
NAMES = (b"a", b"A-1_b.c", b"9", b"x" * 64)
NO_NAMES = (b"", b".hidden", b"-option", b"a/b", b"../a", b"a b", b"a\0b", b"\xff", b"x" * 65, b"a\n")


def lost_frames() -> None:
    """Each slot lost, and each pair: one of a group comes back byte for byte, and what does not is named."""
    specimen = written(COVERED)
    job = specimen.job()
    must(job.plan.sets, "a region with room for parity has none")
    frames = {frame.sequence: frame for frame in job.plan.frames}
    groups = {slot: (one.number, one.group_of(slot)) for one in job.plan.sets for slot in one.frame_slots}
    parity = {slot: (one.number, one.group_of(slot)) for one in job.plan.sets for slot in one.parity_slots}
    slots = [*frames, *parity]
    for lost in [(slot,) for slot in slots] + list(itertools.combinations(slots, 2))[::7]:
        damaged = _without(specimen, lost)
        findings, pages = specimen.read(damaged)
        in_groups = [(groups | parity).get(slot) for slot in lost]
        gone = [slot for slot, own in zip(lost, in_groups, strict=True) if own is None or in_groups.count(own) > 1]
        missing = set().union(*(pages_in(frames[slot].runs) for slot in gone if slot in frames))
        must(not specimen.wrong_pages(pages), f"without slots {lost}: wrong pages")
        must(set(COVERED.ranks) - set(pages) == missing, f"without slots {lost}: other pages are missing")
        must(pages_in(findings.judgement.missing) == missing, f"without slots {lost}: other pages are named")
        must((findings.verdict == Verdict.COMPLETE) == (not missing), f"without slots {lost}: {findings.verdict}")
        if not missing:
            must(findings.reason == Reason.WHOLE, f"without slots {lost}: {findings.reason}")


def damaged_frames() -> None:
    """One that is damaged is rebuilt and counts no more as damaged; by a parity that is false none is rebuilt."""
    specimen = written(COVERED)
    damaged = bytearray(_slot(specimen, 2))
    damaged[30_000] ^= 1
    findings, pages = specimen.read(_with_slot(specimen, 2, bytes(damaged)))
    counts = findings.frames_damaged, findings.reads_failed, findings.frames_rebuilt
    must(findings.verdict == Verdict.COMPLETE and counts == (0, 0, 1), f"a frame that was rebuilt counts as {counts}")
    must(not specimen.wrong_pages(pages), "a frame was rebuilt wrong")
    one = specimen.job().plan.sets[0]
    (parity,) = [slot for slot in one.parity_slots if one.group_of(slot) == one.group_of(2)]
    false = bytearray(_slot(specimen, parity))
    false[2 * 4096 + 20_000] ^= 1  # behind the header block of what is rebuilt by it
    disk = _with_slot(specimen, parity, with_digest(bytes(false)), _without(specimen, [2]))
    findings, pages = specimen.read(disk)
    must(not specimen.wrong_pages(pages), "what a false parity frame makes is believed")
    must(findings.verdict == Verdict.PARTIAL, "a false parity frame makes a dump whole")


def secondary_data() -> None:
    """What was registered comes back; without one of its frames, every blob comes back or is named."""
    specimen = written(WITH_BLOBS)
    findings, pages = specimen.read(specimen.disk.content)
    must({blob.name: blob.content for blob in findings.secondary.found} == BLOBS, "other blobs came back")
    must(not findings.secondary.missing and not specimen.wrong_pages(pages), "a blob is missing from a whole dump")
    for frame in specimen.job().plan.frames:
        if frame.kind == FrameKind.SECONDARY:
            findings, _ = specimen.read(_without(specimen, [frame.sequence]))
            found = {blob.name: blob.content for blob in findings.secondary.found}
            lost = {blob.name for blob in findings.secondary.missing}
            must(found.items() <= BLOBS.items(), "a blob came back as it never was")
            must(lost == BLOBS.keys() - found.keys() and lost, "a blob that is lost is not named")
            must({blob.reason for blob in findings.secondary.missing} == {LOST}, "what is lost is told as torn")


def blobs_that_were_torn() -> None:
    """A blob that was torn when it was registered, one that is not what was registered, and pieces that contradict."""
    content = b"as it was registered"
    row = Blob("one", len(content), _digest(content), 0).record()
    for pieces, state, reason in (
        ([content], SecondaryState.WHOLE, ""),
        ([content], SecondaryState.TORN, TORN),
        ([content[:-1] + b"!"], SecondaryState.WHOLE, LOST),
        ([], SecondaryState.WHOLE, LOST),
    ):
        assembly = BlobAssembly()
        for piece in pieces:
            assembly.take(_payload({"one": piece}))
        outcome = assembly.outcome([row._replace(state=state)])
        told = outcome.missing[0].reason if outcome.missing else ""
        must(told == reason and len(outcome.found) == (not reason), f"a blob is told as {told!r}, not as {reason!r}")
    nameless = BlobAssembly().outcome([row._replace(name=b"../passwd", state=SecondaryState.TORN)])
    must([blob.name for blob in nameless.missing] == [None], "a name that cannot be is told")


def blobs_of_other_sizes() -> None:
    """Shorter or longer than their pieces say, or with another digest in any one byte: none is given back."""
    content = bytes(range(16))
    for sizes in itertools.product((8, 12, 16, 20), repeat=2):
        assembly = BlobAssembly()
        for size_bytes, offset in zip(sizes, (0, 8), strict=True):
            piece = content[offset : min(offset + 8, size_bytes)]
            record = SecondaryPiece(b"one", size_bytes, offset, len(piece))
            assembly.take((SECONDARY_PIECE.pack(record) + piece).ljust(4096, b"\0") if piece else bytes(4096))
        is_whole = sizes[0] == 8 + max(0, min(8, sizes[1] - 8))
        found = assembly.outcome([]).found
        must(len(found) == is_whole, f"a blob of pieces that tell {sizes} bytes is {'not ' * is_whole}given back")
    row = Blob("one", len(content), _digest(content), 0).record()
    for place in range(len(row.digest)):
        assembly = BlobAssembly()
        assembly.take(_payload({"one": content}))
        digest = bytearray(row.digest)
        digest[place] ^= 1
        outcome = assembly.outcome([row._replace(digest=bytes(digest))])
        must(not outcome.found and outcome.missing, f"a blob is believed whose digest differs at {place}")


def payloads_that_cannot_be() -> None:
    """Secondary data from a disk: every length is bounded, and no more is kept than a dump can hold."""
    for name in NAMES:
        must(decode_name(name.ljust(64, b"\0")) == name.decode(), f"{name!r} is no name")
    for name in NO_NAMES:
        must(decode_name(name) is None, f"{name!r} is taken for a name")
    payload = bytearray(_payload({"one": b"12345678"}))
    for offset, size in ((64, 4), (68, 4), (72, 8)):  # size of the blob, offset of the piece, length of the piece
        absurd = bytearray(payload)
        absurd[offset : offset + size] = b"\xff" * size
        must(_is_refused([absurd]), f"a piece is taken whose field at {offset} cannot be")
    behind = bytearray(payload)
    behind[68:72] = (4).to_bytes(4, "little")
    must(_is_refused([behind]), "a piece that ends behind its blob is taken")
    cut = payload[:84]
    must(_is_refused([cut]), "a piece that ends behind its frame is taken")
    must(_is_refused([_payload({f"n{number}": b"x"}) for number in range(33)]), "33 blobs are taken")
    must(not _is_refused([_payload({f"n{number}": b"x"}) for number in range(32)]), "32 blobs are refused")
    sizes = [payload_size_bytes(pieces) for pieces in pack([Blob("large", 1 << 20, bytes(32), 0)])]
    must(max(sizes) == COVERED_PAGES_MAX * PAGE_SIZE_BYTES, f"frames of secondary data take {sizes} bytes")
    overlapping = b"".join(SECONDARY_PIECE.pack(SecondaryPiece(b"one", 16, offset, 8)) + bytes(8) for offset in (0, 4))
    assembly = BlobAssembly()
    assembly.take(overlapping.ljust(4096, b"\0"))
    must(not assembly.outcome([]).found, "pieces that do not follow each other are joined")
    quarter = bytes(1 << 17)
    must(not _is_refused([_payload({f"n{number}": quarter}) for number in range(8)]), "1 MiB of blobs is refused")
    must(_is_refused([_payload({f"n{number}": quarter}) for number in range(9)]), "more than 1 MiB of blobs is taken")


def _is_refused(payloads: Iterable[bytes | bytearray]) -> bool:
    assembly = BlobAssembly()
    try:
        for payload in payloads:
            assembly.take(bytes(payload))
    except FormatError:
        return True
    return False


def _payload(blobs: dict[str, bytes]) -> bytes:
    """Blobs as they would lie in a frame."""
    ends = list(itertools.accumulate(map(len, blobs.values()), initial=0))
    rows = zip(blobs.items(), ends, strict=False)
    content = b"".join(blobs.values())
    (pieces,) = pack([Blob(name, len(part), _digest(part), offset) for (name, part), offset in rows])
    payload = memoryview(bytearray(b"\xdb" * payload_size_bytes(pieces)))

    def read_into(offset_bytes: int, buffer: memoryview) -> None:
        buffer[:] = content[offset_bytes : offset_bytes + buffer.nbytes]

    must(fill(payload, pieces, read_into) == payload.nbytes, "pieces take more or less than was counted")
    found = {piece.name: piece.content for piece in decode_pieces(bytes(payload))}
    if found != blobs:
        raise RefutedError("pieces are not read as they were written")
    return bytes(payload)


def _digest(content: bytes) -> bytes:
    return blake3.blake3(content).digest()


def _slot(specimen: Specimen, slot: int) -> bytes:
    return Mapped(specimen.disk, specimen.extents).read(slot_offset_bytes(slot), SLOT_SIZE_BYTES)


def _with_slot(specimen: Specimen, slot: int, content: bytes, disk: bytes = b"") -> bytes:
    made = disk_of(disk or specimen.disk.content)
    Mapped(made, specimen.extents).write_from(slot_offset_bytes(slot), content)
    return bytes(made.content)


def _without(specimen: Specimen, slots: Iterable[int]) -> bytes:
    """The disk with these slots blank."""
    disk = disk_of(specimen.disk.content)
    for slot in slots:
        Mapped(disk, specimen.extents).write_from(slot_offset_bytes(slot), bytes(SLOT_SIZE_BYTES))
    return bytes(disk.content)
