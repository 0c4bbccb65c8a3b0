"""The dump control block: all that a dump needs at crash time, in one sealed memory file.

head            ControlBlockHead, 4096 bytes with padding
extents         ExtentRecord (as in the boot area), head.extent_count rows
memory ranges   MemoryMapRecord, head.range_count rows
page classes    ClassRunRecord, head.class_count rows
clone images    CloneImageRecord, head.image_count rows, then their code one behind the other
"""

from __future__ import annotations

from typing import Annotated, NamedTuple

from vdisk.layout import Layout

MAGIC = b"GHOSTCB\0"
VERSION = 1
HEAD_SIZE_BYTES = 4096


class ControlBlockHead(NamedTuple):
    """Sizes are of the tables that follow it, in the order of the fields."""

    magic: Annotated[bytes, "8s"]
    version: Annotated[int, "I"]
    writer_threads: Annotated[int, "I"]
    dump_id: Annotated[bytes, "16s"]
    generation: Annotated[int, "Q"]
    armed_time_ns: Annotated[int, "Q"]
    disk_size_bytes: Annotated[int, "Q"]
    memory_size_bytes: Annotated[int, "Q"]
    extent_count: Annotated[int, "I"]
    range_count: Annotated[int, "I"]
    class_count: Annotated[int, "I"]
    image_count: Annotated[int, "I"]
    total_size_bytes: Annotated[int, "Q"]
    machine: Annotated[bytes, "64s"]  # UTF-8, padded with zeros
    digest: Annotated[bytes, "32s"]  # BLAKE3 of the whole block with this field zero


class MemoryMapRecord(NamedTuple):
    """Where a range of physical memory lies in the memory file."""

    physical_bytes: Annotated[int, "Q"]
    length_bytes: Annotated[int, "Q"]
    file_offset_bytes: Annotated[int, "Q"]


class ClassRunRecord(NamedTuple):
    """Pages of one class. The lower the class, the more the pages are worth."""

    page_class: Annotated[int, "Q"]
    first_page: Annotated[int, "Q"]
    page_count: Annotated[int, "Q"]


class CloneImageRecord(NamedTuple):
    """One cloned driver. The code is marshalled Python bytecode of the interpreter that armed."""

    name: Annotated[bytes, "32s"]
    length_bytes: Annotated[int, "Q"]


CONTROL_BLOCK_HEAD = Layout(ControlBlockHead, size_bytes=184)
MEMORY_MAP = Layout(MemoryMapRecord, size_bytes=24)
CLASS_RUN = Layout(ClassRunRecord, size_bytes=24)
CLONE_IMAGE = Layout(CloneImageRecord, size_bytes=40)
