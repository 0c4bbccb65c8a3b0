"""The log ring of Linux until 5.9: records one behind the other in a buffer, the oldest and the end told by indices.

Source: Linux 5.4, kernel/printk/printk.c. A record of length 0 says that the next one is at the front of the buffer.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from dumpwriter.linux.area import Area, unsigned
from dumpwriter.linux.log_record import LogRecord
from vdisk.errors import FormatError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from dumpwriter.linux.address_space import AddressSpace
    from dumpwriter.linux.vmcoreinfo import Vmcoreinfo

BUFFER_BYTES_MAX = 1 << 27
_HEADER_BYTES = range(12, 257)


class _Header(NamedTuple):
    """struct printk_log, as VMCOREINFO describes it."""

    size_bytes: int
    ts_nsec: int
    len: int
    text_len: int


def read_legacy_log(space: AddressSpace, info: Vmcoreinfo) -> Iterator[LogRecord]:
    """Records from the oldest on. Raises `FormatError` where the ring is damaged, behind what stands before that."""
    names = ("ts_nsec", "len", "text_len")
    header = _Header(info.sizes["printk_log"], *(info.offsets[f"printk_log.{name}"] for name in names))
    if header.size_bytes not in _HEADER_BYTES:
        raise FormatError(f"headers of {header.size_bytes} bytes are none of a log ring")
    index, end, length_bytes = (
        int.from_bytes(space.read(info.symbols[name], 4), "little")
        for name in ("log_first_idx", "log_next_idx", "log_buf_len")
    )
    if not header.size_bytes <= length_bytes <= BUFFER_BYTES_MAX:
        raise FormatError(f"a log ring of {length_bytes} bytes is none of Linux")
    ring = Area(space, space.read_word(info.symbols["log_buf"]), length_bytes)
    return _records(ring, header, index, end)


def _records(ring: Area, header: _Header, first: int, end: int) -> Iterator[LogRecord]:
    if first <= end:
        yield from _stretch(ring, header, first, end)
    else:
        yield from _stretch(ring, header, first, ring.length_bytes)
        yield from _stretch(ring, header, 0, end)


def _stretch(ring: Area, header: _Header, index: int, end: int) -> Iterator[LogRecord]:
    """Records up to an index, or up to the empty one before the end of the buffer. Each is further on than the last."""
    while index != end:
        content = ring.read(index, header.size_bytes)
        length_bytes = unsigned(content, header.len, 2)
        if not length_bytes and end == ring.length_bytes:
            return
        text_bytes = unsigned(content, header.text_len, 2)
        if not header.size_bytes + text_bytes <= length_bytes <= end - index:
            raise FormatError(f"the log ring is damaged: a record of {length_bytes} bytes at {index}")
        yield LogRecord(unsigned(content, header.ts_nsec, 8), ring.read(index + header.size_bytes, text_bytes))
        index += length_bytes
