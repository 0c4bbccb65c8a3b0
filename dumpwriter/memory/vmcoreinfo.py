"""VMCOREINFO of the simulated kernel: the text by which readers find symbols and fields without debug information.

Source of the keys: Linux, Documentation/admin-guide/kdump/vmcoreinfo.rst.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from dumpwriter.memory import kernel
from dumpwriter.memory.physical import PAGE_SIZE_BYTES
from dumpwriter.memory.printk import PRINTK_RECORD, PRINTK_VARIABLES

if TYPE_CHECKING:
    from vdisk.layout import Field

_PAGE_FIELDS = {
    "flags": "flags",
    "lru": "lru",
    "mapping": "mapping",
    "private": "private",
    "mapcount": "_mapcount",
    "refcount": "_refcount",
}
_PRINTK_SYMBOLS = ("log_buf", "log_buf_len", "log_first_idx", "log_next_idx", "clear_idx")
_PRINTK_FIELDS = ("ts_nsec", "len", "text_len", "dict_len")
_COMPOUND_ORDER_OFFSET = 17
_COMPOUND_DTOR_OFFSET = 16


def vmcoreinfo(crash_seconds: int) -> bytes:
    """The text of the note. Its length does not depend on the time of the crash, so it can be replaced in place."""
    lines = [
        f"OSRELEASE={kernel.RELEASE}",
        f"PAGESIZE={PAGE_SIZE_BYTES}",
        *_symbols(),
        *_sizes_and_offsets(),
        *_numbers(),
        "KERNELOFFSET=0",
        f"CRASHTIME={crash_seconds:010d}",
    ]
    return "".join(line + "\n" for line in lines).encode()


def _symbols() -> list[str]:
    symbols = {
        "init_uts_ns": kernel.UTS_NAMESPACE,
        "swapper_pg_dir": kernel.TOP_TABLE,
        "init_top_pgt": kernel.TOP_TABLE,
        "_stext": kernel.TEXT,
        "mem_map": kernel.MEM_MAP_POINTER,
        "ghostdump_bugcheck": kernel.BUGCHECK_ENTRY,
        "ghostdump_processes": kernel.PROCESS_TABLE,
    }
    variables = _offsets(PRINTK_VARIABLES.fields)
    symbols.update({name: kernel.PRINTK_VARIABLES + variables[name] for name in _PRINTK_SYMBOLS})
    return [f"SYMBOL({name})={kernel.text_address(physical_bytes):x}" for name, physical_bytes in symbols.items()]


def _sizes_and_offsets() -> list[str]:
    page, record = _offsets(kernel.PAGE_DESCRIPTOR.fields), _offsets(PRINTK_RECORD.fields)
    return [
        f"OFFSET(uts_namespace.name)={kernel.UTS_NAME_OFFSET}",
        f"SIZE(page)={kernel.PAGE_DESCRIPTOR.size_bytes}",
        *(f"OFFSET(page.{theirs})={page[ours]}" for ours, theirs in _PAGE_FIELDS.items()),
        f"OFFSET(page.compound_head)={page['lru']}",
        f"OFFSET(page.compound_dtor)={_COMPOUND_DTOR_OFFSET}",
        f"OFFSET(page.compound_order)={_COMPOUND_ORDER_OFFSET}",
        f"SIZE(printk_log)={PRINTK_RECORD.size_bytes}",
        *(f"OFFSET(printk_log.{name})={record[name]}" for name in _PRINTK_FIELDS),
    ]


def _numbers() -> list[str]:
    numbers = {
        "phys_base": 0,
        "pgtable_l5_enabled": 0,
        "KERNEL_IMAGE_SIZE": kernel.KERNEL_IMAGE_SIZE_BYTES,
        "sme_mask": 0,
        "PG_lru": kernel.PG_LRU.bit_length() - 1,
        "PG_private": kernel.PG_PRIVATE_BIT,
        "PG_swapcache": kernel.PG_SWAPCACHE_BIT,
        "PG_swapbacked": kernel.PG_SWAPBACKED.bit_length() - 1,
        "PG_slab": kernel.PG_SLAB.bit_length() - 1,
        "PG_head_mask": kernel.PG_HEAD_MASK,
        "PAGE_BUDDY_MAPCOUNT_VALUE": kernel.BUDDY_MAPCOUNT,
        "HUGETLB_PAGE_DTOR": 2,
    }
    return [f"NUMBER({name})={value}" for name, value in numbers.items()]


def _offsets(fields: tuple[Field, ...]) -> dict[str, int]:
    return {field.name: field.offset_bytes for field in fields}
