"""The simulated kernel: where everything lies in its memory, and what its page descriptors look like.

Modelled on Linux 5.4 for x86-64 with a flat memory map and without address randomisation, because that is the youngest
kernel whose log ring and page descriptors every reader still knows by VMCOREINFO alone. Sources: Linux 5.4,
Documentation/x86/x86_64/mm.rst (address map), include/linux/mm_types.h (struct page), include/linux/page-flags.h,
arch/x86/include/asm/pgtable_64.h (swap entries).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, NamedTuple

from dumpwriter.memory.physical import PAGE_SIZE_BYTES
from dumpwriter.memory.source import ClassRun, PageClass
from vdisk.layout import Layout

if TYPE_CHECKING:
    from collections.abc import Iterator

KIB = 1024
MIB = 1024 * KIB
GIB = 1024 * MIB

RELEASE = "5.4.0-ghostdump"
TEXT_MAP = 0xFFFF_FFFF_8000_0000
DIRECT_MAP = 0xFFFF_8880_0000_0000
KERNEL_IMAGE_SIZE_BYTES = 512 * MIB
LARGE_PAGE_BYTES = 2 * MIB

MEMORY_MINIMUM_BYTES = 16 * MIB
MEMORY_MAXIMUM_BYTES = 512 * GIB  # what one page of third-level page tables maps
CPUS_MAXIMUM = 16

TEXT = 0x20_0000
BUGCHECK_ENTRY = TEXT + 0x1000
IDLE_ENTRY = TEXT + 0x2000
UTS_NAMESPACE = 0x30_0000
MEM_MAP_POINTER = UTS_NAMESPACE + 0x800
PROCESS_TABLE = UTS_NAMESPACE + 0xC00
PRINTK_VARIABLES = 0x30_1000
PRINTK_BUFFER = 0x31_0000
PRINTK_BUFFER_BYTES = 256 * KIB
STACKS = 0x35_0000
STACK_BYTES = 16 * KIB
PAGE_TABLES = 0x39_0000
TOP_TABLE, TEXT_UPPER_TABLE, TEXT_TABLE, DIRECT_UPPER_TABLE, DIRECT_TABLES = (
    PAGE_TABLES + index * PAGE_SIZE_BYTES for index in range(5)
)

UTS_NAME_OFFSET = 4
UTS_FIELD_BYTES = 65

PROCESSES = ((1, "init"), (417, "logger"), (602, "database"), (1044, "shell"))  # process ids and names
USER_BASE = 0x5555_5560_0000  # the first page of each; 2 MiB aligned
TABLE_ENTRIES = 512

TABLE_FLAGS = 0x067  # present, writable, user, accessed, dirty
USER_PAGE_FLAGS = 1 << 63 | TABLE_FLAGS  # not executable
PRESENT = 1
LARGE_PAGE_FLAGS = 0x1E3  # present, writable, accessed, dirty, large, global

PG_UPTODATE = 1 << 2
PG_LRU = 1 << 4
PG_SLAB = 1 << 9
PG_RESERVED = 1 << 12
PG_PRIVATE_BIT = 13
PG_HEAD_MASK = 1 << 16
PG_SWAPBACKED = 1 << 19
PG_SWAPCACHE_BIT = 10
MAPPING_ANON = 1
BUDDY_MAPCOUNT = -129
BUDDY_ORDER_MAXIMUM = 10


class PageDescriptor(NamedTuple):
    """struct page, as far as readers look at it."""

    flags: Annotated[int, "Q"] = 0
    lru: Annotated[bytes, "16s"] = bytes(16)
    mapping: Annotated[int, "Q"] = 0
    page_index: Annotated[int, "Q"] = 0
    private: Annotated[int, "Q"] = 0
    mapcount: Annotated[int, "i"] = -1
    refcount: Annotated[int, "i"] = 1
    rest: Annotated[bytes, "8s"] = bytes(8)


PAGE_DESCRIPTOR = Layout(PageDescriptor, size_bytes=64)


_PLANTED_CLASSES = (PageClass.KERNEL_DATA, PageClass.USER, PageClass.CACHE, PageClass.FREE)
_PLANTED_RUN_BYTES = 1 * MIB
_PLANTED_SHARE = 8
_PLANTED_MAXIMUM_BYTES = 64 * MIB


@dataclass(frozen=True)
class KernelMap:
    """Where the parts of the kernel lie whose place depends on the size of the memory. Physical addresses."""

    memory_bytes: int

    @property
    def direct_table_count(self) -> int:
        return -(-self.memory_bytes // GIB)

    @property
    def process_tables(self) -> int:
        return DIRECT_TABLES + self.direct_table_count * PAGE_SIZE_BYTES

    @property
    def tables_per_process(self) -> int:
        """One of each upper level, and of the lowest as many as its pages need."""
        return 3 + -(-self.pages_per_process // TABLE_ENTRIES)

    @property
    def pages_per_process(self) -> int:
        return self._planted_runs * _PLANTED_RUN_BYTES // PAGE_SIZE_BYTES // len(PROCESSES)

    @property
    def page_descriptors(self) -> int:
        return self.process_tables + len(PROCESSES) * self.tables_per_process * PAGE_SIZE_BYTES

    @property
    def page_descriptors_end(self) -> int:
        table_bytes = self.memory_bytes // PAGE_SIZE_BYTES * PAGE_DESCRIPTOR.size_bytes
        return self.page_descriptors + -(-table_bytes // PAGE_SIZE_BYTES) * PAGE_SIZE_BYTES

    def class_runs(self) -> list[ClassRun]:
        """Every page once, in ascending order: the kernel, then planted pages of each class in turn, then free ones."""
        runs, start = [], 0
        for page_class, end in [*self._kernel_areas(), *self._planted_areas()]:
            if end > start:
                first_page = start // PAGE_SIZE_BYTES
                runs.append(ClassRun(page_class, first_page, end // PAGE_SIZE_BYTES - first_page))
            start = end
        return runs

    def user_frames(self) -> list[range]:
        """The runs of page frames that pages of processes lie in, ascending."""
        runs = (run for run in self.class_runs() if run.page_class is PageClass.USER)
        return [range(run.first_page, run.first_page + run.page_count) for run in runs]

    def _kernel_areas(self) -> Iterator[tuple[PageClass, int]]:
        """Classes with the address at which each ends."""
        yield PageClass.FREE, TEXT
        yield PageClass.KERNEL_DATA, UTS_NAMESPACE
        yield PageClass.STRUCTURES, PRINTK_VARIABLES
        yield PageClass.LOG, STACKS
        yield PageClass.STRUCTURES, PAGE_TABLES
        yield PageClass.PAGE_TABLES, self.page_descriptors
        yield PageClass.STRUCTURES, self.page_descriptors_end

    @property
    def _planted_runs(self) -> int:
        """Runs of each class."""
        return min(self.memory_bytes // _PLANTED_SHARE, _PLANTED_MAXIMUM_BYTES) // _PLANTED_RUN_BYTES

    def _planted_areas(self) -> Iterator[tuple[PageClass, int]]:
        end = self.page_descriptors_end
        for _ in range(self._planted_runs):
            for page_class in _PLANTED_CLASSES:
                end += _PLANTED_RUN_BYTES
                yield page_class, end
        yield PageClass.FREE, self.memory_bytes


def text_address(physical_bytes: int) -> int:
    """The virtual address of a symbol of the kernel image."""
    return TEXT_MAP + physical_bytes


def direct_address(physical_bytes: int) -> int:
    """The virtual address of any physical one."""
    return DIRECT_MAP + physical_bytes
