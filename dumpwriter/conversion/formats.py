"""The formats that a dump can be written in, and what whoever chooses one must know. Light: it imports nothing."""

from __future__ import annotations

from typing import NamedTuple


class Format(NamedTuple):
    """What a format is to whoever chooses it."""

    file: str  # its name in a directory of crashes
    is_stream: bool = False  # pages in ascending order make a file from front to end
    is_unordered: bool = False  # pages in any order do
    is_compressed: bool = False
    tells_missing: bool = True  # a reader can tell a missing page from one of zeros


FORMATS = {
    "elf": Format("vmcore", is_stream=True),
    "kdump": Format("vmcore.kdump", is_compressed=True),
    "kdump-flattened": Format("vmcore.kdump-flattened", is_stream=True, is_unordered=True, is_compressed=True),
    "windows": Format("memory.dmp", is_stream=True),
    "windows-bitmap": Format("memory.dmp", is_stream=True),
    "lime": Format("memory.lime", is_stream=True),
    "raw": Format("memory.raw", is_stream=True, tells_missing=False),
}
DEFAULT_FORMAT = "elf"

COMPRESSION_NAMES = ("zlib", "lzo", "zstd", "none")
DEFAULT_COMPRESSION = "zlib"  # every build of every reader knows it
