"""The headers of a dump: two copies in its region, of which one is enough. They explain what the frames must prove."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dumpwriter.crash.dump import header_offsets_bytes
from dumpwriter.frames import decode_dump_header
from vdisk.blockdevice import BLOCK_SIZE_BYTES
from vdisk.errors import DeviceError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from dumpwriter.formats.region import DumpHeader
    from dumpwriter.frames import DumpIdentity
    from vdisk.layers.mapped import Mapped


def newest_header(region: Mapped, identity: DumpIdentity) -> DumpHeader | None:
    """The whole header copy of this dump that knows most; None where neither is whole."""
    return newest(header for header, _ in _header_copies(region, identity))


def header_blocks(region: Mapped, identity: DumpIdentity) -> list[bytes]:
    """The whole header copies of this dump, as they lie."""
    return [block for _, block in _header_copies(region, identity)]


def newest(headers: Iterable[DumpHeader]) -> DumpHeader | None:
    return max(headers, key=lambda header: header.state, default=None)


def _header_copies(region: Mapped, identity: DumpIdentity) -> Iterator[tuple[DumpHeader, bytes]]:
    for offset_bytes in header_offsets_bytes(region.size_bytes):
        (place,) = region.extents.runs(offset_bytes, BLOCK_SIZE_BYTES)
        try:
            block = region.read(offset_bytes, BLOCK_SIZE_BYTES)
        except DeviceError:
            continue  # the other copy is there for this
        header = decode_dump_header(block, identity, place.physical_bytes)
        if header is not None:
            yield header, block
