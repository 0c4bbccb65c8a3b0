"""What a page descriptor says of its page: makedumpfile's rules, for many descriptors at once.

Sources: makedumpfile 1.7.2 (which pages each dump level leaves out, and in which order that is asked), and its later
versions for kernels from 6.6 on; Linux, include/linux/mm_types.h and page-flags.h. What each bit and offset means is
taken from VMCOREINFO.
"""

from __future__ import annotations

from enum import IntEnum, IntFlag
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from dumpwriter.linux.page_descriptors import descriptor_size
from vdisk.errors import FormatError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from dumpwriter.linux.vmcoreinfo import Vmcoreinfo

OLDEST_KERNEL = (4, 4, 0)  # before it, descriptors of compound pages look different
BYTE_FIELDS_SINCE = (4, 16, 0)

_BLOCK_PAGES = 512  # no head of a compound page is the last of so many
_ANONYMOUS = 1  # in `mapping`
_TAIL = 1  # in `compound_head`
_ORDER_MASK = 0xFF  # in the flags behind a head, from Linux 6.6 on
_ORDERS = 64
_FREE_ORDERS = 32  # where VMCOREINFO does not say how many there are
_INT_MASK, _WORD_MASK = (1 << 32) - 1, (1 << 64) - 1
_FLAG_BITS = range(64)


if TYPE_CHECKING:
    _Rule = tuple[NDArray[np.bool_], NDArray[np.uint8] | np.uint8]


class Level(IntFlag):
    """A dump level of makedumpfile: what is left out. Zero pages are told by their content, the rest by descriptors."""

    ZERO = 1
    CACHE = 2
    CACHE_PRIVATE = 4
    USER = 8
    FREE = 16


class Left(IntEnum):
    """Why a page is left out. What is 32 and above is so whatever the level."""

    KEPT = 0
    CACHE = 2
    CACHE_PRIVATE = 4
    USER = 8
    FREE = 16
    POISONED = 32
    OFFLINE = 64
    BEYOND = 128  # behind all memory that the kernel describes: it has no use for it


class Verdicts(NamedTuple):
    """Of consecutive pages: why each is left out, and the order of the block of pages for which it speaks."""

    left: NDArray[np.uint8]
    orders: NDArray[np.int64]


class PageRules:
    """One kernel's rules. Raises `FormatError` where VMCOREINFO does not tell what a level has to know."""

    def __init__(self, info: Vmcoreinfo, level: Level) -> None:
        if info.kernel_version < OLDEST_KERNEL:
            raise FormatError(f"Linux {info.release}: what pages hold is known from Linux 4.4 on")
        self._level = level
        self._numbers = info.numbers
        self._free_orders = min(info.lengths.get("zone.free_area", _FREE_ORDERS), _ORDERS)
        self._head_mask = info.numbers.get("PG_head_mask", 0) & _WORD_MASK
        self._slab = _flag(info, "PG_slab")
        self._poisoned = _flag_or_none(info, "PG_hwpoison")
        self._huge = _flag_or_none(info, "PG_hugetlb")
        if level & (Level.CACHE | Level.CACHE_PRIVATE):
            self._lru, self._private, self._swapcache = (
                _flag(info, name) for name in ("PG_lru", "PG_private", "PG_swapcache")
            )
            self._swapbacked = _flag_or_none(info, "PG_swapbacked")
        if level & Level.FREE:
            _ = info.numbers["PAGE_BUDDY_MAPCOUNT_VALUE"], info.offsets["page.private"]
        self.layout = _layout(info)

    def judge(self, rows: NDArray[np.void], first_page: int) -> Verdicts:
        """The last row is only there to be looked at by the one before it; there is no verdict on it."""
        flags, mapcount = rows["flags"][:-1], rows["mapcount"][:-1]
        is_slab = (flags & self._slab != 0) | self._has_type(mapcount, "PAGE_SLAB_MAPCOUNT_VALUE")
        is_anonymous = (rows["mapping"][:-1] & _ANONYMOUS != 0) & ~is_slab
        orders, is_huge = self._compounds(rows, first_page)
        is_tail = _column(rows, "compound_head")[:-1] & _TAIL != 0
        asked: list[_Rule] = [(is_tail, np.uint8(Left.KEPT))]
        if self._level & Level.FREE:
            free_orders = rows["private"][:-1]
            is_free = ~is_slab & self._has_type(mapcount, "PAGE_BUDDY_MAPCOUNT_VALUE")
            is_block = free_orders < self._free_orders
            asked.append((is_free, is_block * np.uint8(Left.FREE)))
            orders = np.where(is_free, np.where(is_block, free_orders, 0).astype(np.int64), orders)
        asked += self._cache_rules(flags, is_anonymous)
        if self._level & Level.USER:
            asked.append((is_anonymous | is_huge, np.uint8(Left.USER)))
        asked.append((flags & self._poisoned != 0, np.uint8(Left.POISONED)))
        is_offline = ~is_slab & self._has_type(mapcount, "PAGE_OFFLINE_MAPCOUNT_VALUE")
        asked.append((is_offline, np.uint8(Left.OFFLINE)))
        left = np.select([condition for condition, _ in asked], [verdict for _, verdict in asked], np.uint8(Left.KEPT))
        return Verdicts(left.astype(np.uint8), orders)

    def _cache_rules(self, flags: NDArray[np.uint64], is_anonymous: NDArray[np.bool_]) -> list[_Rule]:
        if not self._level & (Level.CACHE | Level.CACHE_PRIVATE):
            return []
        is_swapped = flags & self._swapcache != 0
        if self._swapbacked:
            is_swapped &= flags & self._swapbacked != 0
        is_cache = ((flags & self._lru != 0) | is_swapped) & ~is_anonymous
        is_private = flags & self._private != 0
        rules: list[_Rule] = []
        if self._level & Level.CACHE:
            rules.append((is_cache & ~is_private, np.uint8(Left.CACHE)))
        if self._level & Level.CACHE_PRIVATE:
            rules.append((is_cache, np.where(is_private, np.uint8(Left.CACHE_PRIVATE), np.uint8(Left.CACHE))))
        return rules

    def _compounds(self, rows: NDArray[np.void], first_page: int) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        """The order of each compound page at its head, 0 elsewhere; and whether the head is one of hugetlbfs.

        The descriptor behind the head tells; how, has changed three times.
        """
        head, second = rows[:-1], rows[1:]
        pages = np.arange(first_page, first_page + len(head), dtype=np.int64)
        orders: NDArray[Any]
        if "PAGE_HUGETLB_MAPCOUNT_VALUE" in self._numbers:
            orders = second["flags"] & _ORDER_MASK
            is_huge = self._has_type(head["mapcount"], "PAGE_HUGETLB_MAPCOUNT_VALUE")
        elif self._huge:
            orders, is_huge = second["flags"] & _ORDER_MASK, second["flags"] & self._huge != 0
        else:
            orders, is_huge = _column(second, "order"), self._is_destroyed_as_huge(second)
        is_head = (head["flags"] & self._head_mask != 0) & (pages % _BLOCK_PAGES != _BLOCK_PAGES - 1)
        known = np.where(is_head & (orders < _ORDERS), orders, 0).astype(np.int64)
        is_aligned = pages & (np.int64(1) << np.minimum(known, _ORDERS - 2)) - 1 == 0
        return np.where(is_aligned, known, 0), is_head & is_huge

    def _is_destroyed_as_huge(self, second: NDArray[np.void]) -> NDArray[np.bool_]:
        destructor = self._numbers.get("HUGETLB_PAGE_DTOR")
        has_destructors = destructor is not None and "dtor" in (second.dtype.names or ())
        return second["dtor"] == destructor if has_destructors else np.zeros(len(second), bool)

    def _has_type(self, mapcount: NDArray[np.uint32], name: str) -> NDArray[np.bool_]:
        """Pages that nobody maps tell by their count of mappings what they are."""
        value = self._numbers.get(name)
        return np.zeros(len(mapcount), bool) if value is None else mapcount == (value & _INT_MASK)


def _column(rows: NDArray[np.void], name: str) -> NDArray[np.uint64]:
    """A field, which is zero where VMCOREINFO does not name it."""
    return rows[name] if name in (rows.dtype.names or ()) else np.zeros(len(rows), np.uint64)


def _flag(info: Vmcoreinfo, name: str) -> int:
    bit = info.numbers[name]
    if bit not in _FLAG_BITS:
        raise FormatError(f"VMCOREINFO says NUMBER({name})={bit}, which is no bit of a word")
    return 1 << bit


def _flag_or_none(info: Vmcoreinfo, name: str) -> int:
    """No bit at all where the kernel has no such flag."""
    return _flag(info, name) if name in info.numbers else 0


def _layout(info: Vmcoreinfo) -> np.dtype[np.void]:
    """struct page, as far as VMCOREINFO names its fields. `order` and `dtor` are in the page behind a head."""
    size_bytes = descriptor_size(info)
    compound = "<u1" if info.kernel_version >= BYTE_FIELDS_SINCE else "<u2"
    fields = {
        "flags": ("<u8", info.offsets["page.flags"]),
        "mapping": ("<u8", info.offsets["page.mapping"]),
        "mapcount": ("<u4", info.offsets["page._mapcount"]),
        "private": ("<u8", info.offsets.get("page.private")),
        "compound_head": ("<u8", info.offsets.get("page.compound_head")),
        "order": (compound, _second_offset(info, "folio._folio_order", "page.compound_order")),
        "dtor": (compound, _second_offset(info, "folio._folio_dtor", "page.compound_dtor")),
    }
    known = {name: (code, offset) for name, (code, offset) in fields.items() if offset is not None}
    for name, (code, offset) in known.items():
        if not 0 <= offset <= size_bytes - int(code[2:]):
            raise FormatError(f"VMCOREINFO has {name} at {offset}, outside of a struct page of {size_bytes} bytes")
    codes, offsets = zip(*known.values(), strict=True)
    return np.dtype({"names": list(known), "formats": codes, "offsets": offsets, "itemsize": size_bytes})


def _second_offset(info: Vmcoreinfo, folio: str, page: str) -> int | None:
    """Linux 6.3 and later describe it as a part of a folio, which spans two descriptors."""
    if folio in info.offsets:
        return info.offsets[folio] - descriptor_size(info)
    return info.offsets.get(page)
