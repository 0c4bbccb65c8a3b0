"""The payload of a META frame: what a reader must know besides the pages. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from dumpwriter.formats.region import (
    FRAME_PAGES_MAX,
    MEMORY_RANGE,
    META_RECORD,
    PAGE_SIZE_BYTES,
    PAGES_MAX,
    MemoryRangeRecord,
    MetaKind,
    MetaRecord,
    PageRun,
)
from vdisk.blockdevice import BLOCK_SIZE_BYTES
from vdisk.errors import FormatError

if TYPE_CHECKING:
    from collections.abc import Iterator

META_SIZE_BYTES_MAX = FRAME_PAGES_MAX * PAGE_SIZE_BYTES
_ALIGNMENT = 8


class Metadata(NamedTuple):
    """Notes are an ELF PT_NOTE segment, not looked into here; ranges are (physical, length) in bytes, ascending."""

    notes: bytes
    ranges: tuple[MemoryRangeRecord, ...]
    machine: str


def encode_metadata(metadata: Metadata) -> bytes:
    """The records one behind the other, padded to whole blocks. ValueError where a META frame cannot hold them."""
    contents = (
        (MetaKind.MEMORY_RANGES, MEMORY_RANGE.pack_table(metadata.ranges)),
        (MetaKind.MACHINE, metadata.machine.encode()),
        (MetaKind.NOTES, metadata.notes),
    )
    encoded = b"".join(
        META_RECORD.pack(MetaRecord(kind, len(content))) + content + bytes(-len(content) % _ALIGNMENT)
        for kind, content in contents
    )
    if len(encoded) > META_SIZE_BYTES_MAX:
        raise ValueError(f"metadata takes {len(encoded)} bytes of {META_SIZE_BYTES_MAX}")
    return encoded + bytes(-len(encoded) % BLOCK_SIZE_BYTES)


def decode_metadata(payload: bytes) -> Metadata:
    """Raises `FormatError` where a record does not parse; unknown kinds are passed over, for newer writers."""
    contents = dict(_records(payload))
    table = contents.get(MetaKind.MEMORY_RANGES, b"")
    ranges = MEMORY_RANGE.unpack_table(table, 0, len(table) // MEMORY_RANGE.size_bytes)
    end_bytes = 0
    for memory_range in ranges:
        if (
            memory_range.physical_bytes < end_bytes
            or not memory_range.length_bytes
            or any(value % PAGE_SIZE_BYTES for value in memory_range)
            or memory_range.physical_bytes + memory_range.length_bytes > PAGES_MAX * PAGE_SIZE_BYTES
        ):
            raise FormatError("metadata: memory ranges are not whole, ascending pages below 4 PiB")
        end_bytes = memory_range.physical_bytes + memory_range.length_bytes
    machine = contents.get(MetaKind.MACHINE, b"").decode(errors="replace")
    return Metadata(contents.get(MetaKind.NOTES, b""), tuple(ranges), machine)


def pages_of(ranges: tuple[MemoryRangeRecord, ...]) -> list[PageRun]:
    return [PageRun(start // PAGE_SIZE_BYTES, length // PAGE_SIZE_BYTES) for start, length in ranges]


def _records(payload: bytes) -> Iterator[tuple[int, bytes]]:
    offset_bytes = 0
    while offset_bytes + META_RECORD.size_bytes <= len(payload):
        kind, length_bytes = META_RECORD.unpack_from(payload, offset_bytes)
        if not kind:
            return
        offset_bytes += META_RECORD.size_bytes
        if length_bytes > len(payload) - offset_bytes:
            raise FormatError(f"metadata record {kind} claims {length_bytes} bytes, more than are there")
        yield kind, payload[offset_bytes : offset_bytes + length_bytes]
        offset_bytes += length_bytes + -length_bytes % _ALIGNMENT
