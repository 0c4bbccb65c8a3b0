"""The memory of other processes, read and written through /proc/PID/mem: how damage is done for real."""

from __future__ import annotations

import os
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root may write to another process's memory")


@contextmanager
def memory_of(pid: int) -> Iterator[int]:
    """A descriptor; offsets in it are addresses."""
    descriptor = os.open(f"/proc/{pid}/mem", os.O_RDWR)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def read(pid: int, address: int, size_bytes: int) -> bytes:
    with memory_of(pid) as descriptor:
        return os.pread(descriptor, size_bytes, address)


def write(pid: int, address: int, content: bytes) -> None:
    with memory_of(pid) as descriptor:
        assert os.pwrite(descriptor, content, address) == len(content)


def flip(pid: int, address: int) -> None:
    """One bit of the byte at an address."""
    write(pid, address, bytes([read(pid, address, 1)[0] ^ 4]))


def find(pid: int, content: bytes) -> list[int]:
    """Every address at which a process has these bytes in memory that it may write."""
    found = []
    with open(f"/proc/{pid}/maps") as maps, memory_of(pid) as descriptor:
        for line in maps:
            span, mode, *_ = line.split()
            if not mode.startswith("rw"):
                continue
            start, end = (int(number, 16) for number in span.split("-"))
            piece = os.pread(descriptor, end - start, start)
            place = piece.find(content)
            while place >= 0:
                found.append(start + place)
                place = piece.find(content, place + 1)
    return found
