"""Finding a dump without any map: every frame tells its dump, its pages and its places on the disk.

What the boot record would know is lost: whether the dump was taken out already, and whether it is the newest. So the
newest generation that is there is taken, and the report says that it was carved.
"""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING

from dumpwriter.formats.region import FRAME_MAGIC
from dumpwriter.frames import DumpIdentity, decode_header
from vdisk.blockdevice import BLOCK_SIZE_BYTES
from vdisk.errors import DeviceError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from dumpwriter.frames import Frame
    from vdisk.blockdevice import BlockDevice

READ_SIZE_BYTES = 4 << 20


def carve(disk: BlockDevice, progress: Callable[[int, int], None]) -> tuple[DumpIdentity, list[Frame]] | None:
    """The frames of the newest dump on a disk, in their order; None where there is no frame at all."""
    found: defaultdict[DumpIdentity, list[Frame]] = defaultdict(list)
    for frame in _frames(disk, progress):
        found[DumpIdentity(frame.header.dump_id, frame.header.generation)].append(frame)
    if not found:
        return None
    newest = max(found, key=lambda identity: (identity.generation, len(found[identity])))
    return newest, sorted(found[newest], key=lambda frame: frame.header.sequence)


def _frames(disk: BlockDevice, progress: Callable[[int, int], None]) -> Iterator[Frame]:
    buffer = bytearray(READ_SIZE_BYTES)
    for start_bytes in range(0, disk.size_bytes, READ_SIZE_BYTES):
        view = memoryview(buffer)[: min(READ_SIZE_BYTES, disk.size_bytes - start_bytes)]
        for block_bytes in _blocks_with_magic(disk, start_bytes, view):
            frame = decode_header(view[block_bytes : block_bytes + BLOCK_SIZE_BYTES], identity=None)
            if frame is not None and _is_on_disk(frame, disk, start_bytes + block_bytes):
                yield frame
        progress(min(start_bytes + READ_SIZE_BYTES, disk.size_bytes), disk.size_bytes)


def _blocks_with_magic(disk: BlockDevice, start_bytes: int, view: memoryview) -> Iterator[int]:
    """Offsets in the view; a piece of the disk that cannot be read whole is read block by block."""
    try:
        disk.read_into(start_bytes, view)
    except DeviceError:
        for offset_bytes in range(0, view.nbytes, BLOCK_SIZE_BYTES):
            block = view[offset_bytes : offset_bytes + BLOCK_SIZE_BYTES]
            try:
                disk.read_into(start_bytes + offset_bytes, block)
            except DeviceError:
                block[:] = bytes(block.nbytes)
    content = bytes(view)
    position = content.find(FRAME_MAGIC)
    while position >= 0:
        if position % BLOCK_SIZE_BYTES == 0:
            yield position
        position = content.find(FRAME_MAGIC, position + 1)


def _is_on_disk(frame: Frame, disk: BlockDevice, offset_bytes: int) -> bool:
    """Whether the frame lies where it says, and names no place that the disk does not have."""
    return frame.places[0].physical_bytes == offset_bytes and all(
        place.physical_bytes % BLOCK_SIZE_BYTES == 0
        and place.length_bytes % BLOCK_SIZE_BYTES == 0
        and place.physical_bytes + place.length_bytes <= disk.size_bytes
        for place in frame.places
    )
