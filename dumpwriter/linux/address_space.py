"""Virtual addresses of x86-64: the walk through four or five levels of page tables, to pages of 4 KiB, 2 MiB and 1 GiB.

Sources: Intel 64 and IA-32 Architectures Software Developer's Manual, volume 3A, chapter 4 (paging); Linux,
Documentation/arch/x86/x86_64/mm.rst (where the kernel's maps lie). A walk reads one entry a level and no more, so
tables that lead in a circle cost what good ones cost.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from vdisk.errors import FormatError, PageMissingError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from dumpwriter.linux.physical import PhysicalReader
    from dumpwriter.linux.vmcoreinfo import Vmcoreinfo

TEXT_MAP = 0xFFFF_FFFF_8000_0000
KERNEL_IMAGE_SIZE_BYTES = 512 << 20  # where VMCOREINFO does not say; 1 GiB with address randomisation

_TOP_TABLES = ("init_level4_pgt", "init_top_pgt", "swapper_pg_dir")
_PRESENT, _LARGE = 1 << 0, 1 << 7
_ADDRESS_BITS = 0x000F_FFFF_FFFF_F000
_ENTRY_BYTES = 8
_INDEX_MASK = 511


class Level(NamedTuple):
    """One level of page tables: the lowest bit of an address that counts in it, and whether an entry can be a page."""

    name: str
    shift: int
    holds_pages: bool


_LOWER_LEVELS = (Level("PUD", 30, True), Level("PMD", 21, True), Level("PTE", 12, True))
LEVELS = {
    4: (Level("PGD", 39, False), *_LOWER_LEVELS),
    5: (Level("PGD", 48, False), Level("P4D", 39, False), *_LOWER_LEVELS),
}


class Mapping(NamedTuple):
    """Where an address leads, and how many bytes from it on are in the same page."""

    physical: int
    length_bytes: int


class AddressSpace(NamedTuple):
    """Addresses as one top table maps them. `text_end` and `physical_base` place the kernel image without any table."""

    reader: PhysicalReader
    top_table: int
    level_count: int
    address_bits: int
    text_end: int
    physical_base: int

    def physical(self, address: int) -> int:
        """Raises `FormatError`, which says at which level the walk ended."""
        return self.find(address).physical

    def read(self, address: int, length_bytes: int) -> bytes:
        """Bytes at a virtual address. The caller bounds the length. Raises as `physical`."""
        return b"".join(
            self.reader.read_physical(found.physical, found.length_bytes)
            for found in self.pieces(address, length_bytes)
        )

    def read_word(self, address: int) -> int:
        """A pointer or an unsigned long."""
        return int.from_bytes(self.read(address, 8), "little")

    def pieces(self, address: int, length_bytes: int) -> Iterator[Mapping]:
        """A range of addresses as pieces of physical memory."""
        end = address + length_bytes
        while address < end:
            physical, in_page_bytes = self.find(address)
            piece_bytes = min(in_page_bytes, end - address)
            yield Mapping(physical, piece_bytes)
            address += piece_bytes

    def find(self, address: int) -> Mapping:
        """Where a dump lacks the tables, the kernel image is still found by its physical base."""
        try:
            return self._walk(address)
        except PageMissingError:
            if not TEXT_MAP <= address < self.text_end:
                raise
            return Mapping(address - TEXT_MAP + self.physical_base, min(4096 - address % 4096, self.text_end - address))

    def _walk(self, address: int) -> Mapping:
        levels = LEVELS[self.level_count]
        _check_canonical(address, levels[0].shift + 9)
        table = self.top_table
        for level in levels:
            entry = self._entry(table, address, level)
            target = entry & self.address_bits
            if level.shift == levels[-1].shift or (level.holds_pages and entry & _LARGE):
                page_bytes = 1 << level.shift
                inside_bytes = address % page_bytes
                return Mapping((target & -page_bytes) + inside_bytes, page_bytes - inside_bytes)
            table = target
        raise AssertionError("the last level ends every walk")

    def _entry(self, table: int, address: int, level: Level) -> int:
        place = table + (address >> level.shift & _INDEX_MASK) * _ENTRY_BYTES
        try:
            entry = int.from_bytes(self.reader.read_physical(place, _ENTRY_BYTES), "little")
        except PageMissingError as error:
            raise PageMissingError(f"the walk to {address:#x} ended before its {level.name}: {error}") from None
        if not entry & _PRESENT:
            raise FormatError(f"{address:#x} is not mapped: its {level.name} at {place:#x} is {entry:#x}")
        return entry


def kernel_address_space(reader: PhysicalReader, info: Vmcoreinfo) -> AddressSpace:
    """The kernel's own, as VMCOREINFO describes it. Raises `FormatError` where it names no top table."""
    name = next((name for name in _TOP_TABLES if name in info.symbols), _TOP_TABLES[-1])
    image_bytes = info.numbers.get("KERNEL_IMAGE_SIZE", KERNEL_IMAGE_SIZE_BYTES)
    return AddressSpace(
        reader,
        top_table=_table_address(info.symbols[name], info.physical_base),
        level_count=5 if info.numbers.get("pgtable_l5_enabled") else 4,
        address_bits=_ADDRESS_BITS & ~info.numbers.get("sme_mask", 0),
        text_end=min(TEXT_MAP + max(image_bytes, 0), 1 << 64),
        physical_base=info.physical_base,
    )


def _table_address(symbol: int, physical_base: int) -> int:
    table = symbol - TEXT_MAP + physical_base
    if symbol < TEXT_MAP or table % 4096 or not 0 <= table <= _ADDRESS_BITS:
        raise FormatError(f"no page table is at {symbol:#x}, where VMCOREINFO has the top one")
    return table


def _check_canonical(address: int, address_bits: int) -> None:
    """Hardware wants all bits above the highest one that counts to be its copies."""
    upper = address >> (address_bits - 1)
    if not 0 <= address < 1 << 64 or upper not in (0, (1 << (65 - address_bits)) - 1):
        raise FormatError(f"{address:#x} is no address of {address_bits} bits")
