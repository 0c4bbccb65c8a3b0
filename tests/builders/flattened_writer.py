"""Writes makedumpfile's flattened files, good and bad, from its own description; imports nothing of the product."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

END = struct.pack(">qq", -1, -1)


def flattened(
    records: Iterable[tuple[int, bytes]], *, end: bytes = END, kind: int = 1, version: int = 1, size: int | None = None
) -> bytes:
    """Records of (place, bytes); `size` is told of each instead of its own."""
    header = struct.pack(">16sqq", b"makedumpfile", kind, version).ljust(4096, b"\0")
    told = (struct.pack(">qq", at, len(part) if size is None else size) + part for at, part in records)
    return header + b"".join(told) + end


def cut_up(content: bytes, piece: int) -> list[tuple[int, bytes]]:
    """A file as records of one size."""
    return [(at, content[at : at + piece]) for at in range(0, len(content), piece)]
