"""Writes dump regions, images around them and sealed dumps, from docs/FORMAT.md alone; imports nothing of the product.

A dump has metadata, its pages in frames of a few, its pages of zeros in one frame, and metadata once more.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

import blake3
import crc32c

from tests.builders.pagedump_writer import runs_of
from tests.builders.region_reader import BLOCK, BOOT_AREA, MEMORY_RANGES, META, NOTES, PAGES, SLOT, ZEROS, Extent
from tests.builders.seal_writer import SEAL_SIZE, nonce_of

if TYPE_CHECKING:
    from tests.builders.seal_writer import DumpSeal

DUMP_ID, DISK_ID = bytes(range(16)), bytes(range(100, 116))
GENERATION = 7
ARMED, RUNNING, WRITTEN, THROUGH, BUGCHECK = 1, 6, 3, 1, 1
FRAME_HEADER = struct.Struct("<8sHHI16sQQQIIHHI32s")
DUMP_HEADER = struct.Struct("<8sII16s3Q6I6Q4Q3Q128s4I84s32s12s16s32s")
BOOT_RECORD = struct.Struct("<8s4IQQ16sQQIIQQIIQ16sQII32s96sI")
HEADER_SEQUENCE = 0xFFFF_FFFF


class Frame(NamedTuple):
    kind: int
    runs: list[tuple[int, int]]
    payload: bytes


@dataclass
class RegionBuilder:
    """`memory` is all pages that the machine had, as runs; `extents` (offset on the disk, length) make the region.

    Of a torn slot the second half was never written. A stale one holds what the dump before this one wrote to it.
    """

    pages: dict[int, bytes]
    memory: list[tuple[int, int]]
    extents: list[tuple[int, int]]
    notes: bytes = b""
    frame_pages: int = 4
    seal: DumpSeal | None = None
    torn: list[int] = field(default_factory=list)
    stale: list[int] = field(default_factory=list)
    disk_size: int = 2 * BOOT_AREA

    def image(self) -> bytes:
        """A disk with the region and a boot area, and no filesystem."""
        disk, region = bytearray(self.disk_size), self.region()
        for extent in self._extents():
            disk[extent.physical : extent.physical + extent.length] = region[extent.logical :][: extent.length]
        area = self.disk_size - BOOT_AREA
        table = b"".join(struct.pack("<QQQ", *extent) for extent in self._extents())
        for record_at, table_at in ((0, 64 << 10), (4096, 1 << 20)):
            disk[area + record_at : area + record_at + 512] = _sealed(self._boot_record(record_at, table), 512)
            disk[area + table_at : area + table_at + len(table)] = table
        return bytes(disk)

    def region(self) -> bytes:
        region = bytearray(self._size())
        region[:BLOCK], region[-BLOCK:] = self._dump_headers()
        for sequence, frame in enumerate(self._frames()):
            written = self._frame(sequence, frame, GENERATION)
            if sequence in self.torn:
                written = written[: len(written) // 2]
            if sequence in self.stale:
                written = self._frame(sequence, _inverted(frame), GENERATION - 1)
            start = BLOCK + sequence * SLOT
            region[start : start + len(written)] = written
        return bytes(region)

    def carried_out(self) -> bytes:
        """The sealed dump as a file: both headers, then the frames."""
        frames = [self._frame(sequence, frame, GENERATION) for sequence, frame in enumerate(self._frames())]
        return b"".join([*self._dump_headers(), *frames])

    def _size(self) -> int:
        return sum(length for _, length in self.extents)

    def _extents(self) -> list[Extent]:
        ends = [sum(length for _, length in self.extents[:index]) for index in range(len(self.extents))]
        return [Extent(logical, *extent) for logical, extent in zip(ends, self.extents, strict=True)]

    def _frames(self) -> list[Frame]:
        held = sorted(page for page, content in self.pages.items() if any(content))
        parts = [held[at : at + self.frame_pages] for at in range(0, len(held), self.frame_pages)]
        of_pages = [Frame(PAGES, runs_of(part), b"".join(self.pages[page] for page in part)) for part in parts]
        zeros = sorted(set(self.pages) - set(held))
        of_zeros = [Frame(ZEROS, runs_of(zeros), b"")] if zeros else []
        metadata = Frame(META, [], self._metadata())
        return [metadata, *of_pages, *of_zeros, metadata]

    def _metadata(self) -> bytes:
        ranges = b"".join(struct.pack("<QQ", first * BLOCK, count * BLOCK) for first, count in self.memory)
        records = b""
        for kind, content in ((NOTES, self.notes), (MEMORY_RANGES, ranges)):
            records += struct.pack("<II", kind, len(content)) + content + bytes(-len(content) % 8)
        return records + bytes(-len(records) % BLOCK)

    def _frame(self, sequence: int, frame: Frame, generation: int) -> bytes:
        places = self._places(BLOCK + sequence * SLOT, BLOCK + len(frame.payload))
        rows = b"".join(struct.pack("<QQ", *row) for row in [*places, *frame.runs])
        header = FRAME_HEADER.pack(
            *(b"GHOSTFR\0", 1, frame.kind, sequence, DUMP_ID, generation, BLOCK + sequence * SLOT),
            *(self._page_count(), len(frame.payload), 0, len(places), len(frame.runs)),
            *(SEAL_SIZE if self.seal else 0, bytes(32)),
        )
        block, payload = bytearray((header + rows).ljust(BLOCK, b"\0")), frame.payload
        if self.seal is not None:
            payload = _seal_frame(self.seal, block, len(header + rows), sequence, payload)
        block[60:64] = struct.pack("<I", crc32c.crc32c(payload))
        block[72:104] = blake3.blake3(bytes(block) + payload).digest()
        return _sealed(bytes(block[:-4]), BLOCK) + payload

    def _places(self, offset: int, length: int) -> list[tuple[int, int]]:
        """(offset on the disk, length) of each piece of a range of the region."""
        found = []
        for extent in self._extents():
            first, end = max(offset, extent.logical), min(offset + length, extent.logical + extent.length)
            if first < end:
                found.append((extent.physical + first - extent.logical, end - first))
        return found

    def _page_count(self) -> int:
        return sum(count for _, count in self.memory)

    def _dump_headers(self) -> list[bytes]:
        places = [self._places(offset, BLOCK)[0][0] for offset in (0, self._size() - BLOCK)]
        return [_sealed(self._dump_header(physical), 512).ljust(BLOCK, b"\0") for physical in places]

    def _dump_header(self, physical: int) -> bytes:
        frames, pages = len(self._frames()), self._page_count()
        counts = (frames, frames, 0, BUGCHECK, 0, THROUGH, pages, pages, pages, pages, 0)
        seal = (self.seal.fingerprint, nonce_of(HEADER_SEQUENCE)) if self.seal else (bytes(32), bytes(12))
        header = DUMP_HEADER.pack(
            *(b"GHOSTDH\0", 1, WRITTEN, DUMP_ID, GENERATION, physical, self._size(), *counts),
            *(0xD1, 1, 2, 3, 4, *(1_700_000_000_000_000_000 + second * 10**9 for second in range(3))),
            *(b"a golden dump", RUNNING, 1, frames, 0, b"", *seal, bytes(16), bytes(32)),
        )
        if self.seal is not None:
            _, tag = self.seal.encrypt(nonce_of(HEADER_SEQUENCE), b"", header)
            header = header[:456] + tag + header[472:]
        return header[:472] + blake3.blake3(header).digest()

    def _boot_record(self, copy_at: int, table: bytes) -> bytes:
        sizes = (self.disk_size, self.disk_size - BOOT_AREA, 512, BLOCK, self._page_count() * BLOCK)
        return BOOT_RECORD.pack(
            *(b"GHOSTBR\0", 1, 0, 0, 0, copy_at, 1, DISK_ID, *sizes, 1, RUNNING, ARMED, GENERATION, DUMP_ID),
            *(self._size(), len(self.extents), 0, blake3.blake3(table).digest(), bytes(96), 0),
        )


def _seal_frame(seal: DumpSeal, block: bytearray, seal_at: int, sequence: int, payload: bytes) -> bytes:
    """Put the seal into a header block; the payload as it goes to the disk."""
    nonce = nonce_of(sequence)
    block[seal_at : seal_at + SEAL_SIZE] = seal.record(nonce)
    ciphertext, tag = seal.encrypt(nonce, payload, bytes(block))
    block[seal_at : seal_at + SEAL_SIZE] = seal.record(nonce, tag)
    return ciphertext


def _inverted(frame: Frame) -> Frame:
    return frame._replace(payload=bytes(byte ^ 0xFF for byte in frame.payload))


def _sealed(content: bytes, size: int) -> bytes:
    padded = content.ljust(size - 4, b"\0")
    return padded + struct.pack("<I", crc32c.crc32c(padded))
