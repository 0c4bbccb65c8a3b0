"""A volatile write cache that lies: it says of a flush that it was done, and does nothing.

What it holds reaches the medium only as newer writes push it out; `drop` is what a reset and the loss of power do.
"""

from __future__ import annotations

import threading
from collections import deque
from typing import TYPE_CHECKING

from vdisk.blockdevice import BlockDevice, Layer

if TYPE_CHECKING:
    from typing_extensions import Buffer


class VolatileCache(Layer):
    """Holds the latest writes, up to `capacity_bytes` of them; reads see them."""

    def __init__(self, lower: BlockDevice, capacity_bytes: int) -> None:
        super().__init__(lower)
        self._room_bytes = capacity_bytes
        self._held: deque[tuple[int, bytes]] = deque()  # the oldest first; a later write lies over an earlier one
        self._lock = threading.Lock()

    def read_into(self, offset_bytes: int, buffer: Buffer) -> None:
        view = memoryview(buffer).cast("B")
        with self._lock:
            self.lower.read_into(offset_bytes, view)
            for place_bytes, content in self._held:
                start_bytes = max(offset_bytes, place_bytes)
                end_bytes = min(offset_bytes + view.nbytes, place_bytes + len(content))
                if start_bytes < end_bytes:
                    view[start_bytes - offset_bytes : end_bytes - offset_bytes] = content[
                        start_bytes - place_bytes : end_bytes - place_bytes
                    ]

    def write_from(self, offset_bytes: int, buffer: Buffer) -> None:
        content = bytes(buffer)
        self.check_range(offset_bytes, len(content))
        with self._lock:
            self._held.append((offset_bytes, content))
            self._room_bytes -= len(content)
            while self._room_bytes < 0:
                self._push_out()

    write_through = BlockDevice.write_through  # by this layer's own write and flush

    def flush(self) -> None:
        """The lie."""

    def discard(self, offset_bytes: int, length_bytes: int) -> None:
        self.empty()
        self.lower.discard(offset_bytes, length_bytes)

    def empty(self) -> None:
        """Write out all that is held."""
        with self._lock:
            while self._held:
                self._push_out()

    def drop(self) -> None:
        """Lose all that is held."""
        with self._lock:
            self._room_bytes += sum(len(content) for _, content in self._held)
            self._held.clear()

    def _push_out(self) -> None:
        place_bytes, content = self._held.popleft()
        self._room_bytes += len(content)
        self.lower.write_from(place_bytes, content)
