"""A sealed dump as a file: what the machine that cannot read it carries out of its region.

    copies of the dump header   those that were whole, a block each
    frames                      those that were believed, header block and payload, in the order in which they lay

Every piece is as it was on the disk, and says itself what it is. So there is no table that could be lost: whatever
part of the file is there gives its pages.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from dumpwriter.formats.region import FRAME_MAGIC, HEADER_MAGIC
from dumpwriter.frames import DumpIdentity, decode_dump_header, decode_header
from dumpwriter.recovery.headers import newest
from dumpwriter.recovery.scan import recover_one_behind_the_other
from vdisk.blockdevice import BLOCK_SIZE_BYTES
from vdisk.errors import DeviceError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from dumpwriter.formats.region import DumpHeader
    from dumpwriter.recovery.opening import Opener
    from dumpwriter.recovery.scan import Findings, PageSink
    from vdisk.blockdevice import BlockDevice

HEADER_COPIES = 2


class SealedFileSource(NamedTuple):
    """The frames in a file, of one dump."""

    file: BlockDevice
    identity: DumpIdentity
    kind: str = "file"
    disk: None = None

    def read(self, sink: PageSink, progress: Callable[[int, int], None], opener: Opener) -> Findings:
        header = newest(_headers(self.file, self.identity))
        return recover_one_behind_the_other(self.file, self.identity, header, sink, progress, opener)

    def header_blocks(self) -> list[bytes]:
        return [block for block in _blocks(self.file, HEADER_COPIES) if block.startswith(HEADER_MAGIC)]


def is_sealed_file(file: BlockDevice) -> bool:
    """By what it begins with; a block or two that are damaged do not matter."""
    return any(block.startswith((HEADER_MAGIC, FRAME_MAGIC)) for block in _blocks(file, HEADER_COPIES + 1))


def identity_in(file: BlockDevice) -> DumpIdentity | None:
    """Which dump the file holds: that of the first piece that is whole."""
    for block in _blocks(file, file.size_bytes // BLOCK_SIZE_BYTES):
        header = decode_dump_header(block, None, None)
        if header is not None:
            return DumpIdentity(header.dump_id, header.generation)
        frame = decode_header(memoryview(block), None)
        if frame is not None:
            return DumpIdentity(frame.header.dump_id, frame.header.generation)
    return None


def _headers(file: BlockDevice, identity: DumpIdentity) -> Iterator[DumpHeader]:
    for block in _blocks(file, HEADER_COPIES):
        header = decode_dump_header(block, identity, None)
        if header is not None:
            yield header


def _blocks(file: BlockDevice, count: int) -> Iterator[bytes]:
    """The first blocks, as far as they are there and can be read."""
    for position in range(0, min(count * BLOCK_SIZE_BYTES, file.size_bytes), BLOCK_SIZE_BYTES):
        try:
            yield file.read(position, BLOCK_SIZE_BYTES)
        except DeviceError:
            continue
