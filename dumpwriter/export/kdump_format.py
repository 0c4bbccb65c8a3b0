"""Declarations of the kdump-compressed format, version 6, for x86-64. Source: makedumpfile 1.7.2, IMPLEMENTATION and
diskdump_mod.h.

    block 0              main header
    from block 1         sub-header, and the notes right behind it
    then                 bitmap 1: pages that exist; bitmap 2: pages that are in the file; each in whole blocks
    then                 one descriptor for each page in the file, in ascending order of pages
    then                 the pages, in any order
"""

from __future__ import annotations

from enum import IntFlag
from typing import Annotated, NamedTuple

import numpy as np

from vdisk.layout import Layout

SIGNATURE = b"KDUMP   "
HEADER_VERSION = 6
BLOCK_SIZE_BYTES = 4096
SUB_HEADER_OFFSET_BYTES = BLOCK_SIZE_BYTES
SYSTEM_NAME_SIZE_BYTES = 65


class Flag(IntFlag):
    """Of a page: how it is compressed. In the status: how any of them may be, and what is wrong with the dump."""

    RAW = 0
    ZLIB = 0x1
    LZO = 0x2
    SNAPPY = 0x4
    INCOMPLETE = 0x8  # only in the status
    ZSTD = 0x20


class DumpHeader(NamedTuple):
    """struct disk_dump_header. `bitmap_blocks` counts those of both bitmaps."""

    signature: Annotated[bytes, "8s"]
    header_version: Annotated[int, "I"]
    system_names: Annotated[bytes, "390s"]
    padding: Annotated[bytes, "6s"]
    crash_seconds: Annotated[int, "Q"]
    crash_microseconds: Annotated[int, "Q"]
    status: Annotated[int, "I"]
    block_size_bytes: Annotated[int, "I"]
    sub_header_blocks: Annotated[int, "I"]
    bitmap_blocks: Annotated[int, "I"]
    max_mapnr: Annotated[int, "I"]
    total_ram_blocks: Annotated[int, "I"]
    device_blocks: Annotated[int, "I"]
    written_blocks: Annotated[int, "I"]
    current_cpu: Annotated[int, "I"]
    cpu_count: Annotated[int, "I"]


class SubHeader(NamedTuple):
    """struct kdump_sub_header. `max_mapnr` is one more than the largest page number; the main header's own is cut to
    32 bits."""

    phys_base: Annotated[int, "q"]
    dump_level: Annotated[int, "I"]
    is_split: Annotated[int, "I"]
    start_page_32: Annotated[int, "Q"]
    end_page_32: Annotated[int, "Q"]
    vmcoreinfo_offset_bytes: Annotated[int, "Q"]
    vmcoreinfo_size_bytes: Annotated[int, "Q"]
    notes_offset_bytes: Annotated[int, "Q"]
    notes_size_bytes: Annotated[int, "Q"]
    erase_info_offset_bytes: Annotated[int, "Q"]
    erase_info_size_bytes: Annotated[int, "Q"]
    start_page: Annotated[int, "Q"]
    end_page: Annotated[int, "Q"]
    max_mapnr: Annotated[int, "Q"]


DUMP_HEADER = Layout(DumpHeader, size_bytes=464)
SUB_HEADER = Layout(SubHeader, size_bytes=104)

PAGE_DESCRIPTOR = np.dtype([("offset_bytes", "<u8"), ("size_bytes", "<u4"), ("flags", "<u4"), ("page_flags", "<u8")])
"""struct page_desc: where a page is in the file, and how long what stands there."""
