"""Writes ELF64 cores, good and bad, from elf(5) alone; imports nothing of the product."""

from __future__ import annotations

import struct
from dataclasses import dataclass, field

LOAD, NOTE = 1, 4


@dataclass
class Piece:
    """One segment. What is not said follows from the content; what is said is written, true or not."""

    physical: int
    content: bytes
    kind: int = LOAD
    virtual: int | None = None
    offset: int | None = None
    in_file: int | None = None
    in_memory: int | None = None


@dataclass
class ElfCoreBuilder:
    pieces: list[Piece] = field(default_factory=list)
    ident: bytes = b"\x7fELF\x02\x01\x01".ljust(16, b"\0")
    kind: int = 4
    machine: int = 62
    entry_size: int = 56
    header_count: int | None = None
    extended_count: int | None = None
    flags: int = 0

    def build(self) -> bytes:
        headers_end = 64 + 56 * len(self.pieces) + 64
        bodies, headers, position = [], [], headers_end
        for piece in self.pieces:
            headers.append(self._program_header(piece, position))
            bodies.append(piece.content)
            position += len(piece.content)
        section = struct.pack("<10I", *[0] * 10) + struct.pack("<II", 0, self.extended_count or 0) + bytes(16)
        return self._header(headers_end - 64) + b"".join(headers) + section + b"".join(bodies)

    def _header(self, section_at: int) -> bytes:
        count = len(self.pieces) if self.header_count is None else self.header_count
        fields = (self.kind, self.machine, 1, 0, 64, section_at, self.flags, 64, self.entry_size, count, 64, 1, 0)
        return self.ident + struct.pack("<HHIQQQIHHHHHH", *fields)

    def _program_header(self, piece: Piece, position: int) -> bytes:
        size = len(piece.content) if piece.in_file is None else piece.in_file
        in_memory = size if piece.in_memory is None else piece.in_memory
        offset = position if piece.offset is None else piece.offset
        virtual = piece.physical if piece.virtual is None else piece.virtual
        return struct.pack("<IIQQQQQQ", piece.kind, 7, offset, virtual, piece.physical, size, in_memory, 0)


def note(name: bytes, kind: int, content: bytes) -> bytes:
    """One note, as readelf would show it."""
    padded_name = (name + b"\0").ljust((len(name) + 4) // 4 * 4, b"\0")
    return struct.pack("<III", len(name) + 1, len(content), kind) + padded_name + content + bytes(-len(content) % 4)
