"""Machines that go on from a memory which a machine of their kind left. Not a byte of it changes until they run."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dumpwriter.memory import kernel, printk
from dumpwriter.memory.image import ImageMemory
from dumpwriter.memory.simulated import RING, Clock, SimulatedMemory
from vdisk.errors import FormatError

if TYPE_CHECKING:
    from collections.abc import Callable

    from dumpwriter.memory.physical import PhysicalMemory
    from dumpwriter.memory.source import MemorySource


class ResumedSimulation(SimulatedMemory):
    """Its log goes on behind the last line that stands there, and so does its uptime."""

    def __init__(self, memory: PhysicalMemory, *, cpu_count: int = 2) -> None:
        """Nothing is planted. Raises `FormatError` where the memory is none of a simulated machine."""
        if (
            len(memory.ranges) != 1
            or memory.ranges[0].physical_bytes
            or memory.size_bytes < kernel.MEMORY_MINIMUM_BYTES
        ):
            raise FormatError("a simulated machine has one range of memory, from 0 on, of 16 MiB or more")
        found = printk.find_ring(memory, RING)
        self._own(memory, cpu_count, Clock.system(found.newest_ns))
        self._ring = printk.PrintkRing(memory, RING, found)
        self.user_memory.frames()  # its page tables hold


_BY_KIND: dict[str, Callable[[PhysicalMemory], MemorySource]] = {
    SimulatedMemory.kind: ResumedSimulation,
    ImageMemory.kind: ImageMemory,
}


def resumed(kind: str, memory: PhysicalMemory) -> MemorySource:
    """A machine of this kind. Raises `FormatError` where there is no such kind, or it could not have left this memory.

    The memory is then still the caller's to close.
    """
    if kind not in _BY_KIND:
        raise FormatError(f"there is no kind of machine called {kind!r}")
    return _BY_KIND[kind](memory)
