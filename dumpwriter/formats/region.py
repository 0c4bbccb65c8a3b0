"""What a dump in the region consists of: a header in two copies, and frames in slots.

    block 0                     dump header, copy A
    block 1 + 65 n              slot n: one frame, its header block and up to 64 payload blocks
    last block                  dump header, copy B

A frame says everything about itself: which dump it is of, which slot it was meant for, where on the disk each of its
blocks lies, which pages of memory it holds. So it can be believed alone, and found without any map. A parity frame
holds the XOR of others, header blocks and all: what comes of it must prove itself as any frame does.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Annotated, NamedTuple

from vdisk.blockdevice import BLOCK_SIZE_BYTES, SECTOR_SIZE_BYTES
from vdisk.layout import Layout

PAGE_SIZE_BYTES = 4096
PAGES_MAX = 1 << 40  # no page number is larger: 4 PiB of physical addresses
FRAME_PAGES_MAX = 64
COVERED_PAGES_MAX = FRAME_PAGES_MAX - 1  # with its header block such a frame fits the payload of a parity frame
SLOT_BLOCKS = 1 + FRAME_PAGES_MAX
SLOT_SIZE_BYTES = SLOT_BLOCKS * BLOCK_SIZE_BYTES
FIRST_SLOT_OFFSET_BYTES = BLOCK_SIZE_BYTES
HEADER_SIZE_BYTES = SECTOR_SIZE_BYTES

HEADER_MAGIC = b"GHOSTDH\0"
FRAME_MAGIC = b"GHOSTFR\0"
VERSION = 1

RUNS_MAX = 128
PLACES_MAX = SLOT_BLOCKS
WRAPPED_SIZE_BYTES_MAX = 512  # RSA of 4096 bits

SECONDARY_NAME_SIZE_BYTES = 64
SECONDARY_COUNT_MAX = 32
SECONDARY_SIZE_BYTES_MAX = 1 << 20  # all secondary data of a dump together


class DumpState(IntEnum):
    """How far the writer came. It is told, never trusted: recovery counts the pages itself."""

    ARMED = 1
    WRITING = 2
    WRITTEN = 3


class DumpEnding(IntEnum):
    """How the writing ended, where the writer came to say so. It is told, never trusted."""

    NONE = 0
    THROUGH = 1  # every frame of the plan was tried
    TIME_BUDGET = 2  # the time budget was over before that


class DumpLevel(IntEnum):
    """What a dump is to hold. A level holds all that the one before it does."""

    AUTOMATIC = 0  # all of memory, as far as the region reaches
    SMALL = 1  # log, kernel structures, page tables
    KERNEL = 2  # and the kernel's data
    ACTIVE = 3  # and the pages of user processes
    COMPLETE = 4  # and cache and free pages: all of memory


class FrameKind(IntEnum):
    META = 1  # payload: metadata records; no pages
    PAGES = 2  # payload: the pages of the runs, in order
    ZEROS = 3  # no payload: every page of the runs is zero
    SECONDARY = 4  # payload: pieces of secondary data; no pages
    PARITY = 5  # payload: the XOR of the frames in the slots that it names; never sealed


class SealAlgorithm(IntEnum):
    """How the key of a sealed dump is wrapped for the public key."""

    X25519 = 1  # wrapped key: ephemeral public key (32), then AES-KW under HKDF-SHA256 of the shared secret (40)
    RSA = 2  # wrapped key: OAEP with SHA-256, as long as the modulus


class MetaKind(IntEnum):
    NOTES = 1  # an ELF PT_NOTE segment: registers of each CPU, VMCOREINFO
    MEMORY_RANGES = 2  # MemoryRangeRecord, one behind the other
    MACHINE = 3  # UTF-8: kind of machine, version of the writer
    LEVEL = 4  # LevelRecord: what the dump was to hold
    PAGE_CLASSES = 5  # ClassRunRecord, one behind the other: what each page is worth
    SECONDARY = 6  # SecondaryRecord, one behind the other: what secondary data there was


class SecondaryState(IntEnum):
    """What the writer found of a blob in the dead machine's memory."""

    WHOLE = 1
    TORN = 2  # the machine died in the middle of it; it is not in the dump


class CauseKind(IntEnum):
    """What woke the standby."""

    NONE = 0
    BUGCHECK = 1  # the machine's own bugcheck ran and captured registers
    MACHINE_DIED = 2  # the machine's process ended without one
    WATCHDOG = 3  # it did not answer the bugcheck request in time and was killed
    HIBERNATION = 4  # nothing is wrong: the machine is to go on from this memory


class DumpHeader(NamedTuple):
    """One sector, the rest of its block zero. The last four bytes of the sector are the CRC32C of the rest."""

    magic: Annotated[bytes, "8s"]
    version: Annotated[int, "I"]
    state: Annotated[int, "I"]
    dump_id: Annotated[bytes, "16s"]
    generation: Annotated[int, "Q"]
    physical_bytes: Annotated[int, "Q"]
    region_size_bytes: Annotated[int, "Q"]
    frames_planned: Annotated[int, "I"]
    frames_written: Annotated[int, "I"]
    frames_failed: Annotated[int, "I"]
    cause_kind: Annotated[int, "I"]
    dump_level: Annotated[int, "I"]
    ending: Annotated[int, "I"]
    pages_total: Annotated[int, "Q"]
    pages_wanted: Annotated[int, "Q"]
    pages_planned: Annotated[int, "Q"]
    pages_written: Annotated[int, "Q"]
    bytes_written: Annotated[int, "Q"]
    bugcheck_code: Annotated[int, "Q"]
    bugcheck_parameters: Annotated[bytes, "32s"]  # four integers of 64 bits
    armed_time_ns: Annotated[int, "Q"]
    crash_time_ns: Annotated[int, "Q"]
    end_time_ns: Annotated[int, "Q"]
    cause_text: Annotated[bytes, "128s"]  # UTF-8, padded with zeros
    boot_stage: Annotated[int, "I"]  # `BootStage`: how far the machine was
    writer: Annotated[int, "I"]  # 1 + the rank of the process that writes, as in the runtime file; 0 where none did
    slots_planned: Annotated[int, "I"]  # slots that may hold frames, those to which frames can be moved included
    frames_moved: Annotated[int, "I"]  # of those written, the ones that their own slot did not take
    takeover_text: Annotated[bytes, "84s"]  # why those of a lower rank did not; UTF-8, padded with zeros
    seal_fingerprint: Annotated[bytes, "32s"]  # as in FrameSeal; zero where the dump is not sealed
    seal_nonce: Annotated[bytes, "12s"]
    seal_tag: Annotated[bytes, "16s"]  # AES-256-GCM over this record, with the tag and the digest zero
    digest: Annotated[bytes, "32s"]  # BLAKE3 of the record with this field zero


class FrameHeader(NamedTuple):
    """The head of a frame's header block; places and runs follow it. The block's last four bytes are its CRC32C.

    Instead of runs a PARITY frame has the slots that it covers.
    """

    magic: Annotated[bytes, "8s"]
    version: Annotated[int, "H"]
    kind: Annotated[int, "H"]
    sequence: Annotated[int, "I"]
    dump_id: Annotated[bytes, "16s"]
    generation: Annotated[int, "Q"]
    region_offset_bytes: Annotated[int, "Q"]
    pages_total: Annotated[int, "Q"]
    payload_size_bytes: Annotated[int, "I"]
    payload_crc32c: Annotated[int, "I"]
    place_count: Annotated[int, "H"]
    run_count: Annotated[int, "H"]
    seal_size_bytes: Annotated[int, "I"]  # of FrameSeal and wrapped key, behind the runs; 0 where the frame is plain
    digest: Annotated[bytes, "32s"]  # BLAKE3 of the header block (digest and CRC zero) and the payload


class Place(NamedTuple):
    """Where on the disk a piece of the frame (header block first, then payload) lies."""

    physical_bytes: Annotated[int, "Q"]
    length_bytes: Annotated[int, "Q"]


class PageRun(NamedTuple):
    """Contiguous pages of physical memory, by page number."""

    first_page: Annotated[int, "Q"]
    page_count: Annotated[int, "Q"]


class CoveredSlot(NamedTuple):
    """In a PARITY frame, instead of a run: a slot whose frame it covers."""

    slot: Annotated[int, "Q"]


class FrameSeal(NamedTuple):
    """Behind the runs of a sealed frame; the wrapped key follows it, in every frame of a dump the same."""

    tag: Annotated[bytes, "16s"]
    nonce: Annotated[bytes, "12s"]
    algorithm: Annotated[int, "H"]
    wrapped_size_bytes: Annotated[int, "H"]
    fingerprint: Annotated[bytes, "32s"]  # SHA-256 of the public key as a DER SubjectPublicKeyInfo


class MetaRecord(NamedTuple):
    """The head of one metadata record; its content follows, padded to 8 bytes."""

    kind: Annotated[int, "I"]
    length_bytes: Annotated[int, "I"]


class MemoryRangeRecord(NamedTuple):
    """A range of physical memory that the machine has."""

    physical_bytes: Annotated[int, "Q"]
    length_bytes: Annotated[int, "Q"]


class LevelRecord(NamedTuple):
    """What the dump was asked to hold."""

    dump_level: Annotated[int, "Q"]


class ClassRunRecord(NamedTuple):
    """Pages of one class. The lower the class, the more the pages are worth."""

    page_class: Annotated[int, "Q"]
    first_page: Annotated[int, "Q"]
    page_count: Annotated[int, "Q"]


class SecondaryRecord(NamedTuple):
    """A blob that the machine had registered. What is not of it in a SECONDARY frame is lost."""

    name: Annotated[bytes, "64s"]  # padded with zeros
    size_bytes: Annotated[int, "I"]
    state: Annotated[int, "I"]
    digest: Annotated[bytes, "32s"]  # BLAKE3 of the content


class SecondaryPiece(NamedTuple):
    """The head of one piece of a blob; its content follows, padded to 8 bytes."""

    name: Annotated[bytes, "64s"]  # padded with zeros
    size_bytes: Annotated[int, "I"]  # of the whole blob
    offset_bytes: Annotated[int, "I"]
    length_bytes: Annotated[int, "Q"]


DUMP_HEADER = Layout(DumpHeader, size_bytes=504)
FRAME_HEADER = Layout(FrameHeader, size_bytes=104)
PLACE = Layout(Place, size_bytes=16)
PAGE_RUN = Layout(PageRun, size_bytes=16)
COVERED_SLOT = Layout(CoveredSlot, size_bytes=8)
FRAME_SEAL = Layout(FrameSeal, size_bytes=64)
META_RECORD = Layout(MetaRecord, size_bytes=8)
MEMORY_RANGE = Layout(MemoryRangeRecord, size_bytes=16)
LEVEL = Layout(LevelRecord, size_bytes=8)
CLASS_RUN = Layout(ClassRunRecord, size_bytes=24)
SECONDARY = Layout(SecondaryRecord, size_bytes=104)
SECONDARY_PIECE = Layout(SecondaryPiece, size_bytes=80)

assert (
    FRAME_HEADER.size_bytes
    + PLACES_MAX * PLACE.size_bytes
    + RUNS_MAX * PAGE_RUN.size_bytes
    + FRAME_SEAL.size_bytes
    + WRAPPED_SIZE_BYTES_MAX
) <= BLOCK_SIZE_BYTES - 4
