"""What holds of every dump that a reader opens, whatever the bytes of its file; and a file of bytes to read it from."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

import pytest

from dumpwriter.dumpfile.file import File, Span
from vdisk.errors import FormatError, GhostdumpError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from dumpwriter.dumpfile.dump import Dump
    from dumpwriter.formats.region import PageRun

PAGE = 4096
LARGEST_READ_BYTES = 8 << 20
RUNS_READ = 300
PAGES_READ = 16


class BytesFile(File):
    """Bytes as a file. Whole blocks of zeros are its holes; a reader that asks for too much at once has failed."""

    def __init__(self, content: bytes) -> None:
        super().__init__(len(content))
        self.content = content

    def read(self, offset_bytes: int, length_bytes: int) -> bytes:
        assert length_bytes <= LARGEST_READ_BYTES or offset_bytes + length_bytes > self.size_bytes
        return super().read(offset_bytes, length_bytes)

    def _fill(self, offset_bytes: int, buffer: memoryview) -> None:
        buffer[:] = self.content[offset_bytes : offset_bytes + buffer.nbytes]

    def data_spans(self, offset_bytes: int, length_bytes: int) -> Iterator[Span]:
        end = offset_bytes + length_bytes
        for block in range(offset_bytes - offset_bytes % PAGE, end, PAGE):
            if any(self.content[block : block + PAGE]):
                start = max(block, offset_bytes)
                yield Span(start, min(block + PAGE, end) - start)


def read_pages(dump: Dump, first_page: int, page_count: int) -> bytes:
    content = bytearray(page_count * PAGE)
    dump.read_into(first_page, memoryview(content))
    return bytes(content)


def all_pages(dump: Dump) -> dict[int, bytes]:
    """Every present page by its number."""
    found = {}
    for first_page, page_count in dump.contents.present:
        content = read_pages(dump, first_page, page_count)
        found.update({first_page + page: content[page * PAGE : (page + 1) * PAGE] for page in range(page_count)})
    return found


def must_be_sound(dump: Dump) -> None:
    """Runs in order, zeros that are zeros, and of the first pages either the bytes or a declared error."""
    present, memory = list(dump.contents.present), list(dump.contents.memory)
    must_be_runs(present)
    must_be_runs(memory)
    assert joined(sorted([*present, *memory])) == memory
    told = list(itertools.islice(dump.runs(), RUNS_READ))
    if len(told) < RUNS_READ:
        assert joined([(run.first_page, run.page_count) for run in told]) == present
    for run in told:
        assert not (run.is_zero and any(read_or_refuse(dump, run.first_page, min(run.page_count, PAGES_READ))))
    for first_page, _ in present[:3]:
        with pytest.raises(ValueError, match="not all present"):
            read_pages(dump, first_page - 1, 1)


def read_or_refuse(dump: Dump, first_page: int, page_count: int) -> bytes:
    try:
        return read_pages(dump, first_page, page_count)
    except FormatError as error:
        must_be_one_line(error)
        return b""


def must_be_runs(runs: list[PageRun]) -> None:
    """Ascending, not empty, not touching, and of memory that can be."""
    end = -1
    for first_page, page_count in runs:
        assert end < first_page
        assert page_count > 0
        end = first_page + page_count
    assert end <= 1 << 40


def joined(runs: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    """What runs in ascending order cover; those that touch or overlap become one."""
    found: list[tuple[int, int]] = []
    for first_page, page_count in runs:
        start, end = first_page, first_page + page_count
        if found and start <= sum(found[-1]):
            start, count = found.pop()
            end = max(end, start + count)
        found.append((start, end - start))
    return found


def must_be_one_line(error: GhostdumpError) -> None:
    assert str(error)
    assert "\n" not in str(error)


def open_or_refuse(open_format: Callable[[File], Dump], content: bytes) -> Dump | None:
    """A sound dump, or None where the bytes are refused with one line."""
    try:
        dump = open_format(BytesFile(content))
    except FormatError as error:
        must_be_one_line(error)
        return None
    must_be_sound(dump)
    return dump
