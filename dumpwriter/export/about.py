"""What a dump's header says of the machine and its crash, beside what the memory itself tells."""

from __future__ import annotations

from typing import NamedTuple

from dumpwriter.export.notes import NT_PRSTATUS, parse_notes, vmcoreinfo_number, vmcoreinfo_value, why_unreadable

NOT_KNOWN = b"(none)"  # as the kernel itself calls a name that nobody gave


def _names(release: bytes) -> tuple[bytes, bytes, bytes, bytes, bytes, bytes]:
    return b"Linux", NOT_KNOWN, release, NOT_KNOWN, b"x86_64", NOT_KNOWN


class VirtualRange(NamedTuple):
    """Physical memory that the kernel sees in one piece from a virtual address on. In bytes, of whole pages."""

    physical_bytes: int
    length_bytes: int
    virtual_bytes: int


class About(NamedTuple):
    """Made by the caller from what it knows; a format takes what it has a field for. Zero is: not known.

    `system_names` are the six of uname(2): system, node, release, version, machine, domain; libkdumpfile tells the
    architecture of a kdump file by them, and believes none of them where one is empty. `page_table_root` is the
    physical address of the kernel's top page table. `dump_level` is makedumpfile's, of what was left out on purpose.
    `virtual_ranges` are ascending and share no physical address: of two mappings, the one that readers look for.
    """

    crash_seconds: int = 0
    system_names: tuple[bytes, bytes, bytes, bytes, bytes, bytes] = _names(NOT_KNOWN)
    cpu_count: int = 1
    page_table_root: int = 0
    bugcheck_code: int = 0
    bugcheck_parameters: tuple[int, int, int, int] = (0, 0, 0, 0)
    dump_level: int = 0
    virtual_ranges: tuple[VirtualRange, ...] = ()

    @classmethod
    def of_notes(cls, notes: bytes) -> About:
        """What the notes of a Linux machine tell; nothing where they do not parse."""
        if why_unreadable(notes):
            return cls()
        release = vmcoreinfo_value(notes, b"OSRELEASE") or NOT_KNOWN
        return cls(
            crash_seconds=max(vmcoreinfo_number(notes, b"CRASHTIME"), 0),
            system_names=_names(release),
            cpu_count=max(1, sum(note.type == NT_PRSTATUS for note in parse_notes(notes))),
        )
