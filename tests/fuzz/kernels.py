"""Edited memories of a simulated kernel: its VMCOREINFO, page tables, log and page descriptors, read as of a dump."""

from __future__ import annotations

from contextlib import closing
from functools import cache
from typing import NamedTuple

from dumpwriter.formats.region import PageRun
from dumpwriter.linux.address_space import kernel_address_space
from dumpwriter.linux.kernel_log import read_kernel_log
from dumpwriter.linux.levels import PageFilter
from dumpwriter.linux.vmcoreinfo import find_vmcoreinfo
from dumpwriter.memory import kernel
from dumpwriter.memory.simulated import SimulatedMemory
from tests.dumpreading import must_be_one_line
from tests.fuzz.edits import edited
from tests.fuzz.seeds import Seed
from tests.linux_memory import PAGE
from vdisk.errors import FormatError, PageMissingError

MEMORY_BYTES = 16 << 20
RECORDS_READ = 1000
PLACES_IN_PAGE = 768  # a page has more bytes than are worth a change


class Machine(NamedTuple):
    """The pages that a kernel's readers look at, and the seed: its notes and those pages, one behind the other."""

    pages: dict[int, bytes]
    told_pages: tuple[int, ...]
    notes_bytes: int
    seed: Seed


class EditedMemory(NamedTuple):
    pages: dict[int, bytes]

    @property
    def page_count(self) -> int:
        return len(self.pages)

    def read_physical(self, address: int, length_bytes: int) -> bytes:
        first, last = address // PAGE, (address + length_bytes - 1) // PAGE
        if last - first > MEMORY_BYTES // PAGE:
            raise PageMissingError(f"no {length_bytes} bytes at {address:#x}")
        try:
            content = b"".join(self.pages[page] for page in range(first, last + 1))
        except KeyError:
            raise PageMissingError(f"no page at {address:#x}") from None
        return content[address % PAGE :][:length_bytes]


@cache
def machine() -> Machine:
    with closing(SimulatedMemory(MEMORY_BYTES)) as simulated:
        simulated.log("one line\nand another")
        simulated.bugcheck(0xE2, (1, 2, 3, 4), "crash on request")
        content, notes = simulated.memory.read(0, MEMORY_BYTES), simulated.memory.read_notes()
    pages = {page: content[page * PAGE : (page + 1) * PAGE] for page in range(MEMORY_BYTES // PAGE)}
    layout = kernel.KernelMap(MEMORY_BYTES)
    told = (
        *(kernel.UTS_NAMESPACE // PAGE + number for number in range(4)),
        *(kernel.TOP_TABLE // PAGE + number for number in range(5)),
        layout.page_descriptors // PAGE,
    )
    told = tuple(dict.fromkeys(told))
    whole = notes + b"".join(pages[page] for page in told)
    places = list(range(len(notes)))
    for number, page in enumerate(told):
        start = len(notes) + number * PAGE
        used = [at for at in range(PAGE) if any(pages[page][max(at - 7, 0) : at + 8])]
        places += [start + at for at in used[:PLACES_IN_PAGE]]
    return Machine(pages, told, len(notes), Seed(whole, tuple(places)))


def edited_kernel(program: bytes) -> None:
    """The first byte is the level; the log is read and the pages are judged, or one line says why not."""
    base = machine()
    content = edited((base.seed,), program).ljust(len(base.seed.content), b"\0")
    notes, rest = content[: base.notes_bytes], content[base.notes_bytes :]
    pages = base.pages | {page: rest[at * PAGE : (at + 1) * PAGE] for at, page in enumerate(base.told_pages)}
    for look in (read_log, judge_pages):
        try:
            look(EditedMemory(pages), notes, program[0] % 32 if program else 31)
        except FormatError as error:
            must_be_one_line(error)


def read_log(memory: EditedMemory, notes: bytes, level: int) -> None:
    info = find_vmcoreinfo(notes)
    if info is not None:
        for _, record in zip(
            range(RECORDS_READ), read_kernel_log(kernel_address_space(memory, info), info), strict=False
        ):
            assert all(line.isprintable() or "\t" in line for line in record.lines())


def judge_pages(memory: EditedMemory, notes: bytes, level: int) -> None:
    runs = (PageRun(0, MEMORY_BYTES // PAGE),)
    position = 0
    for first_page, page_count in PageFilter(runs, memory, find_vmcoreinfo(notes), level).excluded():
        assert position <= first_page < first_page + page_count <= MEMORY_BYTES // PAGE
        position = first_page + page_count
