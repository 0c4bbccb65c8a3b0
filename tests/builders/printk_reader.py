"""Reads a legacy printk ring as dmesg tools do: from VMCOREINFO and memory alone. Imports nothing of the product."""

from __future__ import annotations

import re
import struct
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable

TEXT_MAP = 0xFFFFFFFF80000000


class LogLine(NamedTuple):
    ts_nsec: int
    level: int
    text: str


def read_log(read: Callable[[int, int], bytes], vmcoreinfo: str) -> list[LogLine]:
    """All records, oldest first; ValueError where the ring is not one."""
    symbols = {name: int(value, 16) - TEXT_MAP for name, value in re.findall(r"SYMBOL\((\w+)\)=(\w+)", vmcoreinfo)}
    (address,) = struct.unpack("<Q", read(symbols["log_buf"], 8))
    size, index, end = (
        struct.unpack("<I", read(symbols[name], 4))[0] for name in ("log_buf_len", "log_first_idx", "log_next_idx")
    )
    ring = read(address - TEXT_MAP, size)
    lines: list[LogLine] = []
    while index != end:
        ts_nsec, length, text_length, dict_length, _, flags_level = struct.unpack_from("<QHHHBB", ring, index)
        if length == 0:
            if index == 0:
                raise ValueError("an empty record at the front of the ring")
            index = 0
            continue
        if length % 8 or length < 16 + text_length + dict_length or index + length + 16 > size:
            raise ValueError(f"record of {length} bytes at {index}")
        text = ring[index + 16 : index + 16 + text_length]
        lines.append(LogLine(ts_nsec, flags_level >> 5, text.decode()))
        if len(lines) > size // 16:
            raise ValueError("the ring never ends")
        index += length
    return lines
