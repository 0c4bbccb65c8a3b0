"""A machine whose memory came from somewhere else: nothing is known of what its pages hold."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dumpwriter.memory.physical import PAGE_SIZE_BYTES
from dumpwriter.memory.source import ClassRun, PageClass

if TYPE_CHECKING:
    from dumpwriter.memory.physical import PhysicalMemory
    from dumpwriter.memory.usermemory import UserMemory


class ImageMemory:
    """All pages are of one class; the notes stay as they came with the memory."""

    kind = "image"
    user_memory: UserMemory | None = None

    def __init__(self, memory: PhysicalMemory) -> None:
        self.memory = memory

    def close(self) -> None:
        self.memory.close()

    def log(self, text: str) -> None:
        """Where a foreign memory keeps its log is not known."""

    def bugcheck(self, code: int, parameters: tuple[int, int, int, int], reason: str) -> None:
        """The memory and its notes stay as they came."""

    def page_classes(self) -> list[ClassRun]:
        return [
            ClassRun(
                PageClass.KERNEL_DATA, part.physical_bytes // PAGE_SIZE_BYTES, part.length_bytes // PAGE_SIZE_BYTES
            )
            for part in self.memory.ranges
        ]
