"""VMCOREINFO: what a Linux kernel tells of itself, so that it is understood without its debug information.

Lines of text in a note of that name: `SYMBOL(name)=` and an address in hexadecimal; `SIZE`, `OFFSET`, `NUMBER` and
`LENGTH` of a name, in decimal or with a prefix; and keys that stand alone. Source: Linux,
Documentation/admin-guide/kdump/vmcoreinfo.rst. A dump can carry any text there: no value is larger than 64 bits, and
whoever asks for one that is not there gets a `FormatError`.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from dumpwriter.export.notes import VMCOREINFO_NAME, parse_notes
from vdisk.errors import FormatError

TEXT_BYTES_MAX = 1 << 20
_NAMED = re.compile(r"(SYMBOL|SIZE|OFFSET|NUMBER|LENGTH)\(([\w.]+)\)=(.*)")
_VALUES = range(-1 << 63, 1 << 64)
_ADDRESS_MASK = (1 << 64) - 1
_PAGE_SIZE_BYTES = 4096


class Table(dict[str, int]):
    """Values of one kind by name; a name that is not there is a `FormatError`."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind

    def __missing__(self, name: str) -> int:
        raise FormatError(f"VMCOREINFO has no {self.kind}({name})")


class Vmcoreinfo(NamedTuple):
    """The tables, and `keys` for the lines that name nothing: OSRELEASE, PAGESIZE, CRASHTIME, BUILD-ID, …"""

    symbols: Table
    sizes: Table
    offsets: Table
    numbers: Table
    lengths: Table
    keys: dict[str, str]

    @property
    def release(self) -> str | None:
        return self.keys.get("OSRELEASE")

    @property
    def kernel_version(self) -> tuple[int, int, int]:
        """Version, patch level and sub-level of the release."""
        found = re.match(r"(\d{1,4})\.(\d{1,4})(?:\.(\d{1,4}))?", self.release or "")
        if found is None:
            raise FormatError("VMCOREINFO has no OSRELEASE with the version of a kernel")
        return int(found[1]), int(found[2]), int(found[3] or 0)

    @property
    def crash_seconds(self) -> int | None:
        """When the kernel crashed, in seconds since 1970; None where it did not say so."""
        return _number(self.keys["CRASHTIME"]) if "CRASHTIME" in self.keys else None

    @property
    def kernel_offset_bytes(self) -> int:
        """How far the kernel image was moved from where it was linked (KASLR)."""
        return _number(self.keys.get("KERNELOFFSET", "0"), base=16)

    @property
    def physical_base(self) -> int:
        """What to add to an address's distance from the start of the kernel text map. May be negative."""
        base = self.numbers.get("phys_base", 0)
        return base - (1 << 64) if base >> 63 == 1 else base

    def symbol_at(self, address: int, distance_max: int) -> tuple[str, int] | None:
        """The nearest symbol at or before an address, and how far behind it the address lies."""
        distances = ((address - value & _ADDRESS_MASK, name) for name, value in self.symbols.items())
        nearest = min((found for found in distances if found[0] <= distance_max), default=None)
        return (nearest[1], nearest[0]) if nearest else None


def parse_vmcoreinfo(text: bytes) -> Vmcoreinfo:
    """Raises `FormatError` for a value that is no number of 64 bits, and for pages of another size than 4096 bytes."""
    if len(text) > TEXT_BYTES_MAX:
        raise FormatError(f"VMCOREINFO of {len(text)} bytes: no kernel writes more than a page or two")
    info = Vmcoreinfo(Table("SYMBOL"), Table("SIZE"), Table("OFFSET"), Table("NUMBER"), Table("LENGTH"), {})
    tables = {table.kind: table for table in info[:5]}
    for line in text.rstrip(b"\0").decode(errors="replace").split("\n"):
        if named := _NAMED.fullmatch(line):
            kind, name, value = named.groups()
            tables[kind][name] = _number(value, base=16 if kind == "SYMBOL" else 0)
        elif "=" in line:
            key, _, value = line.partition("=")
            info.keys[key] = value
    if _number(info.keys.get("PAGESIZE", str(_PAGE_SIZE_BYTES))) != _PAGE_SIZE_BYTES:
        raise FormatError(f"pages of {info.keys['PAGESIZE']} bytes are not those of x86-64")
    return info


def find_vmcoreinfo(notes: bytes) -> Vmcoreinfo | None:
    """Of the content of a PT_NOTE segment; None where no note has that name. Raises `FormatError`."""
    texts = (note.content for note in parse_notes(notes) if note.name == VMCOREINFO_NAME)
    text = next(texts, None)
    return None if text is None else parse_vmcoreinfo(text)


def _number(text: str, base: int = 10) -> int:
    try:
        number = int(text, base)
    except ValueError:
        number = None
    if number is None or number not in _VALUES:
        raise FormatError(f"VMCOREINFO says {text[:32]!r} where a number of 64 bits is due")
    return number
