"""The dump control block, made at arming and believed at the crash only as a whole."""

from __future__ import annotations

import ctypes
import fcntl
import mmap
import os
from collections import defaultdict
from typing import TYPE_CHECKING, NamedTuple

import blake3

from dumpwriter.crash.protection import NO_PARITY
from dumpwriter.formats.controlblock import (
    CLONE_IMAGE,
    CONTROL_BLOCK_HEAD,
    DUMP_SEAL,
    HEAD_SIZE_BYTES,
    MAGIC,
    MEMORY_MAP,
    SECTION,
    SECTION_COUNT_MAX,
    VERSION,
    VOLUME_KEY,
    CloneImageRecord,
    ControlBlockHead,
    DumpSealRecord,
    MemoryMapRecord,
    Purpose,
    SectionKind,
    SectionRecord,
    VolumeKeyRecord,
)
from dumpwriter.formats.region import CLASS_RUN, ClassRunRecord, DumpLevel, SealAlgorithm
from dumpwriter.frames import DumpIdentity
from dumpwriter.sealing import DumpSeal
from vdisk.bootarea import EXTENT, ExtentRecord
from vdisk.errors import FormatError
from vdisk.extent import Extent, ExtentMap
from vdisk.secret import Secret
from vdisk.stack import CloneImage
from vdisk.volume import NO_KEY

if TYPE_CHECKING:
    from typing_extensions import Buffer

    from vdisk.layout import Layout, Record

SEALS = fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE


class Section(NamedTuple):
    """Where the content of a section lies in its block."""

    kind: int
    offset_bytes: int
    length_bytes: int


class ControlBlock(NamedTuple):
    """What the clone knows of the world. Memory ranges are (physical, length, offset in the memory file) in bytes.

    A time budget of 0 is none.
    """

    identity: DumpIdentity
    armed_time_ns: int
    disk_size_bytes: int
    memory_size_bytes: int
    writer_threads: int
    machine: str
    extents: ExtentMap
    memory_ranges: tuple[MemoryMapRecord, ...]
    page_classes: tuple[ClassRunRecord, ...]
    images: tuple[CloneImage, ...]
    seal: DumpSeal | None = None  # None: frames go out as they are
    purpose: Purpose = Purpose.CRASH
    level: DumpLevel = DumpLevel.AUTOMATIC
    time_budget_ns: int = 0
    parity_percent: int = NO_PARITY


def encode(block: ControlBlock) -> bytes:
    sections = _sections(block)
    tables = SECTION.pack_table([SectionRecord(kind, len(content)) for kind, content in sections])
    tables += b"".join(content for _, content in sections)
    head = ControlBlockHead(
        magic=MAGIC,
        version=VERSION,
        writer_threads=block.writer_threads,
        dump_id=block.identity.dump_id,
        generation=block.identity.generation,
        armed_time_ns=block.armed_time_ns,
        disk_size_bytes=block.disk_size_bytes,
        memory_size_bytes=block.memory_size_bytes,
        total_size_bytes=HEAD_SIZE_BYTES + len(tables),
        section_count=len(sections),
        purpose=block.purpose,
        dump_level=block.level,
        time_budget_ns=block.time_budget_ns,
        parity_percent=block.parity_percent,
        machine=block.machine.encode()[:64],
        digest=bytes(32),
    )
    digest = blake3.blake3(_head_block(head) + tables).digest()
    return _head_block(head._replace(digest=digest)) + tables


def _sections(block: ControlBlock) -> list[tuple[SectionKind, bytes]]:
    return [
        (SectionKind.EXTENTS, EXTENT.pack_table([ExtentRecord(*extent) for extent in block.extents.extents])),
        (SectionKind.MEMORY_MAP, MEMORY_MAP.pack_table(block.memory_ranges)),
        (SectionKind.PAGE_CLASSES, CLASS_RUN.pack_table(block.page_classes)),
        *((SectionKind.CLONE_IMAGE, _encode_image(image)) for image in block.images),
        *((SectionKind.DUMP_SEAL, _encode_seal(seal)) for seal in (block.seal,) if seal),
        *((SectionKind.VOLUME_KEY, _encode_key(image)) for image in block.images if image.key),
    ]


def _encode_image(image: CloneImage) -> bytes:
    return CLONE_IMAGE.pack(CloneImageRecord(image.name.encode())) + image.code


def _encode_seal(seal: DumpSeal) -> bytes:
    return DUMP_SEAL.pack(DumpSealRecord(seal.key, seal.fingerprint, seal.algorithm)) + seal.wrapped


def _encode_key(image: CloneImage) -> bytes:
    return VOLUME_KEY.pack(VolumeKeyRecord(image.name.encode(), image.key))


def _head_block(head: ControlBlockHead) -> bytes:
    return CONTROL_BLOCK_HEAD.pack(head).ljust(HEAD_SIZE_BYTES, b"\0")


def decode(content: Buffer) -> ControlBlock:
    """Raises `FormatError` where the block is not, bit for bit, what was sealed."""
    view, head = _checked(content)
    contents = _contents(view, _places(view, head.section_count))
    return ControlBlock(
        identity=DumpIdentity(head.dump_id, head.generation),
        armed_time_ns=head.armed_time_ns,
        disk_size_bytes=head.disk_size_bytes,
        memory_size_bytes=head.memory_size_bytes,
        writer_threads=head.writer_threads,
        machine=_text(head.machine),
        extents=ExtentMap(Extent(*row) for row in _rows(EXTENT, contents, SectionKind.EXTENTS)),
        memory_ranges=tuple(_rows(MEMORY_MAP, contents, SectionKind.MEMORY_MAP)),
        page_classes=tuple(_rows(CLASS_RUN, contents, SectionKind.PAGE_CLASSES)),
        images=_decode_images(contents[SectionKind.CLONE_IMAGE], contents[SectionKind.VOLUME_KEY]),
        seal=next(map(_decode_seal, contents[SectionKind.DUMP_SEAL]), None),
        purpose=_purpose(head.purpose),
        level=DumpLevel(head.dump_level),
        time_budget_ns=head.time_budget_ns,
        parity_percent=head.parity_percent,
    )


def _purpose(number: int) -> Purpose:
    try:
        return Purpose(number)
    except ValueError:
        raise FormatError(f"dump control block: written for purpose {number}, which there is not") from None


def sections(content: Buffer) -> list[Section]:
    """Where each section of a block lies. Raises `FormatError` as `decode` does."""
    view, head = _checked(content)
    return _places(view, head.section_count)


def check(content: Buffer) -> None:
    """Raises `FormatError` where `decode` would. It takes no memory."""
    _checked(content)


def _checked(content: Buffer) -> tuple[memoryview, ControlBlockHead]:
    view = memoryview(content).cast("B")
    head = CONTROL_BLOCK_HEAD.unpack_from(view)
    if head.magic != MAGIC or head.version != VERSION:
        raise FormatError("dump control block: no magic, or another version")
    if not HEAD_SIZE_BYTES <= head.total_size_bytes <= view.nbytes or head.section_count > SECTION_COUNT_MAX:
        raise FormatError("dump control block: cut short")
    view = view[: head.total_size_bytes]
    hasher = blake3.blake3(CONTROL_BLOCK_HEAD.pack(head._replace(digest=bytes(32))))
    hasher.update(view[CONTROL_BLOCK_HEAD.size_bytes :])
    if hasher.digest() != head.digest:
        raise FormatError("dump control block: digest does not hold")
    return view, head


def _places(view: memoryview, count: int) -> list[Section]:
    offset_bytes = HEAD_SIZE_BYTES + count * SECTION.size_bytes
    places = []
    for kind, length_bytes in SECTION.unpack_table(view, HEAD_SIZE_BYTES, count):
        places.append(Section(kind, offset_bytes, length_bytes))
        offset_bytes += length_bytes
    if offset_bytes != view.nbytes:
        raise FormatError("dump control block: its sections are not as long as it is")
    return places


def _contents(view: memoryview, places: list[Section]) -> defaultdict[int, list[memoryview]]:
    """The contents of all sections by their kind."""
    contents = defaultdict(list)
    for kind, offset_bytes, length_bytes in places:
        contents[kind].append(view[offset_bytes : offset_bytes + length_bytes])
    return contents


def _rows(layout: Layout[Record], contents: dict[int, list[memoryview]], kind: SectionKind) -> list[Record]:
    (table,) = contents[kind]
    return layout.unpack_table(table, 0, table.nbytes // layout.size_bytes)


def _decode_images(images: list[memoryview], keys: list[memoryview]) -> tuple[CloneImage, ...]:
    rows = [VOLUME_KEY.unpack_from(content) for content in keys]
    key_by_driver = {_text(row.driver): Secret(row.key) for row in rows}
    decoded = tuple(_decode_image(content, key_by_driver) for content in images)
    if key_by_driver.keys() - {image.name for image in decoded}:
        raise FormatError("dump control block: a key for a driver that it does not have")
    return decoded


def _decode_image(content: memoryview, key_by_driver: dict[str, Secret]) -> CloneImage:
    name = _text(CLONE_IMAGE.unpack_from(content).name)
    return CloneImage(name, bytes(content[CLONE_IMAGE.size_bytes :]), key_by_driver.get(name, NO_KEY))


def _text(field: bytes) -> str:
    return field.rstrip(b"\0").decode(errors="replace")


def _decode_seal(content: memoryview) -> DumpSeal:
    record = DUMP_SEAL.unpack_from(content)
    wrapped = bytes(content[DUMP_SEAL.size_bytes :])
    return DumpSeal(Secret(record.key), SealAlgorithm(record.algorithm), record.fingerprint, wrapped)


def seal(block: ControlBlock) -> int:
    """A descriptor of a memory file that holds the block and that nobody, ourselves included, can change."""
    content = encode(block)
    descriptor = os.memfd_create("ghostdump-control-block", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    with os.fdopen(os.dup(descriptor), "wb") as file:
        file.write(content)
    fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, SEALS)
    return descriptor


class PrivateBlock:
    """A standby's own copy of a sealed block, in memory that no other process shares.

    What is sealed is still not safe from a bad write into the process that read it, so a standby believes its copy
    alone, and each time only after a check.
    """

    def __init__(self, content: Buffer) -> None:
        """Raises `FormatError` where the block does not hold."""
        self.sections = sections(content)
        self.size_bytes = memoryview(content).nbytes
        self._memory = mmap.mmap(-1, self.size_bytes)
        self._memory[:] = content
        self.address = ctypes.addressof(ctypes.c_char.from_buffer(self._memory))

    def check(self) -> None:
        """Raises `FormatError` where the copy is not what was sealed."""
        check(self._memory)

    def read(self) -> ControlBlock:
        """Raises `FormatError` where the copy is not what was sealed."""
        return decode(self._memory[:])

    def sections_of(self, kind: SectionKind) -> list[Section]:
        return [section for section in self.sections if section.kind == kind]


def unseal(descriptor: int) -> PrivateBlock:
    """A private copy of what was sealed. Raises `FormatError` where it was not, or where the block does not hold."""
    if fcntl.fcntl(descriptor, fcntl.F_GET_SEALS) & SEALS != SEALS:
        raise FormatError("dump control block: not sealed")
    with mmap.mmap(descriptor, 0, prot=mmap.PROT_READ) as mapped:
        return PrivateBlock(bytes(mapped))
