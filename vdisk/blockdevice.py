"""The block device: one small synchronous interface, and the layer that passes all of it on.

Offsets and lengths are in bytes and are multiples of `sector_size_bytes`. A write is durable only after a later `flush`
has returned, or when it was made by `write_through`. Every method raises `DeviceError` where the device fails, and
`ValueError` where the caller asked for bytes that the device does not have.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing_extensions import Buffer

SECTOR_SIZE_BYTES = 512
BLOCK_SIZE_BYTES = 4096


class BlockDevice(ABC):
    """A disk, or a part of one. Safe to call from several threads at once unless a layer says otherwise."""

    size_bytes: int
    sector_size_bytes: int = SECTOR_SIZE_BYTES

    @abstractmethod
    def read_into(self, offset_bytes: int, buffer: Buffer) -> None:
        """Fill the whole of a writable buffer from the device."""

    @abstractmethod
    def write_from(self, offset_bytes: int, buffer: Buffer) -> None:
        """Write the whole of a buffer to the device."""

    @abstractmethod
    def flush(self) -> None:
        """Make every write that has returned durable."""

    @abstractmethod
    def discard(self, offset_bytes: int, length_bytes: int) -> None:
        """Give the range up; it reads as zeros afterwards."""

    def write_through(self, offset_bytes: int, buffer: Buffer) -> None:
        """Write with forced unit access: this write is durable on return."""
        self.write_from(offset_bytes, buffer)
        self.flush()

    def read(self, offset_bytes: int, length_bytes: int) -> bytes:
        """Read into fresh bytes: for headers and records, not for the fast path."""
        buffer = bytearray(length_bytes)
        self.read_into(offset_bytes, buffer)
        return bytes(buffer)

    def check_range(self, offset_bytes: int, length_bytes: int) -> None:
        """Raise ValueError where a request is unaligned or leaves the device."""
        if offset_bytes < 0 or length_bytes < 0 or offset_bytes + length_bytes > self.size_bytes:
            raise ValueError(f"{length_bytes} bytes at {offset_bytes} are outside a device of {self.size_bytes} bytes")
        if offset_bytes % self.sector_size_bytes or length_bytes % self.sector_size_bytes:
            raise ValueError(f"{length_bytes} bytes at {offset_bytes} are not whole sectors")


class Layer(BlockDevice):
    """A device over another one; a layer overrides only what it is about."""

    def __init__(self, lower: BlockDevice) -> None:
        self.lower = lower
        self.size_bytes = lower.size_bytes
        self.sector_size_bytes = lower.sector_size_bytes

    def read_into(self, offset_bytes: int, buffer: Buffer) -> None:
        self.lower.read_into(offset_bytes, buffer)

    def write_from(self, offset_bytes: int, buffer: Buffer) -> None:
        self.lower.write_from(offset_bytes, buffer)

    def write_through(self, offset_bytes: int, buffer: Buffer) -> None:
        self.lower.write_through(offset_bytes, buffer)

    def flush(self) -> None:
        self.lower.flush()

    def discard(self, offset_bytes: int, length_bytes: int) -> None:
        self.lower.discard(offset_bytes, length_bytes)
