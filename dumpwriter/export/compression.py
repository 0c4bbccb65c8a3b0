"""The ways to compress a page that readers of kdump files know. One page is one stream of its own."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import lzallright
import zstandard
from isal import isal_zlib

from dumpwriter.export.kdump_format import Flag

Compress = Callable[[memoryview], bytes | memoryview]

_ZLIB_LEVEL = 1  # of isal: three quarters of the size that level 0 gives, still faster than zlib's fastest
_ZSTD_LEVEL = 1


class Compression(NamedTuple):
    """`compressor` makes a function for one thread at a time: some keep memory between pages."""

    flag: Flag
    compressor: Callable[[], Compress]


def _zlib() -> Compress:
    return lambda page: isal_zlib.compress(page, _ZLIB_LEVEL)


def _lzo() -> Compress:
    return lzallright.LZOCompressor().compress


def _zstd() -> Compress:
    return zstandard.ZstdCompressor(level=_ZSTD_LEVEL, write_checksum=True).compress  # as every zlib stream has


def _none() -> Compress:
    return lambda page: page


COMPRESSIONS = {
    "zlib": Compression(Flag.ZLIB, _zlib),
    "lzo": Compression(Flag.LZO, _lzo),
    "zstd": Compression(Flag.ZSTD, _zstd),
    "none": Compression(Flag.RAW, _none),
}
