"""Reads a LiME file from its description alone; imports nothing of the product."""

from __future__ import annotations

import struct

PAGE = 4096


def lime_pages(content: bytes) -> dict[int, bytes]:
    """The content of every page by its number."""
    pages: dict[int, bytes] = {}
    position = 0
    while position < len(content):
        magic, version, start, last = struct.unpack_from("<IIQQ8x", content, position)
        if (magic, version) != (0x4C694D45, 1):
            raise ValueError(f"no header at {position}")
        position += 32
        for address in range(start, last + 1, PAGE):
            pages[address // PAGE] = content[position : position + PAGE]
            position += PAGE
    return pages
