"""A stretch of virtual memory that is read piece by piece, mostly in order, and fields of the structures in it."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

from vdisk.errors import FormatError

if TYPE_CHECKING:
    from dumpwriter.linux.address_space import AddressSpace

CHUNK_BYTES = 1 << 16
CACHED_CHUNKS = 4


class Area:
    """`length_bytes` at an address. However long it claims to be, no more than a few chunks of it are held.

    A page that is missing costs the pieces that lie in it, and no others.
    """

    def __init__(self, space: AddressSpace, address: int, length_bytes: int) -> None:
        self.address = address
        self.length_bytes = length_bytes
        self._space = space
        self._chunk = lru_cache(CACHED_CHUNKS)(self._read_chunk)

    def read(self, offset_bytes: int, length_bytes: int) -> bytes:
        """Raises `FormatError` where the piece is not inside, or cannot be read."""
        if not 0 <= offset_bytes <= offset_bytes + length_bytes <= self.length_bytes:
            raise FormatError(f"{length_bytes} bytes at {offset_bytes} are not inside of {self.length_bytes}")
        start = offset_bytes - offset_bytes % CHUNK_BYTES
        piece = self._chunk(start)[offset_bytes - start : offset_bytes - start + length_bytes]
        return piece if len(piece) == length_bytes else self._space.read(self.address + offset_bytes, length_bytes)

    def _read_chunk(self, start: int) -> bytes:
        """Nothing where a page of it is missing: each piece is then read alone, and tells what is missing of it."""
        try:
            return self._space.read(self.address + start, min(CHUNK_BYTES, self.length_bytes - start))
        except FormatError:
            return b""


def unsigned(content: bytes, offset_bytes: int, size_bytes: int) -> int:
    """A little-endian field. Raises `FormatError` where VMCOREINFO has it outside of its structure."""
    if not 0 <= offset_bytes <= len(content) - size_bytes:
        raise FormatError(f"a field of {size_bytes} bytes at {offset_bytes} is not in a structure of {len(content)}")
    return int.from_bytes(content[offset_bytes : offset_bytes + size_bytes], "little")
