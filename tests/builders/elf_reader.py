"""Reads an ELF64 core. Written from elf(5) alone; imports nothing of the product."""

from __future__ import annotations

import struct
from typing import NamedTuple


class Load(NamedTuple):
    offset: int
    virtual: int
    physical: int
    in_file: int
    in_memory: int
    alignment: int


class CoreNote(NamedTuple):
    name: bytes
    kind: int
    content: bytes


class ElfCoreFile:
    """A core file in memory."""

    def __init__(self, content: bytes) -> None:
        self.content = content
        if content[:16] != b"\x7fELF\x02\x01\x01" + bytes(9):
            raise ValueError("not a 64-bit little-endian ELF file")
        fields = struct.unpack_from("<HHIQQQIHHHHHH", content, 16)
        self.kind, self.machine, _, self.entry, self.program_headers_at, section_headers_at, self.flags = fields[:7]
        header_size, entry_size, self.header_count, section_size, section_count, _ = fields[7:]
        if (header_size, entry_size) != (64, 56):
            raise ValueError(f"header sizes {header_size} and {entry_size}")
        if self.header_count == 0xFFFF:
            if (section_size, section_count) != (64, 1):
                raise ValueError(f"{section_count} section headers of {section_size} bytes")
            (self.header_count,) = struct.unpack_from("<I", content, section_headers_at + 44)
        self.loads: list[Load] = []
        self._note_places: list[tuple[int, int]] = []
        self._read_program_headers()

    def _read_program_headers(self) -> None:
        for index in range(self.header_count):
            kind, _, offset, virtual, physical, in_file, in_memory, alignment = struct.unpack_from(
                "<IIQQQQQQ", self.content, self.program_headers_at + index * 56
            )
            if offset + in_file > len(self.content):
                raise ValueError(f"segment {index} leaves the file")
            if kind == 1:
                self.loads.append(Load(offset, virtual, physical, in_file, in_memory, alignment))
            elif kind == 4:
                self._note_places.append((offset, in_file))

    def notes(self) -> list[CoreNote]:
        found = []
        for start, size in self._note_places:
            position, end = start, start + size
            while position < end:
                name_size, content_size, kind = struct.unpack_from("<III", self.content, position)
                name_at = position + 12
                content_at = name_at + (name_size + 3) // 4 * 4
                name = self.content[name_at : name_at + name_size]
                found.append(CoreNote(name.rstrip(b"\0"), kind, self.content[content_at : content_at + content_size]))
                position = content_at + (content_size + 3) // 4 * 4
        return found

    def bytes_of(self, load: Load) -> bytes:
        return self.content[load.offset : load.offset + load.in_file]

    def read(self, physical: int, size: int) -> bytes:
        """Bytes that follow each other in memory, whether or not one segment holds them all."""
        found = b""
        for load in sorted(self.loads, key=lambda load: load.physical):
            inside = physical + len(found) - load.physical
            if 0 <= inside < load.in_file:
                count = min(load.in_file - inside, size - len(found))
                found += self.content[load.offset + inside : load.offset + inside + count]
        if len(found) < size:
            raise ValueError(f"{size} bytes at {physical:#x} are not in the core")
        return found

    def pages(self) -> set[int]:
        """The numbers of the pages that are present."""
        return {
            page for load in self.loads for page in range(load.physical // 4096, (load.physical + load.in_file) // 4096)
        }
