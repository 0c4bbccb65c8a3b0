"""What stands in front of the bitmaps of a kdump-compressed file, of header versions 1 to 6.

Each version added fields to the sub-header; what a version does not have may be anything, and is taken as zero.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from dumpwriter.export import kdump_format as kdump
from dumpwriter.export.notes import VMCOREINFO_NAME, pack_notes, parse_notes, vmcoreinfo_note
from vdisk.errors import FormatError

if TYPE_CHECKING:
    from dumpwriter.dumpfile.file import File

SUB_HEADER_SIZES_BYTES = {1: 12, 2: 32, 3: 48, 4: 64, 5: 80, 6: kdump.SUB_HEADER.size_bytes}
NOTES_MAXIMUM_BYTES = 4 << 20


class KdumpHeader(NamedTuple):
    """Where everything is, in bytes of the file; nothing of it was looked at. Only the pages from `first_page` up to
    `end_page` have descriptors: of a dump that was split, each file has a part of them."""

    page_count: int
    memory_bitmap_offset_bytes: int
    present_bitmap_offset_bytes: int
    descriptors_offset_bytes: int
    first_page: int
    end_page: int
    is_split: bool
    is_incomplete: bool
    notes: bytes


def read_header(file: File) -> KdumpHeader:
    """FormatError where the file is none that is read here, or contradicts itself."""
    header = kdump.DUMP_HEADER.unpack_from(file.read(0, min(kdump.DUMP_HEADER.size_bytes, file.size_bytes)))
    _check(header)
    sub = _sub_header(file, header.header_version)
    is_wide = header.header_version == kdump.HEADER_VERSION
    page_count = sub.max_mapnr if is_wide else header.max_mapnr
    bitmaps_offset_bytes = (1 + header.sub_header_blocks) * kdump.BLOCK_SIZE_BYTES
    bitmap_size_bytes = header.bitmap_blocks // 2 * kdump.BLOCK_SIZE_BYTES
    if page_count > bitmap_size_bytes * 8:
        raise FormatError(f"the bitmaps of {header.bitmap_blocks} blocks are too small for {page_count} pages")
    split_range = (sub.start_page, sub.end_page) if is_wide else (sub.start_page_32, sub.end_page_32)
    first_page, end_page = split_range if sub.is_split else (0, page_count)
    return KdumpHeader(
        page_count=page_count,
        memory_bitmap_offset_bytes=bitmaps_offset_bytes,
        present_bitmap_offset_bytes=bitmaps_offset_bytes + bitmap_size_bytes,
        descriptors_offset_bytes=bitmaps_offset_bytes + header.bitmap_blocks * kdump.BLOCK_SIZE_BYTES,
        first_page=min(first_page, page_count),
        end_page=min(end_page, page_count),
        is_split=bool(sub.is_split),
        is_incomplete=bool(header.status & kdump.Flag.INCOMPLETE),
        notes=_notes(file, sub),
    )


def _check(header: kdump.DumpHeader) -> None:
    if header.signature != kdump.SIGNATURE:
        raise FormatError("not a kdump-compressed file")
    if header.header_version not in SUB_HEADER_SIZES_BYTES:
        raise FormatError(f"kdump header version {header.header_version} is not read here (1 to 6 are)")
    if header.block_size_bytes != kdump.BLOCK_SIZE_BYTES:
        raise FormatError(f"its pages have {header.block_size_bytes} bytes; only those of 4096 are read here")
    if header.status & kdump.Flag.SNAPPY:
        raise FormatError("its pages are compressed with snappy, which is not read here; write them with zlib or lzo")


def _sub_header(file: File, version: int) -> kdump.SubHeader:
    known = file.read(kdump.SUB_HEADER_OFFSET_BYTES, SUB_HEADER_SIZES_BYTES[version])
    return kdump.SUB_HEADER.unpack_from(known.ljust(kdump.SUB_HEADER.size_bytes, b"\0"))


def _notes(file: File, sub: kdump.SubHeader) -> bytes:
    """Before version 4 the text of VMCOREINFO alone is kept, without its note."""
    if max(sub.notes_size_bytes, sub.vmcoreinfo_size_bytes) > NOTES_MAXIMUM_BYTES:
        raise FormatError(f"the notes claim to be larger than {NOTES_MAXIMUM_BYTES} bytes")
    notes = file.read(sub.notes_offset_bytes, sub.notes_size_bytes) if sub.notes_size_bytes else b""
    has_vmcoreinfo = any(note.name == VMCOREINFO_NAME for note in parse_notes(notes))
    if sub.vmcoreinfo_size_bytes and not has_vmcoreinfo:
        text = file.read(sub.vmcoreinfo_offset_bytes, sub.vmcoreinfo_size_bytes)
        notes += bytes(-len(notes) % 4) + pack_notes([vmcoreinfo_note(text)])
    return notes
