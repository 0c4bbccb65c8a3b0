"""The dump control block: all that a dump needs at crash time, in one sealed memory file.

head        ControlBlockHead, 4096 bytes with padding
sections    SectionRecord, head.section_count rows
contents    of the sections, one behind the other, in the order of the rows
"""

from __future__ import annotations

from enum import IntEnum
from typing import Annotated, NamedTuple

from vdisk.layout import Layout

MAGIC = b"GHOSTCB\0"
VERSION = 1
HEAD_SIZE_BYTES = 4096
SECTION_COUNT_MAX = 1024


class Purpose(IntEnum):
    """What the memory is written for."""

    CRASH = 0
    HIBERNATION = 1


class SectionKind(IntEnum):
    """What a section holds."""

    EXTENTS = 1  # ExtentRecord, as in the boot area
    MEMORY_MAP = 2  # MemoryMapRecord
    PAGE_CLASSES = 3  # ClassRunRecord, as in the region
    CLONE_IMAGE = 4  # CloneImageRecord, then the code; one section a driver, from the controller upwards
    DUMP_SEAL = 5  # DumpSealRecord, then the wrapped key; only where the dump is to be sealed
    VOLUME_KEY = 6  # VolumeKeyRecord; only where the volume is encrypted


class ControlBlockHead(NamedTuple):
    """The head, and how much follows it."""

    magic: Annotated[bytes, "8s"]
    version: Annotated[int, "I"]
    writer_threads: Annotated[int, "I"]
    dump_id: Annotated[bytes, "16s"]
    generation: Annotated[int, "Q"]
    armed_time_ns: Annotated[int, "Q"]
    disk_size_bytes: Annotated[int, "Q"]
    memory_size_bytes: Annotated[int, "Q"]
    total_size_bytes: Annotated[int, "Q"]
    section_count: Annotated[int, "I"]
    purpose: Annotated[int, "I"]
    dump_level: Annotated[int, "Q"]
    time_budget_ns: Annotated[int, "Q"]
    parity_percent: Annotated[int, "Q"]  # of the frames, in parity frames; 0 for none
    machine: Annotated[bytes, "64s"]  # UTF-8, padded with zeros
    digest: Annotated[bytes, "32s"]  # BLAKE3 of the whole block with this field zero


class SectionRecord(NamedTuple):
    """One section: what it is, and how many bytes of the contents are its own."""

    kind: Annotated[int, "Q"]
    length_bytes: Annotated[int, "Q"]


class MemoryMapRecord(NamedTuple):
    """Where a range of physical memory lies in the memory file."""

    physical_bytes: Annotated[int, "Q"]
    length_bytes: Annotated[int, "Q"]
    file_offset_bytes: Annotated[int, "Q"]


class CloneImageRecord(NamedTuple):
    """The head of one cloned driver. The code is marshalled Python bytecode of the interpreter that armed."""

    name: Annotated[bytes, "32s"]


class DumpSealRecord(NamedTuple):
    """The head of what frames are sealed with; the key wrapped for the public key follows."""

    key: Annotated[bytes, "32s"]  # AES-256, made at this arming; nowhere else
    fingerprint: Annotated[bytes, "32s"]
    algorithm: Annotated[int, "Q"]


class VolumeKeyRecord(NamedTuple):
    """The key that one of the cloned drivers is started with. It is nowhere but here and in the drivers themselves."""

    driver: Annotated[bytes, "32s"]
    key: Annotated[bytes, "64s"]


CONTROL_BLOCK_HEAD = Layout(ControlBlockHead, size_bytes=200)
SECTION = Layout(SectionRecord, size_bytes=16)
MEMORY_MAP = Layout(MemoryMapRecord, size_bytes=24)
CLONE_IMAGE = Layout(CloneImageRecord, size_bytes=32)
DUMP_SEAL = Layout(DumpSealRecord, size_bytes=72)
VOLUME_KEY = Layout(VolumeKeyRecord, size_bytes=96)
