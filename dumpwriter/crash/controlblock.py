"""The dump control block, made at arming and believed at the crash only as a whole."""

from __future__ import annotations

import fcntl
import mmap
import os
from typing import TYPE_CHECKING, NamedTuple

import blake3

from dumpwriter.formats.controlblock import (
    CLASS_RUN,
    CLONE_IMAGE,
    CONTROL_BLOCK_HEAD,
    HEAD_SIZE_BYTES,
    MAGIC,
    MEMORY_MAP,
    VERSION,
    ClassRunRecord,
    CloneImageRecord,
    ControlBlockHead,
    MemoryMapRecord,
)
from dumpwriter.frames import DumpIdentity
from vdisk.bootarea import EXTENT, ExtentRecord
from vdisk.errors import FormatError
from vdisk.extent import Extent, ExtentMap
from vdisk.stack import CloneImage

if TYPE_CHECKING:
    from typing_extensions import Buffer

SEALS = fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE


class ControlBlock(NamedTuple):
    """What the clone knows of the world. Memory ranges are (physical, length, offset in the memory file) in bytes."""

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


def encode(block: ControlBlock) -> bytes:
    tables = (
        EXTENT.pack_table([ExtentRecord(*extent) for extent in block.extents.extents])
        + MEMORY_MAP.pack_table(block.memory_ranges)
        + CLASS_RUN.pack_table(block.page_classes)
        + CLONE_IMAGE.pack_table([CloneImageRecord(image.name.encode(), len(image.code)) for image in block.images])
        + b"".join(image.code for image in block.images)
    )
    head = ControlBlockHead(
        magic=MAGIC,
        version=VERSION,
        writer_threads=block.writer_threads,
        dump_id=block.identity.dump_id,
        generation=block.identity.generation,
        armed_time_ns=block.armed_time_ns,
        disk_size_bytes=block.disk_size_bytes,
        memory_size_bytes=block.memory_size_bytes,
        extent_count=len(block.extents.extents),
        range_count=len(block.memory_ranges),
        class_count=len(block.page_classes),
        image_count=len(block.images),
        total_size_bytes=HEAD_SIZE_BYTES + len(tables),
        machine=block.machine.encode()[:64],
        digest=bytes(32),
    )
    blank = CONTROL_BLOCK_HEAD.pack(head).ljust(HEAD_SIZE_BYTES, b"\0") + tables
    digest = blake3.blake3(blank).digest()
    return CONTROL_BLOCK_HEAD.pack(head._replace(digest=digest)).ljust(HEAD_SIZE_BYTES, b"\0") + tables


def decode(content: Buffer) -> ControlBlock:
    """Raises `FormatError` where the block is not, bit for bit, what was sealed."""
    view = memoryview(content).cast("B")
    head = CONTROL_BLOCK_HEAD.unpack_from(view)
    if head.magic != MAGIC or head.version != VERSION:
        raise FormatError("dump control block: no magic, or another version")
    if not HEAD_SIZE_BYTES <= head.total_size_bytes <= view.nbytes:
        raise FormatError("dump control block: cut short")
    view = view[: head.total_size_bytes]
    blank = CONTROL_BLOCK_HEAD.pack(head._replace(digest=bytes(32)))
    hasher = blake3.blake3(blank)
    hasher.update(view[CONTROL_BLOCK_HEAD.size_bytes :])
    if hasher.digest() != head.digest:
        raise FormatError("dump control block: digest does not hold")
    offset_bytes = HEAD_SIZE_BYTES
    extents = EXTENT.unpack_table(view, offset_bytes, head.extent_count)
    offset_bytes += head.extent_count * EXTENT.size_bytes
    ranges = MEMORY_MAP.unpack_table(view, offset_bytes, head.range_count)
    offset_bytes += head.range_count * MEMORY_MAP.size_bytes
    classes = CLASS_RUN.unpack_table(view, offset_bytes, head.class_count)
    offset_bytes += head.class_count * CLASS_RUN.size_bytes
    rows = CLONE_IMAGE.unpack_table(view, offset_bytes, head.image_count)
    offset_bytes += head.image_count * CLONE_IMAGE.size_bytes
    images = []
    for name, length_bytes in rows:
        code = bytes(view[offset_bytes : offset_bytes + length_bytes])
        images.append(CloneImage(name.rstrip(b"\0").decode(), code))
        offset_bytes += length_bytes
    return ControlBlock(
        identity=DumpIdentity(head.dump_id, head.generation),
        armed_time_ns=head.armed_time_ns,
        disk_size_bytes=head.disk_size_bytes,
        memory_size_bytes=head.memory_size_bytes,
        writer_threads=head.writer_threads,
        machine=head.machine.rstrip(b"\0").decode(errors="replace"),
        extents=ExtentMap(Extent(*row) for row in extents),
        memory_ranges=tuple(ranges),
        page_classes=tuple(classes),
        images=tuple(images),
    )


def seal(block: ControlBlock) -> int:
    """A descriptor of a memory file that holds the block and that nobody, ourselves included, can change."""
    content = encode(block)
    descriptor = os.memfd_create("ghostdump-control-block", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    with os.fdopen(os.dup(descriptor), "wb") as file:
        file.write(content)
    fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, SEALS)
    return descriptor


def unseal(descriptor: int) -> ControlBlock:
    """Raises `FormatError` where the descriptor is not sealed or the block does not hold."""
    if fcntl.fcntl(descriptor, fcntl.F_GET_SEALS) & SEALS != SEALS:
        raise FormatError("dump control block: not sealed")
    with mmap.mmap(descriptor, 0, prot=mmap.PROT_READ) as mapped:
        return decode(bytes(mapped))
