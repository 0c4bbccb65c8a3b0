"""The kernel's own description of every page of memory: `struct page`, found through the memory model and read in bulk.

Two memory models: a flat array (FLATMEM, `mem_map`), and sections with an array each (SPARSEMEM, with or without
roots), which with SPARSEMEM_VMEMMAP are parts of one virtual array. Sources: Linux, include/linux/mmzone.h,
mm/sparse.c, include/linux/mm_types.h.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, Protocol

import numpy as np

from dumpwriter.formats.region import PAGE_SIZE_BYTES
from vdisk.errors import FormatError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from numpy.typing import NDArray

    from dumpwriter.formats.region import PageRun
    from dumpwriter.linux.address_space import AddressSpace
    from dumpwriter.linux.vmcoreinfo import Vmcoreinfo

DESCRIPTOR_SIZES = range(32, 257)
ADDRESS_MASK = (1 << 64) - 1

_SECTION_PRESENT = 1
_SECTION_FLAGS = 0x1F  # the low bits of an encoded array address
_SECTION_SIZES = range(1, 129)
_SECTION_BITS = range(20, 41)
_PHYSICAL_BITS_DEFAULT, _PHYSICAL_BITS = 46, range(36, 58)
_POINTER_BYTES = 8


class Stretch(NamedTuple):
    """Pages whose descriptors follow each other, and where the descriptor of page 0 would be.

    `origin` is None where the kernel describes no such pages.
    """

    first_page: int
    end_page: int
    origin: int | None


class MemoryModel(Protocol):
    """Where the descriptors lie."""

    def stretch(self, page: int) -> Stretch:
        """The stretch that holds a page."""


class FlatModel(NamedTuple):
    """One array for all of memory."""

    origin: int
    end_page: int

    def stretch(self, page: int) -> Stretch:  # noqa: ARG002 - the interface
        return Stretch(0, self.end_page, self.origin)


class SparseModel(NamedTuple):
    """An array a section. `roots` leads to pages of sections, or is None where `table` is one array of them."""

    space: AddressSpace
    table: int
    sections_per_root: int | None
    section_count: int
    section_bytes: int
    map_offset: int
    pages_per_section: int
    descriptor_bytes: int

    def stretch(self, page: int) -> Stretch:
        number = page // self.pages_per_section
        section = self._section(number)
        encoded = 0 if section is None else self.space.read_word(section + self.map_offset)
        origin = encoded & ~_SECTION_FLAGS if encoded & _SECTION_PRESENT else None
        first_page = number * self.pages_per_section
        return Stretch(first_page, first_page + self.pages_per_section, origin)

    def _section(self, number: int) -> int | None:
        if number >= self.section_count:
            return None
        if self.sections_per_root is None:
            return self.table + number * self.section_bytes
        root_number, index = divmod(number, self.sections_per_root)
        root = self.space.read_word(self.table + root_number * _POINTER_BYTES)
        return root + index * self.section_bytes if root else None


def find_memory_model(space: AddressSpace, info: Vmcoreinfo, end_page: int) -> MemoryModel:
    """Of a memory that ends before a page. Raises `FormatError` where VMCOREINFO describes none that is known."""
    if "mem_section" in info.symbols:
        return _sparse_model(space, info)
    if "mem_map" in info.symbols:
        return FlatModel(space.read_word(info.symbols["mem_map"]), end_page)
    raise FormatError("VMCOREINFO has neither SYMBOL(mem_section) nor SYMBOL(mem_map): what the pages are is not known")


def _sparse_model(space: AddressSpace, info: Vmcoreinfo) -> SparseModel:
    section_bytes = _checked("SIZE(mem_section)", info.sizes["mem_section"], _SECTION_SIZES)
    section_bits = _checked("NUMBER(SECTION_SIZE_BITS)", info.numbers.get("SECTION_SIZE_BITS", 27), _SECTION_BITS)
    physical_bits = info.numbers.get("MAX_PHYSMEM_BITS", _PHYSICAL_BITS_DEFAULT)
    count = 1 << _checked("NUMBER(MAX_PHYSMEM_BITS)", physical_bits, _PHYSICAL_BITS) - section_bits
    per_root = PAGE_SIZE_BYTES // section_bytes
    root_count = -(-count // per_root)
    model = SparseModel(
        space,
        table=info.symbols["mem_section"],
        sections_per_root=per_root if info.lengths.get("mem_section", root_count) == root_count else None,
        section_count=count,
        section_bytes=section_bytes,
        map_offset=_checked("OFFSET(mem_section.section_mem_map)", _map_offset(info), range(section_bytes - 7)),
        pages_per_section=(1 << section_bits) // PAGE_SIZE_BYTES,
        descriptor_bytes=descriptor_size(info),
    )
    if model.sections_per_root is None or _describes_low_memory(model):
        return model
    return model._replace(table=space.read_word(model.table))


def _describes_low_memory(model: SparseModel) -> bool:
    """Older kernels name the array of roots, newer ones a pointer to it, under the same name."""
    try:
        return model.stretch(0).origin is not None
    except FormatError:
        return False


def _map_offset(info: Vmcoreinfo) -> int:
    return info.offsets["mem_section.section_mem_map"]


def descriptor_size(info: Vmcoreinfo) -> int:
    """SIZE(page), in bytes."""
    return _checked("SIZE(page)", info.sizes["page"], DESCRIPTOR_SIZES)


def _checked(name: str, value: int, possible: range) -> int:
    if value not in possible:
        raise FormatError(f"VMCOREINFO says {name}={value}: from {possible.start} to {possible.stop - 1} is possible")
    return value


class Reading(NamedTuple):
    """Descriptors of consecutive pages, and one more. Those that cannot be read are zeros and counted."""

    rows: NDArray[np.void]
    unread: int
    reason: str


def read_descriptors(
    space: AddressSpace, origin: int, end_page: int, pages: range, layout: np.dtype[np.void]
) -> Reading:
    """Of a range of pages of one stretch. A page of descriptors that cannot be read costs its own only."""
    size = layout.itemsize
    content = memoryview(bytearray((len(pages) + 1) * size))
    wanted = content[: (min(pages.stop + 1, end_page) - pages.start) * size]
    start = origin + pages.start * size & ADDRESS_MASK
    if not _fill(space, start, wanted):
        return Reading(np.frombuffer(content, layout), 0, "")
    unread, reason, position = 0, "", 0
    while position < len(wanted):
        end = min(position + PAGE_SIZE_BYTES - (start + position) % PAGE_SIZE_BYTES, len(wanted))
        if problem := _fill(space, start + position & ADDRESS_MASK, wanted[position:end]):
            unread += min(end // size, len(pages)) - min(position // size, len(pages))
            reason = problem
        position = end
    return Reading(np.frombuffer(content, layout), unread, reason)


def _fill(space: AddressSpace, address: int, buffer: memoryview) -> str:
    """Why it could not be read; nothing where it could."""
    try:
        buffer[:] = space.read(address, len(buffer))
    except FormatError as error:
        return str(error)
    return ""


def stretches(model: MemoryModel, memory: Iterable[PageRun], pages_max: int) -> Iterator[tuple[Stretch, range]]:
    """Ascending runs of pages in pieces, each of one stretch and of `pages_max` pages at most."""
    stretch = Stretch(0, 0, None)
    for run in memory:
        page, run_end = run.first_page, run.first_page + run.page_count
        while page < run_end:
            stretch = stretch if page < stretch.end_page else model.stretch(page)
            end = min(stretch.end_page, run_end, page + pages_max)
            yield stretch, range(page, end)
            page = end


def described_end(model: MemoryModel, memory: Sequence[PageRun]) -> int | None:
    """Where the last stretch of memory ends that the kernel describes; None where it describes none."""
    undescribed = None
    for run in reversed(memory):
        page = run.first_page + run.page_count - 1
        page = page if undescribed is None else min(page, undescribed - 1)
        while page >= run.first_page:
            stretch = model.stretch(page)
            if stretch.origin is not None:
                return stretch.end_page
            undescribed = stretch.first_page
            page = undescribed - 1
    return None
