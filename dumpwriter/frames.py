"""Frames: from pages to self-describing bytes, and back with nothing taken on trust. Pure.

The fast check (CRC32C) throws out noise; the digest decides. It covers the header block with the dump's id, its
generation, the slot and every place on the disk, and the payload: a stale, misdirected or torn frame cannot pass.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, NamedTuple

import blake3
import crc32c

from dumpwriter.formats.region import (
    COVERED_SLOT,
    DUMP_HEADER,
    FIRST_SLOT_OFFSET_BYTES,
    FRAME_HEADER,
    FRAME_MAGIC,
    FRAME_SEAL,
    HEADER_MAGIC,
    HEADER_SIZE_BYTES,
    PAGE_RUN,
    PAGE_SIZE_BYTES,
    PAGES_MAX,
    PLACE,
    PLACES_MAX,
    RUNS_MAX,
    SLOT_SIZE_BYTES,
    VERSION,
    WRAPPED_SIZE_BYTES_MAX,
    CoveredSlot,
    DumpHeader,
    FrameHeader,
    FrameKind,
    FrameSeal,
    PageRun,
    Place,
)
from vdisk.blockdevice import BLOCK_SIZE_BYTES
from vdisk.errors import FormatError
from vdisk.layout import seal, unseal

if TYPE_CHECKING:
    from collections.abc import Sequence

    from dumpwriter.sealing import Sealer
    from vdisk.extent import ExtentMap

_CRC = struct.Struct("<I")
_CRC_OFFSET_BYTES = BLOCK_SIZE_BYTES - _CRC.size
_PAYLOAD_CRC_OFFSET_BYTES = FRAME_HEADER.field("payload_crc32c").offset_bytes
_DIGEST_OFFSET_BYTES = FRAME_HEADER.size_bytes - 32


class DumpIdentity(NamedTuple):
    """Which dump a byte belongs to. Fresh at every arming; nothing of another dump carries it."""

    dump_id: bytes
    generation: int


class FramePlan(NamedTuple):
    """What one frame is to hold, and in which slot. A PARITY frame has no runs, and covers the frames in some slots.

    Of what is no memory, `part` says which: the frame's number among those of its kind.
    """

    sequence: int
    kind: FrameKind
    runs: tuple[PageRun, ...] = ()
    part: int = 0
    covers: tuple[int, ...] = ()

    @property
    def region_offset_bytes(self) -> int:
        return slot_offset_bytes(self.sequence)


class Seal(NamedTuple):
    """What a sealed frame says of its seal, and the key that opens it, wrapped."""

    record: FrameSeal
    wrapped: bytes


class Frame(NamedTuple):
    """A frame that was read and whose header block holds; its payload may still be false until `payload_is_true`."""

    header: FrameHeader
    places: tuple[Place, ...]
    runs: tuple[PageRun, ...]
    seal: Seal | None
    covers: tuple[int, ...] = ()  # of a PARITY frame, which has no runs of pages
    made_of: tuple[tuple[Place, ...], ...] = ()  # of one that was rebuilt: the places of all that it is the XOR of

    @property
    def size_bytes(self) -> int:
        return BLOCK_SIZE_BYTES + self.header.payload_size_bytes

    @property
    def seal_offset_bytes(self) -> int:
        """In the header block, behind places and runs."""
        return (
            FRAME_HEADER.size_bytes + len(self.places) * PLACE.size_bytes + self.header.run_count * PAGE_RUN.size_bytes
        )


def slot_offset_bytes(sequence: int) -> int:
    return FIRST_SLOT_OFFSET_BYTES + sequence * SLOT_SIZE_BYTES


def slot_count(region_size_bytes: int) -> int:
    """How many frames a region can hold between its two headers."""
    return max(0, region_size_bytes - FIRST_SLOT_OFFSET_BYTES - BLOCK_SIZE_BYTES) // SLOT_SIZE_BYTES


def page_count(runs: Sequence[PageRun]) -> int:
    return sum(run.page_count for run in runs)


def encode_frame(
    slot: memoryview,
    plan: FramePlan,
    identity: DumpIdentity,
    extents: ExtentMap,
    pages_total: int,
    payload_bytes: int,
    sealer: Sealer,
) -> memoryview:
    """Write the header block before a payload that already stands at `slot[4096:]`; the frame as it goes out.

    Raises `EncryptionError`; the slot must then not be written.
    """
    end_bytes = BLOCK_SIZE_BYTES + payload_bytes
    payload = slot[BLOCK_SIZE_BYTES:end_bytes]
    places = [Place(*run) for run in extents.runs(plan.region_offset_bytes, end_bytes)]
    run_count = len(plan.runs) + len(plan.covers)
    assert len(places) <= PLACES_MAX and run_count <= RUNS_MAX
    header = FrameHeader(
        magic=FRAME_MAGIC,
        version=VERSION,
        kind=plan.kind,
        sequence=plan.sequence,
        dump_id=identity.dump_id,
        generation=identity.generation,
        region_offset_bytes=plan.region_offset_bytes,
        pages_total=pages_total,
        payload_size_bytes=payload_bytes,
        payload_crc32c=0,
        place_count=len(places),
        run_count=run_count,
        seal_size_bytes=sealer.record_size_bytes,
        digest=bytes(32),
    )
    head = FRAME_HEADER.pack(header) + PLACE.pack_table(places) + _encode_runs(plan)
    slot[:BLOCK_SIZE_BYTES] = head.ljust(BLOCK_SIZE_BYTES, b"\0")
    sealer.seal_frame(slot[:BLOCK_SIZE_BYTES], len(head), payload, plan.sequence)
    _CRC.pack_into(slot, _PAYLOAD_CRC_OFFSET_BYTES, crc32c.crc32c(payload))
    digest = blake3.blake3(slot[:end_bytes]).digest()
    slot[_DIGEST_OFFSET_BYTES : FRAME_HEADER.size_bytes] = digest
    _CRC.pack_into(slot, _CRC_OFFSET_BYTES, crc32c.crc32c(slot[:_CRC_OFFSET_BYTES]))
    return slot[:end_bytes]


def _encode_runs(plan: FramePlan) -> bytes:
    if plan.kind == FrameKind.PARITY:
        return COVERED_SLOT.pack_table([CoveredSlot(slot) for slot in plan.covers])
    return PAGE_RUN.pack_table(plan.runs)


def decode_header(block: memoryview, identity: DumpIdentity | None) -> Frame | None:
    """The frame whose header block this is; None where it is none, is damaged, or is of another dump.

    With an identity of None, a frame of any dump is taken: that is for looking, not for recovery.
    """
    if bytes(block[:8]) != FRAME_MAGIC:
        return None
    header = FRAME_HEADER.unpack_from(block)
    if identity is not None and (header.dump_id, header.generation) != identity:
        return None
    if crc32c.crc32c(block[:_CRC_OFFSET_BYTES]) != _CRC.unpack_from(block, _CRC_OFFSET_BYTES)[0]:
        return None
    if header.version != VERSION or header.place_count > PLACES_MAX or header.run_count > RUNS_MAX:
        return None
    places = PLACE.unpack_table(block, FRAME_HEADER.size_bytes, header.place_count)
    frame = Frame(header, tuple(places), runs=(), seal=None)
    runs_offset_bytes = FRAME_HEADER.size_bytes + header.place_count * PLACE.size_bytes
    if header.kind == FrameKind.PARITY:
        covered = COVERED_SLOT.unpack_table(block, runs_offset_bytes, header.run_count)
        frame = frame._replace(covers=tuple(row.slot for row in covered))
    else:
        frame = frame._replace(runs=tuple(PAGE_RUN.unpack_table(block, runs_offset_bytes, header.run_count)))
    if header.seal_size_bytes:
        frame = frame._replace(seal=_decode_seal(block, frame))
    return frame if _is_consistent(frame) else None


def _decode_seal(block: memoryview, frame: Frame) -> Seal | None:
    """None where the frame's size of it is not the record's own."""
    record = FRAME_SEAL.unpack_from(block, frame.seal_offset_bytes)
    start_bytes = frame.seal_offset_bytes + FRAME_SEAL.size_bytes
    size_bytes = record.wrapped_size_bytes
    if frame.header.seal_size_bytes != FRAME_SEAL.size_bytes + size_bytes or size_bytes > WRAPPED_SIZE_BYTES_MAX:
        return None
    return Seal(record, bytes(block[start_bytes : start_bytes + size_bytes]))


def _is_consistent(frame: Frame) -> bool:
    header = frame.header
    payload_bytes = header.payload_size_bytes
    if (frame.seal is None) != (not header.seal_size_bytes):
        return False
    if payload_bytes % BLOCK_SIZE_BYTES or payload_bytes > SLOT_SIZE_BYTES - BLOCK_SIZE_BYTES:
        return False
    if sum(place.length_bytes for place in frame.places) != BLOCK_SIZE_BYTES + payload_bytes:
        return False
    if header.kind == FrameKind.PARITY:
        is_list = 0 < len(frame.covers) == len(set(frame.covers))
        return is_list and payload_bytes > 0 and frame.seal is None
    if header.kind in (FrameKind.META, FrameKind.SECONDARY):
        return not frame.runs
    if not frame.runs or any(not 0 < run.page_count <= PAGES_MAX - run.first_page for run in frame.runs):
        return False
    if header.kind == FrameKind.PAGES:
        return page_count(frame.runs) * PAGE_SIZE_BYTES == payload_bytes
    return header.kind == FrameKind.ZEROS and not payload_bytes


def is_in_place(frame: Frame, extents: ExtentMap) -> bool:
    """Whether the frame lies where it says it does: in its own slot, on the very blocks it was written to."""
    offset_bytes = frame.header.region_offset_bytes
    if offset_bytes != slot_offset_bytes(frame.header.sequence):
        return False
    length_bytes = BLOCK_SIZE_BYTES + frame.header.payload_size_bytes
    if offset_bytes + length_bytes > extents.size_bytes:
        return False
    return frame.places == tuple(Place(*run) for run in extents.runs(offset_bytes, length_bytes))


def payload_is_true(slot: memoryview, frame: Frame) -> bool:
    """Whether header block and payload, contiguous in `slot`, are what the writer digested. `slot` is restored."""
    end_bytes = BLOCK_SIZE_BYTES + frame.header.payload_size_bytes
    if crc32c.crc32c(slot[BLOCK_SIZE_BYTES:end_bytes]) != frame.header.payload_crc32c:
        return False
    crc = bytes(slot[_CRC_OFFSET_BYTES:BLOCK_SIZE_BYTES])
    slot[_DIGEST_OFFSET_BYTES : FRAME_HEADER.size_bytes] = bytes(32)
    slot[_CRC_OFFSET_BYTES:BLOCK_SIZE_BYTES] = bytes(_CRC.size)
    digest = blake3.blake3(slot[:end_bytes]).digest()
    slot[_DIGEST_OFFSET_BYTES : FRAME_HEADER.size_bytes] = frame.header.digest
    slot[_CRC_OFFSET_BYTES:BLOCK_SIZE_BYTES] = crc
    return digest == frame.header.digest


def associated_data(block: memoryview, frame: Frame) -> bytes:
    """The header block of a sealed frame as it was when it was sealed: without what is known only afterwards."""
    content = bytearray(block[:BLOCK_SIZE_BYTES])
    tag_offset_bytes = frame.seal_offset_bytes
    for start_bytes, end_bytes in (
        (_PAYLOAD_CRC_OFFSET_BYTES, _PAYLOAD_CRC_OFFSET_BYTES + _CRC.size),
        (_DIGEST_OFFSET_BYTES, FRAME_HEADER.size_bytes),
        (tag_offset_bytes, tag_offset_bytes + FRAME_SEAL.field("tag").size_bytes),
        (_CRC_OFFSET_BYTES, BLOCK_SIZE_BYTES),
    ):
        content[start_bytes:end_bytes] = bytes(end_bytes - start_bytes)
    return bytes(content)


def encode_dump_header(header: DumpHeader) -> bytes:
    """The header's block: its sealed sector, then zeros."""
    blank = header._replace(digest=bytes(32))
    digest = blake3.blake3(DUMP_HEADER.pack(blank)).digest()
    sector = seal(DUMP_HEADER.pack(header._replace(digest=digest)), HEADER_SIZE_BYTES)
    return sector.ljust(BLOCK_SIZE_BYTES, b"\0")


def decode_dump_header(sector: bytes, identity: DumpIdentity | None, physical_bytes: int | None) -> DumpHeader | None:
    """The header that stands at `physical_bytes`; None where it is none, is damaged, or is of another dump.

    A place of None is any: that is for a header that was carried away from its disk.
    """
    if not sector.startswith(HEADER_MAGIC):
        return None
    try:
        header = DUMP_HEADER.unpack_from(unseal(sector[:HEADER_SIZE_BYTES]))
    except FormatError:
        return None
    if identity is not None and (header.dump_id, header.generation) != identity:
        return None
    if header.version != VERSION or physical_bytes not in (None, header.physical_bytes):
        return None
    blank = header._replace(digest=bytes(32))
    return header if blake3.blake3(DUMP_HEADER.pack(blank)).digest() == header.digest else None
