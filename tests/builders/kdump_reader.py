"""Reads which pages a kdump-compressed file holds. Written from makedumpfile's format notes; imports nothing of the
product."""

from __future__ import annotations

import struct


def dumped_pages(content: bytes) -> set[int]:
    """The numbers of the pages in the second bitmap, the one of what was written."""
    if content[:8] != b"KDUMP   ":
        raise ValueError("not a kdump-compressed file")
    _, block_size, sub_header_blocks, bitmap_blocks = struct.unpack_from("<IiiI", content, 424)
    start = (1 + sub_header_blocks + bitmap_blocks // 2) * block_size
    bitmap = content[start : start + bitmap_blocks // 2 * block_size]
    return {byte * 8 + bit for byte, value in enumerate(bitmap) if value for bit in range(8) if value >> bit & 1}
