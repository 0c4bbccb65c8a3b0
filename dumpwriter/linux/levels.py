"""makedumpfile's dump levels: which pages of a memory `-d 0` to `-d 31` leave out, exactly.

The numbers are sums: 1 pages of zeros, 2 cache, 4 cache with private data, 8 user, 16 free. Zero pages are told by
their content; makedumpfile keeps them in a kdump-compressed file, as one page that all of them share. The rest is told
by the kernel's page descriptors. Where one speaks for a block of pages, all of the block is left out, and what the
descriptors within it say is not asked.

What Linux does not use is left out at every level: memory behind all that it describes, such as firmware below 4 GiB;
and, where descriptors are looked at, poisoned and offline pages. A kernel that names PG_hwpoison has them looked at at
level 0, too: to read a poisoned page may be the machine's end.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from dumpwriter.formats.region import PAGE_SIZE_BYTES, PageRun
from dumpwriter.linux.address_space import kernel_address_space
from dumpwriter.linux.page_descriptors import (
    described_end,
    descriptor_size,
    find_memory_model,
    read_descriptors,
    stretches,
)
from dumpwriter.linux.page_rules import Left, Level, PageRules, Verdicts
from vdisk.errors import FormatError, UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    from dumpwriter.linux.address_space import AddressSpace
    from dumpwriter.linux.page_descriptors import MemoryModel, Stretch
    from dumpwriter.linux.physical import PageReader
    from dumpwriter.linux.vmcoreinfo import Vmcoreinfo

LEVELS = range(32)
CHUNK_PAGES = 1 << 15


class Judged(NamedTuple):
    """Consecutive pages, and why each is left out."""

    first_page: int
    left: NDArray[np.uint8]


class PageFilter:
    """The pages that a level leaves out of a memory, of which `memory` are the page runs, ascending and disjoint.

    FormatError where the dump does not tell what its pages hold, and the level asks for it. Pages whose descriptors
    cannot be read are kept; `undescribed` counts them once `judge` is through.
    """

    def __init__(self, memory: Sequence[PageRun], reader: PageReader, info: Vmcoreinfo | None, level: int) -> None:
        if level not in LEVELS:
            raise UsageError(f"{level} is no dump level: give a number from 0 to {LEVELS.stop - 1}")
        asks_for_descriptors = bool(Level(level) & ~Level.ZERO)
        if info is None and asks_for_descriptors:
            raise FormatError(f"level {level} needs VMCOREINFO to tell what pages hold: without it, 0 and 1 work")
        self.undescribed = 0
        self._reason = ""
        self._memory = memory
        self._kernel: _Kernel | None = None
        if info is not None:
            try:
                self._kernel = _look_at(memory, reader, info, Level(level))
            except FormatError:
                if asks_for_descriptors:
                    raise

    def excluded(self) -> Iterator[PageRun]:
        """The pages that are left out, ascending; runs may touch."""
        for first_page, left in self.judge():
            edges = np.flatnonzero(np.diff(np.pad(left != Left.KEPT, 1).astype(np.int8)))
            for start, end in edges.reshape(-1, 2).tolist():
                yield PageRun(first_page + start, end - start)

    def judge(self) -> Iterator[Judged]:
        """Every page of memory once, ascending; nothing where nothing is known of the pages.

        FormatError where descriptors are looked at, and not one of them could be read.
        """
        if self._kernel is None:
            return
        block, page_count = _Block(Left.KEPT, 0), 0
        for stretch, pages in stretches(self._kernel.model, self._memory, CHUNK_PAGES):
            if pages.start >= self._kernel.end_page:
                yield Judged(pages.start, np.full(len(pages), Left.BEYOND, np.uint8))
                continue
            left, block = _spread(self._verdicts(self._kernel, stretch, pages), pages.start, block)
            page_count += len(pages)
            yield Judged(pages.start, left)
        if page_count and self.undescribed == page_count:
            raise FormatError(f"no page descriptor can be read: {self._reason}")

    def _verdicts(self, kernel: _Kernel, stretch: Stretch, pages: range) -> Verdicts:
        if kernel.rules is None or stretch.origin is None:
            self.undescribed += len(pages) if kernel.rules else 0
            return Verdicts(np.zeros(len(pages), np.uint8), np.zeros(len(pages), np.int64))
        reading = read_descriptors(kernel.space, stretch.origin, stretch.end_page, pages, kernel.rules.layout)
        self.undescribed += reading.unread
        self._reason = reading.reason or self._reason
        return kernel.rules.judge(reading.rows, pages.start)


class _Kernel(NamedTuple):
    """What a kernel tells of its pages: where their descriptors are, and what they mean where a level asks for it."""

    space: AddressSpace
    model: MemoryModel
    end_page: int
    rules: PageRules | None


def _look_at(memory: Sequence[PageRun], reader: PageReader, info: Vmcoreinfo, level: Level) -> _Kernel:
    _check_size(memory, reader, info)
    space = kernel_address_space(reader, info)
    end_page = memory[-1].first_page + memory[-1].page_count if memory else 0
    model = find_memory_model(space, info, end_page)
    asks_for_descriptors = level & ~Level.ZERO or "PG_hwpoison" in info.numbers
    rules = PageRules(info, level) if asks_for_descriptors else None
    described = described_end(model, memory)
    return _Kernel(space, model, end_page if described is None else described, rules)


def _check_size(memory: Sequence[PageRun], reader: PageReader, info: Vmcoreinfo) -> None:
    """Descriptors lie in memory themselves. So a file cannot claim more pages than it takes the time to look at."""
    page_count = sum(run.page_count for run in memory)
    if page_count * descriptor_size(info) > reader.page_count * PAGE_SIZE_BYTES:
        raise FormatError(f"the {reader.page_count} pages in the dump cannot hold the descriptors of {page_count}")


class _Block(NamedTuple):
    """Pages up to `end_page` that are left out together, for the same reason."""

    left: int
    end_page: int


def _spread(verdicts: Verdicts, first_page: int, block: _Block) -> tuple[NDArray[np.uint8], _Block]:
    """What is said of a block's first page holds for all of it, also where the block ends behind these pages."""
    left = verdicts.left
    heads = np.flatnonzero((left != Left.KEPT) & (verdicts.orders > 0))
    left[: max(block.end_page - first_page, 0)] = block.left
    for head, order, reason in zip(heads.tolist(), verdicts.orders[heads].tolist(), left[heads].tolist(), strict=True):
        if first_page + head >= block.end_page:
            block = _Block(reason, first_page + head + (1 << order))
            left[head : block.end_page - first_page] = reason
    return left, block


def zero_pages(content: memoryview) -> NDArray[np.bool_]:
    """Which of these whole pages hold nothing but zeros."""
    words = np.frombuffer(content, np.uint64).reshape(-1, PAGE_SIZE_BYTES // 8)
    return np.asarray(words.max(axis=1) == 0)
