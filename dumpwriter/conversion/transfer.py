"""The pages of a dump on their way into a file: prepared ahead by threads, taken in order, in bounded memory."""

from __future__ import annotations

import threading
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

import numpy

from dumpwriter.conversion.ahead import Ahead
from dumpwriter.formats.region import PAGE_SIZE_BYTES, PageRun

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from dumpwriter.conversion.outputs import Output
    from dumpwriter.dumpfile.dump import Dump, DumpRun
    from dumpwriter.export.export import Export, Piece, Prepared

BATCH_PAGES = 1024  # 4 MiB: a system call and a change of threads cost little beside it
BATCH_RUNS_MAX = 4096  # runs of zeros take no page of a batch


class Batch(NamedTuple):
    """Runs that follow each other, and in their order, what the export made of those that are not zeros."""

    runs: list[DumpRun]
    prepared: list[Prepared]


def transfer(
    dump: Dump, runs: Iterable[DumpRun], export: Export, output: Output, progress: Callable[[int], None]
) -> None:
    """Write the whole file. `runs` are ascending and present in the dump; progress is told in pages.

    Raises what the dump and the output raise.
    """
    output.begin(export.begin())
    done_pages = 0
    for batch in _read_ahead(dump, runs, export):
        prepared = iter(batch.prepared)
        for run in batch.runs:
            _write(export.zeros(_pages(run)) if run.is_zero else export.data(next(prepared)), output)
            done_pages += run.page_count
        progress(done_pages)
    _write(export.finish(), output)
    output.finish(export.size_bytes)


def _write(pieces: Iterable[Piece], output: Output) -> None:
    for piece in pieces:
        output.write(piece)


def _read_ahead(dump: Dump, runs: Iterable[DumpRun], export: Export) -> Iterator[Batch]:
    """The batches in order, a few of them in the hands of threads."""
    lock = threading.Lock()

    def make(batch: list[DumpRun]) -> Batch:
        with lock:  # a reader has tables and caches, and is one thread's at a time
            contents = _read(dump, batch)
        return Batch(batch, [export.prepare(first_page, content) for first_page, content in contents])

    with Ahead[Batch]() as ahead:
        for batch in _batches(runs):
            yield from ahead.ask(partial(make, batch))
        yield from ahead.rest()


def _read(dump: Dump, batch: list[DumpRun]) -> list[tuple[int, memoryview]]:
    """The pages of the runs that are not zeros, each run with its first page."""
    pages = sum(run.page_count for run in batch if not run.is_zero)
    rest = numpy.empty(pages * PAGE_SIZE_BYTES, numpy.uint8).data
    contents = []
    for run in batch:
        if not run.is_zero:
            length_bytes = run.page_count * PAGE_SIZE_BYTES
            dump.read_into(run.first_page, rest[:length_bytes])
            contents.append((run.first_page, rest[:length_bytes]))
            rest = rest[length_bytes:]
    return contents


def _batches(runs: Iterable[DumpRun]) -> Iterator[list[DumpRun]]:
    batch: list[DumpRun] = []
    room = BATCH_PAGES
    for run in _cut(runs):
        pages = 0 if run.is_zero else run.page_count
        if pages > room or len(batch) == BATCH_RUNS_MAX:
            yield batch
            batch, room = [], BATCH_PAGES
        batch.append(run)
        room -= pages
    if batch:
        yield batch


def _cut(runs: Iterable[DumpRun]) -> Iterator[DumpRun]:
    """The runs, and those that hold data in pieces of a batch's size at the most."""
    for run in runs:
        length = run.page_count if run.is_zero else BATCH_PAGES
        for done in range(0, run.page_count, length):
            yield run._replace(first_page=run.first_page + done, page_count=min(length, run.page_count - done))


def _pages(run: DumpRun) -> PageRun:
    return PageRun(run.first_page, run.page_count)
