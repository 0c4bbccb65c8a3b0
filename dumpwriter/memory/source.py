"""What a machine's memory comes from: a small interface for simulated memory, memory images, and what follows them."""

from __future__ import annotations

from enum import IntEnum
from typing import TYPE_CHECKING, NamedTuple, Protocol

if TYPE_CHECKING:
    from dumpwriter.memory.physical import PhysicalMemory
    from dumpwriter.memory.usermemory import UserMemory


class PageClass(IntEnum):
    """What a page holds; the lower the number, the more it is worth in a dump that is cut short."""

    LOG = 1
    STRUCTURES = 2
    PAGE_TABLES = 3
    KERNEL_DATA = 4
    USER = 5
    CACHE = 6
    FREE = 7


class ClassRun(NamedTuple):
    """A run of pages of one class; pages are counted from physical address 0."""

    page_class: PageClass
    first_page: int
    page_count: int


class MemorySource(Protocol):
    """A machine's physical memory, and what is known of it beyond its bytes."""

    kind: str
    memory: PhysicalMemory

    @property
    def user_memory(self) -> UserMemory | None:
        """The memory of simulated processes; None where there are none in it."""

    def log(self, text: str) -> None:
        """Add lines to the machine's kernel log, where the memory has one."""

    def bugcheck(self, code: int, parameters: tuple[int, int, int, int], reason: str) -> None:
        """Leave the log line and the registers of a crash in the memory. May interrupt `log` in the same thread."""

    def page_classes(self) -> list[ClassRun]:
        """Every page of RAM once, in ascending order."""
