"""Forged pieces: what somebody could write who knows the format, or chance, given time. Stated here from the format.

A forged frame has both its check sums; its digest too, where it is to be one that a broken writer made.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import blake3
import crc32c

from dumpwriter.formats.region import (
    FRAME_HEADER,
    PAGE_RUN,
    PLACE,
    SLOT_SIZE_BYTES,
    FrameHeader,
    PageRun,
    Place,
)
from vdisk.blockdevice import BLOCK_SIZE_BYTES

if TYPE_CHECKING:
    from collections.abc import Sequence

    from vdisk.extent import ExtentMap

HEADER_CRC = slice(BLOCK_SIZE_BYTES - 4, BLOCK_SIZE_BYTES)
PAYLOAD_CRC = slice(60, 64)
DIGEST = slice(72, 104)


class Parts(NamedTuple):
    """What a frame is made of. The counts in the header are taken as they are."""

    header: FrameHeader
    places: Sequence[Place]
    runs: Sequence[PageRun]
    payload: bytes

    def changed(self, **fields: Any) -> Parts:
        return self._replace(header=self.header._replace(**fields))

    def holding(self, runs: Sequence[PageRun]) -> Parts:
        return self._replace(runs=runs).changed(run_count=len(runs))

    def lying_at(self, places: Sequence[Place]) -> Parts:
        return self._replace(places=places).changed(place_count=len(places))

    def resized(self, payload: bytes, extents: ExtentMap) -> Parts:
        """With another payload, and the places that a frame of that size would have."""
        size_bytes = min(BLOCK_SIZE_BYTES + len(payload), extents.size_bytes - self.header.region_offset_bytes)
        places = [Place(*run) for run in extents.runs(self.header.region_offset_bytes, size_bytes)]
        return self._replace(payload=payload).lying_at(places).changed(payload_size_bytes=len(payload))


def parts_of(slot: bytes) -> Parts:
    header = FRAME_HEADER.unpack_from(slot)
    places = PLACE.unpack_table(slot, FRAME_HEADER.size_bytes, header.place_count)
    runs_offset_bytes = FRAME_HEADER.size_bytes + header.place_count * PLACE.size_bytes
    runs = PAGE_RUN.unpack_table(slot, runs_offset_bytes, header.run_count)
    return Parts(header, places, runs, slot[BLOCK_SIZE_BYTES : BLOCK_SIZE_BYTES + header.payload_size_bytes])


def forged(parts: Parts) -> bytes:
    """A slot with a frame that is made of these, check sums, digest and all."""
    block = FRAME_HEADER.pack(parts.header) + PLACE.pack_table(parts.places) + PAGE_RUN.pack_table(parts.runs)
    slot = (block.ljust(BLOCK_SIZE_BYTES, b"\0") + parts.payload).ljust(SLOT_SIZE_BYTES, b"\0")
    return with_digest(slot[:SLOT_SIZE_BYTES])


def with_digest(slot: bytes) -> bytes:
    """The same, its check sums and its digest made anew over what it holds now."""
    made = bytearray(slot)
    end_bytes = BLOCK_SIZE_BYTES + int.from_bytes(made[56:60], "little")
    made[DIGEST], made[HEADER_CRC] = bytes(32), bytes(4)
    made[PAYLOAD_CRC] = _crc(made[BLOCK_SIZE_BYTES:end_bytes])
    made[DIGEST] = blake3.blake3(bytes(made[:end_bytes])).digest()
    made[HEADER_CRC] = _crc(made[: HEADER_CRC.start])
    return bytes(made)


def with_checksums(slot: bytes) -> bytes:
    """The same with both check sums made anew; the digest stays as it was."""
    made = bytearray(slot)
    end_bytes = BLOCK_SIZE_BYTES + int.from_bytes(made[56:60], "little")
    made[PAYLOAD_CRC] = _crc(made[BLOCK_SIZE_BYTES:end_bytes])
    made[HEADER_CRC] = _crc(made[: HEADER_CRC.start])
    return bytes(made)


def sector_with_checksum(sector: bytes) -> bytes:
    """A sealed sector, its check sum made anew."""
    return sector[:-4] + _crc(sector[:-4])


def _crc(content: bytes | bytearray) -> bytes:
    return crc32c.crc32c(bytes(content)).to_bytes(4, "little")
