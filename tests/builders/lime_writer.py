"""Writes LiME files, good and bad, from LiME's own description of them; imports nothing of the product."""

from __future__ import annotations

import struct
from dataclasses import dataclass

HEADER_BYTES = 32


@dataclass
class LimeRange:
    """One range. What is not said follows from the content."""

    start: int
    content: bytes
    last: int | None = None
    magic: bytes = b"EMiL"
    version: int = 1

    def build(self) -> bytes:
        last = self.start + len(self.content) - 1 if self.last is None else self.last
        return struct.pack("<4sIQQ8x", self.magic, self.version, self.start, last) + self.content
