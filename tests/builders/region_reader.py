"""A reader of images, written from docs/FORMAT.md alone: it imports nothing of the product.

It judges the product's own recovery, so it shares no code with it and takes the whole image at once: plain, not fast.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, NamedTuple

import blake3
import crc32c

if TYPE_CHECKING:
    from collections.abc import Callable

BOOT_AREA = 8 << 20
BLOCK = 4096
SLOT = 65 * BLOCK
META, PAGES, ZEROS, SECONDARY, PARITY = 1, 2, 3, 4, 5
NOTES, MEMORY_RANGES, LEVEL, PAGE_CLASSES, BLOBS = 1, 2, 4, 5, 6
LAST_CLASS = {1: 3, 2: 4, 3: 5}  # of the levels that leave pages out


class Extent(NamedTuple):
    """Offsets in the region and on the disk, and a length, in bytes."""

    logical: int
    physical: int
    length: int


class Region(NamedTuple):
    """Which dump is looked for, and where. `extents` cover the region from 0 on."""

    dump_id: bytes
    generation: int
    extents: tuple[Extent, ...]

    @property
    def size(self) -> int:
        return sum(extent.length for extent in self.extents)


class Frame(NamedTuple):
    """What one slot gives."""

    kind: int
    payload: bytes
    pages: list[int]


class Dump(NamedTuple):
    """What could be believed: pages by number, all pages that the memory has (None: not known), those of them that the
    level wants, the ELF notes, and the blobs of secondary data."""

    pages: dict[int, bytes]
    expected: set[int] | None
    wanted: set[int]
    notes: bytes
    header_states: tuple[int, ...]
    blobs: dict[str, bytes]

    @property
    def verdict(self) -> str:
        if not self.pages:
            return "NONE"
        return "COMPLETE" if self.wanted and self.wanted <= set(self.pages) else "PARTIAL"


def find_region(image: bytes) -> Region | None:
    """By the boot area; None where no copy of the boot record, or of the extent table, is whole."""
    area = len(image) - BOOT_AREA
    records = [image[area + offset : area + offset + 512] for offset in (0, 4096)]
    whole = [record for offset, record in zip((0, 4096), records, strict=True) if _is_boot_record(record, offset)]
    if not whole:
        return None
    record = max(whole, key=lambda record: _u64(record, 32))
    count = _u32(record, 136)
    for offset in (64 << 10, 1 << 20):
        table = image[area + offset : area + offset + 24 * count]
        if blake3.blake3(table).digest() == record[144:176]:
            extents = tuple(Extent(*row) for row in struct.iter_unpack("<QQQ", table))
            return Region(record[112:128], _u64(record, 104), extents)
    return None


def plain_payload(slot: bytes) -> bytes | None:
    """What a frame carries, where it is not sealed."""
    return None if _u32(slot, 68) else slot[BLOCK : BLOCK + _u32(slot, 56)]


def read_dump(image: bytes, region: Region, payload_of: Callable[[bytes], bytes | None] = plain_payload) -> Dump:
    """Every frame that proves itself and can be read. Where a page is in two frames, they must agree."""
    slots = (_read(image, region, *slot_range(sequence)) for sequence in range(slot_count(region)))
    believed = {sequence: slot for sequence, slot in enumerate(slots) if is_frame(slot, region, sequence)}
    frames = [frame_of(slot, payload_of) for slot in (*believed.values(), *rebuilt(believed, region))]
    states = tuple(_u32(header, 12) for header in _headers(image, region))
    return assemble([frame for frame in frames if frame is not None], states)


def slot_count(region: Region) -> int:
    return (region.size - 2 * BLOCK) // SLOT


def slot_range(sequence: int) -> tuple[int, int]:
    """Offset in the region, and length."""
    return BLOCK + sequence * SLOT, SLOT


def frame_of(slot: bytes, payload_of: Callable[[bytes], bytes | None] = plain_payload) -> Frame | None:
    """Of a slot whose frame is believed; None where it cannot be read, or has nothing to read."""
    payload = None if _u16(slot, 10) == PARITY else payload_of(slot)
    return None if payload is None else Frame(_u16(slot, 10), payload, _page_numbers(slot))


def rebuilt(believed: dict[int, bytes], region: Region) -> list[bytes]:
    """The slots that gave no frame, where the parity of the others does."""
    found = []
    for parity in believed.values():
        covered = _covered(parity) if _u16(parity, 10) == PARITY else []
        lost = [slot for slot in covered if slot not in believed]
        if len(lost) == 1:
            total = int.from_bytes(frame_bytes(parity)[BLOCK:], "little")
            for slot in covered:
                total ^= int.from_bytes(frame_bytes(believed.get(slot, b"")), "little")
            candidate = total.to_bytes(SLOT, "little")
            if is_frame(candidate, region, lost[0]):
                found.append(candidate)
    return found


def assemble(frames: list[Frame], header_states: tuple[int, ...]) -> Dump:
    pages: dict[int, bytes] = {}
    expected: set[int] | None = None
    wanted: set[int] = set()
    notes = b""
    rows: dict[str, tuple[int, bytes]] = {}
    pieces: dict[str, dict[int, bytes]] = {}
    for kind, payload, numbers in frames:
        if kind == META:
            records = _metadata(payload)
            notes = records.get(NOTES, b"")
            expected = _pages_of(records.get(MEMORY_RANGES, b""))
            wanted = _wanted(records, expected)
            rows = _blob_rows(records.get(BLOBS, b""))
            continue
        if kind == SECONDARY:
            _take_pieces(payload, pieces)
            continue
        for position, page in enumerate(numbers):
            content = payload[position * BLOCK : (position + 1) * BLOCK] if kind == PAGES else bytes(BLOCK)
            assert pages.setdefault(page, content) == content, f"two frames differ on page {page}"
    return Dump(pages, expected, wanted, notes, header_states, _blobs(pieces, rows))


def _is_boot_record(sector: bytes, offset: int) -> bool:
    return sector[:8] == b"GHOSTBR\0" and _seal_holds(sector) and _u32(sector, 8) == 1 and _u64(sector, 24) == offset


def is_frame(slot: bytes, region: Region, sequence: int) -> bool:
    """Whether what lies in a slot is to be believed."""
    if slot[:8] != b"GHOSTFR\0" or _u16(slot, 8) != 1 or not _seal_holds(slot[:BLOCK]):
        return False
    if (slot[16:32], _u64(slot, 32)) != (region.dump_id, region.generation):
        return False
    if (_u32(slot, 12), _u64(slot, 40)) != (sequence, BLOCK + sequence * SLOT):
        return False
    length = _u32(slot, 56)
    if length % BLOCK or length > SLOT - BLOCK or _u16(slot, 64) > 65 or _u16(slot, 66) > 128:
        return False
    if _places(slot) != _pieces(region, BLOCK + sequence * SLOT, BLOCK + length) or not _agrees(slot, length):
        return False
    if crc32c.crc32c(slot[BLOCK : BLOCK + length]) != _u32(slot, 60):
        return False
    blank = slot[:72] + bytes(32) + slot[104 : BLOCK - 4] + bytes(4) + slot[BLOCK : BLOCK + length]
    return bool(blake3.blake3(blank).digest() == slot[72:104])


def _agrees(slot: bytes, length: int) -> bool:
    kind = _u16(slot, 10)
    if kind == PARITY:
        covered = _covered(slot)
        return 0 < len(covered) == len(set(covered)) and length > 0 and not _u32(slot, 68)
    runs = _runs(slot)
    if any(not count for _, count in runs):
        return False
    if kind in (META, SECONDARY):
        return not runs
    if kind == PAGES:
        return bool(runs) and sum(count for _, count in runs) * BLOCK == length
    return kind == ZEROS and bool(runs) and not length


def _places(slot: bytes) -> list[tuple[int, int]]:
    return [struct.unpack_from("<QQ", slot, 104 + 16 * index) for index in range(_u16(slot, 64))]


def _runs(slot: bytes) -> list[tuple[int, int]]:
    start = 104 + 16 * _u16(slot, 64)
    return [struct.unpack_from("<QQ", slot, start + 16 * index) for index in range(_u16(slot, 66))]


def _covered(slot: bytes) -> list[int]:
    start = 104 + 16 * _u16(slot, 64)
    return [_u64(slot, start + 8 * index) for index in range(_u16(slot, 66))]


def frame_bytes(slot: bytes) -> bytes:
    return slot[: BLOCK + _u32(slot, 56)] if slot else b""


def _page_numbers(slot: bytes) -> list[int]:
    return [page for first, count in _runs(slot) for page in range(first, first + count)]


def _metadata(payload: bytes) -> dict[int, bytes]:
    records, offset = {}, 0
    while offset + 8 <= len(payload) and _u32(payload, offset):
        kind, length = struct.unpack_from("<II", payload, offset)
        records[kind] = payload[offset + 8 : offset + 8 + length]
        offset += 8 + -(-length // 8) * 8
    return records


def _pages_of(ranges: bytes) -> set[int]:
    rows = list(struct.iter_unpack("<QQ", ranges))
    return {page for start, length in rows for page in range(start // BLOCK, (start + length) // BLOCK)}


def _wanted(records: dict[int, bytes], expected: set[int]) -> set[int]:
    last = LAST_CLASS.get(_u64(records[LEVEL], 0)) if LEVEL in records else None
    if last is None:
        return expected
    rows = struct.iter_unpack("<QQQ", records.get(PAGE_CLASSES, b""))
    named = {page for rank, first, count in rows if rank <= last for page in range(first, first + count)}
    return named & expected


def _blob_rows(table: bytes) -> dict[str, tuple[int, bytes]]:
    """Size and digest of each blob that was whole."""
    rows = struct.iter_unpack("<64sII32s", table)
    return {_name(name): (size, digest) for name, size, state, digest in rows if state == 1}


def _take_pieces(payload: bytes, pieces: dict[str, dict[int, bytes]]) -> None:
    position = 0
    while position + 80 <= len(payload) and payload[position]:
        name, _, offset, length = struct.unpack_from("<64sIIQ", payload, position)
        position += 80
        pieces.setdefault(_name(name), {})[offset] = payload[position : position + length]
        position += -(-length // 8) * 8


def _blobs(pieces: dict[str, dict[int, bytes]], rows: dict[str, tuple[int, bytes]]) -> dict[str, bytes]:
    """The blobs whose pieces make a whole that has the recorded digest."""
    whole = {name: b"".join(found[offset] for offset in sorted(found)) for name, found in pieces.items()}
    return {
        name: content
        for name, content in whole.items()
        if name in rows and rows[name] == (len(content), blake3.blake3(content).digest())
    }


def _name(field: bytes) -> str:
    return field.rstrip(b"\0").decode("ascii")


def _headers(image: bytes, region: Region) -> list[bytes]:
    """The whole copies of the dump header."""
    found = []
    for offset in (0, region.size - BLOCK):
        ((physical, _),) = _pieces(region, offset, BLOCK)
        sector = image[physical : physical + 512]
        of_this_dump = (sector[16:32], _u64(sector, 32), _u64(sector, 40)) == (
            region.dump_id,
            region.generation,
            physical,
        )
        digest = blake3.blake3(sector[:472] + bytes(32)).digest()
        if sector[:8] == b"GHOSTDH\0" and _seal_holds(sector) and of_this_dump and digest == sector[472:504]:
            found.append(sector)
    return found


def _read(image: bytes, region: Region, offset: int, length: int) -> bytes:
    return b"".join(image[start : start + size] for start, size in _pieces(region, offset, length))


def _pieces(region: Region, offset: int, length: int) -> list[tuple[int, int]]:
    """(offset on the disk, length) of a range of the region, one for each extent that it touches."""
    pieces = []
    for extent in region.extents:
        first, end = max(offset, extent.logical), min(offset + length, extent.logical + extent.length)
        if first < end:
            pieces.append((extent.physical + first - extent.logical, end - first))
    return pieces


def _seal_holds(sealed: bytes) -> bool:
    return bool(crc32c.crc32c(sealed[:-4]) == _u32(sealed, len(sealed) - 4))


def _u16(content: bytes, offset: int) -> int:
    return int.from_bytes(content[offset : offset + 2], "little")


def _u32(content: bytes, offset: int) -> int:
    return int.from_bytes(content[offset : offset + 4], "little")


def _u64(content: bytes, offset: int) -> int:
    return int.from_bytes(content[offset : offset + 8], "little")
