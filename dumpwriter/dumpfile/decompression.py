"""Stored pages made whole again. What a page unpacks to never takes more room than is known before it is unpacked."""

from __future__ import annotations

from typing import TYPE_CHECKING

import lzallright
import zstandard
from isal import isal_zlib

from dumpwriter.export.kdump_format import Flag
from dumpwriter.formats.region import PAGE_SIZE_BYTES
from vdisk.errors import FormatError

if TYPE_CHECKING:
    from collections.abc import Callable

STORED_SIZE_BYTES_MAX = 2 * PAGE_SIZE_BYTES
"""No compressor makes more of a page: what does not shrink is stored as it is. LZO makes 2 MiB of so much at most."""

_ISAL_ERROR: type[Exception] = isal_zlib.error  # type: ignore[assignment]  # its stub says an instance
_LIBRARY_ERRORS = (_ISAL_ERROR, lzallright.LZOError, zstandard.ZstdError)


def unpack(stored: memoryview, flags: int) -> bytes:
    """One page. FormatError where it is damaged, or compressed in a way that is not read here."""
    decompress = _DECOMPRESSORS.get(flags)
    if decompress is None:
        raise FormatError(f"a page is compressed in a way that is not read here ({flags:#x})")
    try:
        page = decompress(stored)
    except _LIBRARY_ERRORS:
        raise FormatError("a compressed page is damaged") from None
    if len(page) != PAGE_SIZE_BYTES:
        raise FormatError(f"a page unpacks to {len(page)} bytes")
    return page


def _zlib(stored: memoryview) -> bytes:
    page: bytes = isal_zlib.decompressobj().decompress(stored, PAGE_SIZE_BYTES + 1)
    return page


def _lzo(stored: memoryview) -> bytes:
    return lzallright.LZOCompressor.decompress(stored, PAGE_SIZE_BYTES)


def _zstd(stored: memoryview) -> bytes:
    """The library makes room for what the frame says of itself before it looks at the rest."""
    if zstandard.frame_content_size(stored) > PAGE_SIZE_BYTES:
        raise FormatError("a compressed page claims to be larger than a page")
    return zstandard.ZstdDecompressor().decompress(stored, PAGE_SIZE_BYTES)


_DECOMPRESSORS: dict[int, Callable[[memoryview], bytes]] = {
    Flag.RAW: bytes,
    Flag.ZLIB: _zlib,
    Flag.LZO: _lzo,
    Flag.ZSTD: _zstd,
}
