"""Where the kernel sees physical memory: its image, and the map of all memory; both found in its page tables.

Source: Linux, Documentation/arch/x86/x86_64/mm.rst. The map of all memory begins at a multiple of 1 GiB that address
randomisation moves and that no symbol of VMCOREINFO names, so it is looked for: the first address of the upper half
from which the top table is where it would have to be.
"""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING

from dumpwriter.export.about import VirtualRange
from dumpwriter.formats.region import PAGE_SIZE_BYTES
from dumpwriter.linux.address_space import LEVELS, TEXT_MAP, Level
from vdisk.errors import FormatError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from dumpwriter.linux.address_space import AddressSpace, Mapping
    from dumpwriter.linux.vmcoreinfo import Vmcoreinfo

DIRECT_MAP_SIZE_BYTES = 1 << 46
CANDIDATES_MAX = 1 << 12
IMAGE_PIECES_MAX = 1 << 15  # 128 MiB where every page is one of 4 KiB
IMAGE_GAP_MAX_BYTES = 8 << 20  # what a kernel gives back of itself when it has started
_IMAGE_ALIGNMENT_BYTES = 2 << 20
_GIGABYTE_SHIFT = 30
_ENTRY_BYTES, _PRESENT = 8, 1


def virtual_ranges(space: AddressSpace, info: Vmcoreinfo) -> tuple[VirtualRange, ...]:
    """Ascending, each physical address once: the image where it was linked to run, all else in the direct map.

    What the tables do not tell, or tell wrong, is left out.
    """
    image, direct = _image(space, info), _direct_map(space)
    if direct is None:
        return tuple(image)
    end, around = 0, []
    for found in image:
        around += [VirtualRange(end, found.physical_bytes - end, direct + end), found]
        end = found.physical_bytes + found.length_bytes
    ranges = (*around, VirtualRange(end, DIRECT_MAP_SIZE_BYTES - end, direct + end))
    return tuple(found for found in ranges if found.length_bytes > 0)


def _image(space: AddressSpace, info: Vmcoreinfo) -> list[VirtualRange]:
    """From its first symbol on, as far as physical addresses keep pace; memory that was given back leaves gaps."""
    first_symbol = info.symbols.get("_stext", 0)
    start = first_symbol - first_symbol % _IMAGE_ALIGNMENT_BYTES
    first = _find(space, start) if TEXT_MAP <= start < space.text_end else None
    if first is None:
        return []
    position = end = start + first.length_bytes
    for _ in range(IMAGE_PIECES_MAX):
        found = _find(space, position)
        if found is not None and found.physical - first.physical != position - start:
            break
        position += found.length_bytes if found else PAGE_SIZE_BYTES
        end = position if found else end
        if position >= space.text_end or position - end > IMAGE_GAP_MAX_BYTES:
            break
    length_bytes = min(end, space.text_end) - start
    is_memory = first.physical <= DIRECT_MAP_SIZE_BYTES - length_bytes
    return [VirtualRange(first.physical, length_bytes, start)] if is_memory else []


def _find(space: AddressSpace, address: int) -> Mapping | None:
    """By the tables alone: without them, nothing says where the image ends."""
    try:
        return space._replace(text_end=0).find(address)
    except FormatError:
        return None


def _direct_map(space: AddressSpace) -> int | None:
    levels = LEVELS[space.level_count]
    upper_half = (1 << 64) - (1 << (levels[0].shift + 8))
    for address in islice(_gigabytes(space, space.top_table, levels, upper_half), CANDIDATES_MAX):
        found = _find(space, address + space.top_table) if address is not None and address < TEXT_MAP else None
        if found is not None and found.physical == space.top_table:
            return address
    return None


def _gigabytes(space: AddressSpace, table: int, levels: Sequence[Level], base: int) -> Iterator[int | None]:
    """Each 1 GiB of addresses from `base` on that has an entry in the tables, ascending; and None for every table."""
    yield None
    level = levels[0]
    try:
        content = space.reader.read_physical(table, PAGE_SIZE_BYTES)
    except FormatError:
        return
    for index in range((base >> level.shift) & 511, PAGE_SIZE_BYTES // _ENTRY_BYTES):
        entry = int.from_bytes(content[index * _ENTRY_BYTES : (index + 1) * _ENTRY_BYTES], "little")
        address = (base & -(512 << level.shift)) | (index << level.shift)
        if entry & _PRESENT and level.shift == _GIGABYTE_SHIFT:
            yield address
        elif entry & _PRESENT:
            yield from _gigabytes(space, entry & space.address_bits, levels[1:], address)
