"""Declarations of the 64-bit ELF core format. Source: System V ABI, chapters 4 and 5; core(5); PN_XNUM: elf(5)."""

from __future__ import annotations

from typing import Annotated, NamedTuple

from vdisk.layout import Layout

MAGIC = b"\x7fELF"
IDENT = MAGIC + bytes([2, 1, 1]).ljust(12, b"\0")
"""64-bit, little-endian, version 1, System V."""

ET_CORE = 4
EM_X86_64 = 62
PT_LOAD = 1
PT_NOTE = 4
PF_RWX = 7
PN_XNUM = 0xFFFF
"""In e_phnum: the true number of program headers stands in sh_info of section header 0."""

DUMP_ELF_INCOMPLETE = 1
"""In e_flags: pages are missing. makedumpfile's own mark."""


class ElfHeader(NamedTuple):
    """Elf64_Ehdr."""

    e_ident: Annotated[bytes, "16s"]
    e_type: Annotated[int, "H"]
    e_machine: Annotated[int, "H"]
    e_version: Annotated[int, "I"]
    e_entry: Annotated[int, "Q"]
    e_phoff: Annotated[int, "Q"]
    e_shoff: Annotated[int, "Q"]
    e_flags: Annotated[int, "I"]
    e_ehsize: Annotated[int, "H"]
    e_phentsize: Annotated[int, "H"]
    e_phnum: Annotated[int, "H"]
    e_shentsize: Annotated[int, "H"]
    e_shnum: Annotated[int, "H"]
    e_shstrndx: Annotated[int, "H"]


class ProgramHeader(NamedTuple):
    """Elf64_Phdr."""

    p_type: Annotated[int, "I"]
    p_flags: Annotated[int, "I"]
    p_offset: Annotated[int, "Q"]
    p_vaddr: Annotated[int, "Q"]
    p_paddr: Annotated[int, "Q"]
    p_filesz: Annotated[int, "Q"]
    p_memsz: Annotated[int, "Q"]
    p_align: Annotated[int, "Q"]


class SectionHeader(NamedTuple):
    """Elf64_Shdr."""

    sh_name: Annotated[int, "I"] = 0
    sh_type: Annotated[int, "I"] = 0
    sh_flags: Annotated[int, "Q"] = 0
    sh_addr: Annotated[int, "Q"] = 0
    sh_offset: Annotated[int, "Q"] = 0
    sh_size: Annotated[int, "Q"] = 0
    sh_link: Annotated[int, "I"] = 0
    sh_info: Annotated[int, "I"] = 0
    sh_addralign: Annotated[int, "Q"] = 0
    sh_entsize: Annotated[int, "Q"] = 0


ELF_HEADER = Layout(ElfHeader, size_bytes=64)
PROGRAM_HEADER = Layout(ProgramHeader, size_bytes=56)
SECTION_HEADER = Layout(SectionHeader, size_bytes=64)
