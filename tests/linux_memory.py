"""Memories for the tests of what reads a Linux kernel: simulated machines, and pages that a test writes itself."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dumpwriter.linux.address_space import AddressSpace, kernel_address_space
from dumpwriter.linux.vmcoreinfo import Vmcoreinfo, find_vmcoreinfo
from vdisk.errors import PageMissingError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from dumpwriter.memory.physical import PhysicalMemory

PAGE = 4096


class SimulatedReader:
    """A simulated machine's memory, without some of its pages."""

    def __init__(self, memory: PhysicalMemory, missing: Iterable[int] = ()) -> None:
        self.memory = memory
        self.missing = frozenset(missing)

    @property
    def page_count(self) -> int:
        return self.memory.size_bytes // PAGE - len(self.missing)

    def read_physical(self, address: int, length_bytes: int) -> bytes:
        touched = range(address // PAGE, (address + length_bytes - 1) // PAGE + 1)
        if not self.missing.isdisjoint(touched) or address + length_bytes > self.memory.size_bytes:
            raise PageMissingError(f"no page at {address:#x}")
        return self.memory.read(address, length_bytes)


class SparseReader:
    """The pages that a test has written, and no others."""

    def __init__(self) -> None:
        self.pages: dict[int, bytearray] = {}
        self.reads = 0

    @property
    def page_count(self) -> int:
        return len(self.pages)

    def write(self, address: int, content: bytes) -> None:
        for position, byte in enumerate(content, address):
            self.pages.setdefault(position // PAGE, bytearray(PAGE))[position % PAGE] = byte

    def write_word(self, address: int, word: int) -> None:
        self.write(address, word.to_bytes(8, "little"))

    def read_physical(self, address: int, length_bytes: int) -> bytes:
        self.reads += 1
        content = bytearray()
        while len(content) < length_bytes:
            page, inside = divmod(address + len(content), PAGE)
            if page not in self.pages:
                raise PageMissingError(f"no page at {page * PAGE:#x}")
            content += self.pages[page][inside : inside + length_bytes - len(content)]
        return bytes(content)


def kernel_of(memory: PhysicalMemory, missing: Iterable[int] = ()) -> tuple[AddressSpace, Vmcoreinfo]:
    """The kernel's address space in a simulated memory, and its VMCOREINFO."""
    info = find_vmcoreinfo(memory.read_notes())
    assert info is not None
    return kernel_address_space(SimulatedReader(memory, missing), info), info
