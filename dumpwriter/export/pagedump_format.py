"""Declarations of the 64-bit Windows crash dump. Sources: the Windows SDK (CONTEXT); the structure files of volatility3
(crash64, crash_common); kdmp-parser's description. What no source names is zero.

    0         header, two pages
    0x2000    in a bitmap dump: its own header, then one bit for each page of the address space, the lowest first
    then      the pages that are there, in ascending order, from a page boundary on
"""

from __future__ import annotations

from enum import IntEnum
from typing import Annotated, NamedTuple

from vdisk.layout import Layout

SIGNATURE = b"PAGEDU64"
HEADER_SIZE_BYTES = 0x2000
BITMAP_SIGNATURE = b"FDMPDUMP"
MAJOR_VERSION = 15
MACHINE_AMD64 = 0x8664
RUNS_MAX = 42
FILETIME_OF_EPOCH = 116_444_736_000_000_000
"""1970 in units of 100 ns since 1601."""
UNITS_PER_SECOND = 10_000_000
CONTEXT_FLAGS = 0x10_0007
"""AMD64, with control, integer and segment registers."""


class DumpType(IntEnum):
    """What follows the header: all of the runs that it names, or a bitmap that names the pages."""

    FULL = 1
    BITMAP = 5


class PhysicalRun(NamedTuple):
    """PHYSICAL_MEMORY_RUN64."""

    first_page: Annotated[int, "Q"]
    page_count: Annotated[int, "Q"]


class Context(NamedTuple):
    """CONTEXT of x64, up to the instruction pointer."""

    homes: Annotated[bytes, "48s"] = b""
    context_flags: Annotated[int, "I"] = CONTEXT_FLAGS
    mxcsr: Annotated[int, "I"] = 0
    cs: Annotated[int, "H"] = 0
    ds: Annotated[int, "H"] = 0
    es: Annotated[int, "H"] = 0
    fs: Annotated[int, "H"] = 0
    gs: Annotated[int, "H"] = 0
    ss: Annotated[int, "H"] = 0
    rflags: Annotated[int, "I"] = 0
    debug_registers: Annotated[bytes, "48s"] = b""
    rax: Annotated[int, "Q"] = 0
    rcx: Annotated[int, "Q"] = 0
    rdx: Annotated[int, "Q"] = 0
    rbx: Annotated[int, "Q"] = 0
    rsp: Annotated[int, "Q"] = 0
    rbp: Annotated[int, "Q"] = 0
    rsi: Annotated[int, "Q"] = 0
    rdi: Annotated[int, "Q"] = 0
    r8: Annotated[int, "Q"] = 0
    r9: Annotated[int, "Q"] = 0
    r10: Annotated[int, "Q"] = 0
    r11: Annotated[int, "Q"] = 0
    r12: Annotated[int, "Q"] = 0
    r13: Annotated[int, "Q"] = 0
    r14: Annotated[int, "Q"] = 0
    r15: Annotated[int, "Q"] = 0
    rip: Annotated[int, "Q"] = 0


class DumpHeader(NamedTuple):
    """DUMP_HEADER64. `physical_runs` has room for 42; times are in 100 ns."""

    signature: Annotated[bytes, "8s"]
    major_version: Annotated[int, "I"]
    minor_version: Annotated[int, "I"]
    directory_table_base: Annotated[int, "Q"]
    pfn_database: Annotated[int, "Q"]
    loaded_module_list: Annotated[int, "Q"]
    active_process_head: Annotated[int, "Q"]
    machine_type: Annotated[int, "I"]
    processor_count: Annotated[int, "I"]
    bugcheck_code: Annotated[int, "I"]
    padding_1: Annotated[bytes, "4s"]
    bugcheck_parameter_1: Annotated[int, "Q"]
    bugcheck_parameter_2: Annotated[int, "Q"]
    bugcheck_parameter_3: Annotated[int, "Q"]
    bugcheck_parameter_4: Annotated[int, "Q"]
    user_version: Annotated[bytes, "32s"]
    debugger_data: Annotated[int, "Q"]
    run_count: Annotated[int, "I"]
    padding_2: Annotated[bytes, "4s"]
    page_count: Annotated[int, "Q"]
    physical_runs: Annotated[bytes, "672s"]
    padding_3: Annotated[bytes, "16s"]
    context: Annotated[bytes, "3000s"]
    exception: Annotated[bytes, "152s"]
    dump_type: Annotated[int, "I"]
    padding_4: Annotated[bytes, "4s"]
    required_dump_space: Annotated[int, "Q"]
    system_time: Annotated[int, "Q"]
    comment: Annotated[bytes, "128s"]
    system_up_time: Annotated[int, "Q"]
    rest: Annotated[bytes, "4040s"]


class BitmapHeader(NamedTuple):
    """In front of the bitmap. `bitmap_pages` is how many bits it has."""

    signature: Annotated[bytes, "8s"]
    unknown: Annotated[bytes, "24s"]
    first_page_offset_bytes: Annotated[int, "Q"]
    present_pages: Annotated[int, "Q"]
    bitmap_pages: Annotated[int, "Q"]


PHYSICAL_RUN = Layout(PhysicalRun, size_bytes=16)
CONTEXT = Layout(Context, size_bytes=0x100)
DUMP_HEADER = Layout(DumpHeader, size_bytes=HEADER_SIZE_BYTES)
BITMAP_HEADER = Layout(BitmapHeader, size_bytes=0x38)
