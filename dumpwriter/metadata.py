"""The payload of a META frame: what a reader must know besides the pages. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from dumpwriter.formats.region import (
    CLASS_RUN,
    COVERED_PAGES_MAX,
    LEVEL,
    MEMORY_RANGE,
    META_RECORD,
    PAGE_SIZE_BYTES,
    PAGES_MAX,
    SECONDARY,
    SECONDARY_COUNT_MAX,
    ClassRunRecord,
    DumpLevel,
    LevelRecord,
    MemoryRangeRecord,
    MetaKind,
    MetaRecord,
    PageRun,
    SecondaryRecord,
)
from dumpwriter.memory.physical import NOTES_AREA_BYTES
from vdisk.blockdevice import BLOCK_SIZE_BYTES
from vdisk.errors import FormatError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from vdisk.layout import Layout, Record

META_SIZE_BYTES_MAX = COVERED_PAGES_MAX * PAGE_SIZE_BYTES
TABLES_SIZE_BYTES_MAX = META_SIZE_BYTES_MAX - NOTES_AREA_BYTES - BLOCK_SIZE_BYTES  # a block is enough for the rest
_ALIGNMENT = 8


class Metadata(NamedTuple):
    """Notes are an ELF PT_NOTE segment, not looked into here; ranges are (physical, length) in bytes, ascending.

    Without page classes it is not known what a page is worth: only a level that asks for all of memory may do so.
    """

    notes: bytes
    ranges: tuple[MemoryRangeRecord, ...]
    machine: str
    level: DumpLevel = DumpLevel.COMPLETE
    classes: tuple[ClassRunRecord, ...] = ()
    secondary: tuple[SecondaryRecord, ...] = ()


def encode_metadata(metadata: Metadata) -> bytes:
    """The records one behind the other, padded to whole blocks. ValueError where a META frame cannot hold them."""
    contents = (
        (MetaKind.MEMORY_RANGES, MEMORY_RANGE.pack_table(metadata.ranges)),
        (MetaKind.MACHINE, metadata.machine.encode()),
        (MetaKind.LEVEL, LEVEL.pack(LevelRecord(metadata.level))),
        (MetaKind.PAGE_CLASSES, CLASS_RUN.pack_table(metadata.classes)),
        (MetaKind.SECONDARY, SECONDARY.pack_table(metadata.secondary)),
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
    ranges = _table(MEMORY_RANGE, contents.get(MetaKind.MEMORY_RANGES, b""))
    if any(value % PAGE_SIZE_BYTES for memory_range in ranges for value in memory_range):
        raise FormatError("metadata: memory ranges are not whole pages")
    _check_order(pages_of(ranges))
    classes = _table(CLASS_RUN, contents.get(MetaKind.PAGE_CLASSES, b""))
    _check_order([PageRun(run.first_page, run.page_count) for run in classes])
    return Metadata(
        contents.get(MetaKind.NOTES, b""),
        ranges,
        contents.get(MetaKind.MACHINE, b"").decode(errors="replace"),
        _level(contents.get(MetaKind.LEVEL, b"")),
        classes,
        _table(SECONDARY, contents.get(MetaKind.SECONDARY, b""))[:SECONDARY_COUNT_MAX],
    )


def _level(content: bytes) -> DumpLevel:
    """A level that is not known asks for everything: then no page that is not there passes for one left out."""
    try:
        return DumpLevel(LEVEL.unpack_from(content).dump_level)
    except (FormatError, ValueError):
        return DumpLevel.COMPLETE


def _table(layout: Layout[Record], content: bytes) -> tuple[Record, ...]:
    return tuple(layout.unpack_table(content, 0, len(content) // layout.size_bytes))


def _check_order(runs: list[PageRun]) -> None:
    end = 0
    for first_page, page_count in runs:
        if first_page < end or not 0 < page_count <= PAGES_MAX - first_page:
            raise FormatError("metadata: pages are not ascending and below 4 PiB")
        end = first_page + page_count


def has_room_for_tables(range_count: int, class_count: int) -> bool:
    """Whether a META frame can name so many ranges and runs of one class, whatever else is in it."""
    return range_count * MEMORY_RANGE.size_bytes + class_count * CLASS_RUN.size_bytes <= TABLES_SIZE_BYTES_MAX


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
