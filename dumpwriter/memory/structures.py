"""The structures of the simulated kernel as bytes: its name, its page tables, the descriptors of its pages. Pure."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

from dumpwriter.memory import kernel
from dumpwriter.memory.physical import PAGE_SIZE_BYTES
from dumpwriter.memory.source import ClassRun, PageClass

if TYPE_CHECKING:
    from collections.abc import Iterator

TOP_SHIFT, UPPER_SHIFT, MIDDLE_SHIFT = 39, 30, 21  # the lowest bit of an address that counts in each upper table

_DESCRIPTORS = {
    PageClass.LOG: kernel.PageDescriptor(flags=kernel.PG_RESERVED),
    PageClass.STRUCTURES: kernel.PageDescriptor(flags=kernel.PG_RESERVED),
    PageClass.PAGE_TABLES: kernel.PageDescriptor(flags=kernel.PG_RESERVED),
    PageClass.KERNEL_DATA: kernel.PageDescriptor(flags=kernel.PG_SLAB),
    PageClass.USER: kernel.PageDescriptor(
        flags=kernel.PG_UPTODATE | kernel.PG_LRU | kernel.PG_SWAPBACKED,
        mapping=kernel.DIRECT_MAP + kernel.TEXT + kernel.MAPPING_ANON,
        mapcount=0,
    ),
    PageClass.CACHE: kernel.PageDescriptor(
        flags=kernel.PG_UPTODATE | kernel.PG_LRU, mapping=kernel.DIRECT_MAP + kernel.TEXT
    ),
}


def uts_namespace(node_name: str, version: str) -> bytes:
    """`init_uts_ns` up to the end of its `struct new_utsname`."""
    fields = ("Linux", node_name, kernel.RELEASE, version, "x86_64", "(none)")
    names = b"".join(
        field.encode()[: kernel.UTS_FIELD_BYTES - 1].ljust(kernel.UTS_FIELD_BYTES, b"\0") for field in fields
    )
    return bytes(kernel.UTS_NAME_OFFSET) + names


def page_tables(layout: kernel.KernelMap) -> bytes:
    """Four-level page tables of the kernel's text map and of the direct map, from PAGE_TABLES on."""
    image_pages = -(-layout.page_descriptors // kernel.LARGE_PAGE_BYTES)
    memory_pages = -(-layout.memory_bytes // kernel.LARGE_PAGE_BYTES)
    text_upper = {entry_number(kernel.TEXT_MAP, UPPER_SHIFT): kernel.TEXT_TABLE}
    direct_upper = {index: kernel.DIRECT_TABLES + index * PAGE_SIZE_BYTES for index in range(layout.direct_table_count)}
    return b"".join(
        (
            table(top_entries()),
            table(text_upper),
            _large_pages(image_pages).ljust(PAGE_SIZE_BYTES, b"\0"),
            table(direct_upper),
            _large_pages(memory_pages).ljust(layout.direct_table_count * PAGE_SIZE_BYTES, b"\0"),
        )
    )


def top_entries() -> dict[int, int]:
    """What every top table maps: the kernel."""
    return {
        entry_number(kernel.DIRECT_MAP, TOP_SHIFT): kernel.DIRECT_UPPER_TABLE,
        entry_number(kernel.TEXT_MAP, TOP_SHIFT): kernel.TEXT_UPPER_TABLE,
    }


def entry_number(address: int, shift: int) -> int:
    """Which entry of its table an address goes through."""
    return address >> shift & kernel.TABLE_ENTRIES - 1


def table(entries: dict[int, int]) -> bytes:
    """A table of tables, from the number of each entry to the physical address of the next table."""
    words = [0] * kernel.TABLE_ENTRIES
    for index, physical_bytes in entries.items():
        words[index] = physical_bytes | kernel.TABLE_FLAGS
    return struct.pack(f"<{kernel.TABLE_ENTRIES}Q", *words)


def _large_pages(count: int) -> bytes:
    return struct.pack(
        f"<{count}Q", *(index * kernel.LARGE_PAGE_BYTES | kernel.LARGE_PAGE_FLAGS for index in range(count))
    )


def page_descriptors(run: ClassRun) -> Iterator[tuple[int, bytes]]:
    """The descriptors of a run of pages, as (first page, bytes).

    Of a free block only the first descriptor is told, as the buddy allocator does; so the table of a large, free memory
    stays a table of holes.
    """
    descriptor = _DESCRIPTORS.get(run.page_class)
    if descriptor is not None:
        yield run.first_page, kernel.PAGE_DESCRIPTOR.pack(descriptor) * run.page_count
        return
    for first_page, order in _buddy_blocks(run.first_page, run.page_count):
        yield first_page, free_descriptor(order)


def user_descriptor(address: int) -> bytes:
    """The descriptor of the page that a process has at a virtual address."""
    return kernel.PAGE_DESCRIPTOR.pack(_DESCRIPTORS[PageClass.USER]._replace(page_index=address // PAGE_SIZE_BYTES))


def free_descriptor(order: int) -> bytes:
    """The first descriptor of a free block of 2**order pages."""
    return kernel.PAGE_DESCRIPTOR.pack(kernel.PageDescriptor(private=order, mapcount=kernel.BUDDY_MAPCOUNT, refcount=0))


def _buddy_blocks(page: int, count: int) -> Iterator[tuple[int, int]]:
    """The largest blocks of 2**order pages, each aligned to its size, that cover a run."""
    while count:
        alignment = (page & -page).bit_length() - 1 if page else kernel.BUDDY_ORDER_MAXIMUM
        order = min(alignment, count.bit_length() - 1, kernel.BUDDY_ORDER_MAXIMUM)
        yield page, order
        page += 1 << order
        count -= 1 << order
